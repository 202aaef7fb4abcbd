"""Reading a `FineTuneExperiment` from YAML: every error at once, each with its line and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.experiment.expansion import InvalidExperiment, Run, expand
from finetune_api.experiment.resource import EXPERIMENT_KIND, FineTuneExperiment
from finetune_api.experiment.rules import RULES
from finetune_api.reading.field_errors import FieldError, line_of
from finetune_api.reading.loading import InvalidJob, document_of, kinds, read_text, validated


@dataclass(frozen=True)
class Experiment:
    """An experiment with its jobs, all of them valid.

    Attributes:
        resource: the experiment.
        runs: its jobs, in the order in which they run.
        document: the experiment as plain data, as it was written.
    """

    resource: FineTuneExperiment
    runs: tuple[Run, ...]
    document: Mapping[str, Any]


def is_experiment(path: Path) -> bool:
    """Whether a YAML file holds an experiment.

    Raises:
        OSError: the file can't be read.
    """
    return EXPERIMENT_KIND in kinds(path)


def load_experiment(path: Path) -> Experiment:
    """Read the one `FineTuneExperiment` of a YAML file.

    Raises:
        InvalidJob: everything that is wrong with it and its variants.
        OSError: the file can't be read.
    """
    return parse_experiment_text(read_text(path), str(path))


def parse_experiment_text(text: str, origin: str = "input") -> Experiment:
    """Read the one `FineTuneExperiment` of a YAML text; documents of other kinds are passed over.

    Raises:
        InvalidJob: everything that is wrong with it and its variants.
    """
    document, lines = document_of(text, origin, EXPERIMENT_KIND)
    return parse_experiment(document, origin, lines)


def parse_experiment(document: Any, origin: str = "input", lines: Mapping[str, int] | None = None) -> Experiment:
    """Validate an experiment given as plain data, and each of its jobs.

    Raises:
        InvalidExperiment: everything that is wrong with it and its variants.
    """
    resource, errors = validated(FineTuneExperiment, document, RULES, lines or {})
    if errors or resource is None:
        raise InvalidExperiment(errors, origin)
    try:
        return Experiment(resource, expand(resource, document, origin), document)
    except InvalidJob as invalid:
        located = [_located(error, document, lines or {}) for error in invalid.errors]
        raise InvalidExperiment(sorted(located, key=lambda error: error.line or 0), origin) from invalid


def _located(error: FieldError, document: Mapping[str, Any], lines: Mapping[str, int]) -> FieldError:
    """An error with its line: in the patch of its variant, or in the template."""
    variant, _, path = error.path.removeprefix("variant ").partition(": spec.")
    if not path:
        return replace(error, line=line_of(error.path, lines))
    named = variant.partition(" ")[0]
    variants = document["spec"].get("variants") or ()
    index = next((number for number, one in enumerate(variants)
                  if named == one["name"] or named.startswith(f"{one['name']}-")), None)
    patch = f"spec.variants.{index}.patch"
    if index is not None and f"{patch}.{path.partition('.')[0]}" in lines:
        return replace(error, line=line_of(f"{patch}.{path}", lines))
    return replace(error, line=line_of(f"spec.template.spec.{path}", lines))
