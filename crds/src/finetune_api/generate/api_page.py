"""The API's reference in Markdown, made from the models' docstrings and the rules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from finetune_api.experiment.resource import FineTuneExperiment
from finetune_api.experiment.rules import RULES as EXPERIMENT_RULES
from finetune_api.experiment.status import ExperimentReason
from finetune_api.explain.fields import FieldDoc, document_field
from finetune_api.generate.enums import member_docs
from finetune_api.job import FineTuneJob
from finetune_api.rules import RULES, STORED_RULES

_EDITORS = (
    "`crds/finetune.schema.json` of the repository is a JSON Schema for jobs and experiments, also in one file with "
    "other objects. An editor with the YAML language server completes and checks fields with it, also those in the "
    "patches and sweeps of an experiment, if the first line of a file is this one, with the path from that file:",
    "",
    "    # yaml-language-server: $schema=crds/finetune.schema.json",
)


def reference() -> str:
    """Every field of a FineTuneJob, and the rules that join fields."""
    lines = ["# FineTuneJob (finetune.dev/v1alpha1)", "",
             "Generated from finetune_api by `make generate`; edit the models instead. `finetune explain FIELD` shows "
             "the same in a shell, `kubectl explain ftj.FIELD` in a cluster.", "", *_EDITORS, ""]
    for section in document_field(FineTuneJob, "").fields:
        if section.path in ("spec", "status"):
            lines += field_tables(FineTuneJob, document_field(FineTuneJob, section.path))
    lines += ["## Rules", "", "Beside the limits of single fields. The apiserver refuses what breaks one, and so does "
              "`finetune validate`; the last ones hold in a cluster only.", "", "| field | rule |", "|---|---|"]
    lines += [f"| `{rule.path}` | {_cell(rule.message)} |" for rule in (*RULES, *STORED_RULES)]
    return "\n".join(lines) + "\n"


def experiment_reference() -> str:
    """Every field of a FineTuneExperiment, and the rules that join fields. Those of its template are a job's."""
    lines = ["# FineTuneExperiment (finetune.dev/v1alpha1)", "",
             "Generated from finetune_api by `make generate`; edit the models instead. `finetune explain fte.FIELD` "
             "shows it in a shell, `kubectl explain fte.FIELD` in a cluster. [Compare methods and "
             "settings](../how-to/experiments.md) shows how it is used.", "", *_EDITORS, ""]
    for section in document_field(FineTuneExperiment, "").fields:
        if section.path in ("spec", "status"):
            lines += field_tables(FineTuneExperiment, document_field(FineTuneExperiment, section.path),
                                  elsewhere={"spec.template": "[FineTuneJob](api.md)"})
    lines += ["## Rules", "", "Beside the limits of single fields, and the rules of each job.", "", "| field | rule |",
              "|---|---|"]
    lines += [f"| `{rule.path}` | {_cell(rule.message)} |" for rule in EXPERIMENT_RULES]
    lines += ["", "## Reasons", "", "Of the conditions of an experiment, and of the rows of its jobs. A row of a job "
              "that runs or has ended has the [reason of the job](conditions.md).", "", "| reason | meaning |",
              "|---|---|"]
    lines += [f"| `{value}` | {_cell(meaning)} |" for value, meaning in member_docs(ExperimentReason)]
    return "\n".join(lines) + "\n"


def field_tables(model: type[BaseModel], section: FieldDoc, root: str = "",
                 elsewhere: Mapping[str, str] | None = None) -> Iterator[str]:
    """The lines of a section's heading and table, and after it those of the sections below it.

    Args:
        model: the model that the paths of the fields start from.
        section: the documentation of one of its sections.
        root: what stands before each path in the headings.
        elsewhere: where the fields of a section are described, by its path; they are not listed again.
    """
    heading = ".".join(filter(None, (root, section.path)))
    yield from (f"## {heading}", "", section.description, "", "| field | type | default | meaning |",
                "|---|---|---|---|")
    below = []
    for field in section.fields:
        name = field.path.rpartition(".")[2]
        choices = ", ".join(f"`{choice}`" for choice in field.choices)
        facts = [field.description, f"One of {choices}." if choices else "", _limits(field.limits)]
        default = "needed" if field.required else f"`{field.default}`" if field.default else ""
        if section.path in (elsewhere or {}):
            facts.append(f"Its fields are those of {(elsewhere or {})[section.path]}.")
        yield f"| `{name}` | {field.type} | {_cell(default)} | {_cell(' '.join(filter(None, facts)))} |"
        deep = document_field(model, field.path)
        if deep.fields and section.path not in (elsewhere or {}):
            below.append(deep)
    yield ""
    for deep in below:
        yield from field_tables(model, deep, root, elsewhere)


def _limits(words: str | None) -> str:
    """Limits as a sentence; a pattern as code, for Markdown would take parts of it for a link."""
    if not words:
        return ""
    limits = re.sub(r"of the form (.+)$", r"of the form `\1`", words)
    return f"{limits[0].upper()}{limits[1:]}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
