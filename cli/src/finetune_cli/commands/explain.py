"""`finetune explain`: what a field of the job means."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

import click
from finetune_api import ExitCode, FineTuneJob
from finetune_api.experiment.resource import FineTuneExperiment
from finetune_api.explain.fields import FieldDoc, document_field, model_at
from pydantic import BaseModel
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from finetune_cli.errors import CommandFailed

_MOST_PATHS = 5


@click.command()
@click.argument("field", default="")
def explain(field: str) -> None:
    """Explain FIELD of a FineTuneJob, such as training.batchSize or spec.method; nothing explains the whole job.

    fte.FIELD explains a field of a FineTuneExperiment, such as fte.sweep.random; fte alone explains all of it.
    """
    kind, _, below = field.partition(".")
    resource = _OTHER_RESOURCES.get(kind.lower(), FineTuneJob)
    field = field if resource is FineTuneJob else below
    path = full_path(field, resource)
    try:
        document = document_field(resource, path)
    except KeyError as error:
        elsewhere = _paths_like(field, resource) if path.count(".") == 1 else []
        message = f"no field {path}; did you mean {' or '.join(elsewhere)}?" if elsewhere else error.args[0]
        raise CommandFailed(message, ExitCode.BAD_CONFIG) from error
    Console(highlight=False).print(Group(*_page(document, resource)))


_OTHER_RESOURCES: dict[str, type[BaseModel]] = dict.fromkeys(("fte", "finetuneexperiment"), FineTuneExperiment)
"""Resources beside the job, by the names that a path may begin with, in lower case."""


def full_path(field: str, resource: type[BaseModel]) -> str:
    """The path from the root of the resource: the first part may be left out where it is `spec`."""
    first = field.partition(".")[0]
    at_root = {info.alias or name for name, info in resource.model_fields.items()}
    return field if not field or first in at_root else f"spec.{field}"


def _paths_like(field: str, resource: type[BaseModel]) -> list[str]:
    """The full paths of fields with the name of `field`, or nearly so; at most five, the shortest of the spec first."""
    name = field.rpartition(".")[2].lower()
    names: dict[str, list[str]] = {}
    for path in _paths(resource, resource, ""):
        names.setdefault(path.rpartition(".")[2].lower(), []).append(path)
    close = [name] if name in names else difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    paths = names[close[0]] if close else []
    return sorted(paths, key=lambda path: (not path.startswith("spec."), path.count(".")))[:_MOST_PATHS]


def _paths(resource: type[BaseModel], model: type[BaseModel], prefix: str) -> Iterator[str]:
    """The paths of every field below a model of a resource."""
    for name, info in model.model_fields.items():
        path = f"{prefix}{info.alias or name}"
        yield path
        below = model_at(resource, path.split("."))
        if below is not None:
            yield from _paths(resource, below, f"{path}.")


def _page(document: FieldDoc, resource: type[BaseModel]) -> Iterator[RenderableType]:
    yield Text.assemble((document.path or resource.__name__, "bold"), "  ", (document.type, "cyan"))
    yield Text()
    yield Padding(Text(document.description), (0, 0, 0, 2))
    facts = [("Needed", "yes" if document.required and document.path else ""),
             ("Default", document.default or ""),
             ("Values", ", ".join(document.choices)),
             ("Limits", document.limits or "")]
    if any(value for _, value in facts):
        yield Text()
        yield from (Text.assemble((f"  {name + ':':9}", "bold"), value) for name, value in facts if value)
    if document.fields:
        yield Text("\nFields", "bold")
    for below in document.fields:
        yield Text.assemble("  ", (below.path.rpartition(".")[2], "bold"), "  ", (below.type, "cyan"),
                            "  needed" if below.required else f"  default {below.default}" if below.default else "")
        yield Padding(Text(below.description), (0, 0, 0, 6))
