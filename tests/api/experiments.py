"""Experiments as plain data, and as YAML with their lines."""

from __future__ import annotations

from typing import Any

import yaml
from finetune_api.experiment.reading import Experiment, parse_experiment_text
from finetune_api.reading.loading import InvalidJob
from finetune_api.rules import SMALLEST_SPEC, merge_patch

SMALLEST_EXPERIMENT: dict[str, Any] = {
    "template": {"spec": SMALLEST_SPEC}, "variants": [{"name": "only"}], "rankBy": {"metric": "loss"}}


def experiment_document(name: str = "compare", **sections: Any) -> dict[str, Any]:
    """The smallest experiment, with merge patches on its sections."""
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneExperiment", "metadata": {"name": name},
            "spec": merge_patch(SMALLEST_EXPERIMENT, sections)}


def experiment(name: str = "compare", **sections: Any) -> Experiment:
    """The same, read from YAML."""
    return parse_experiment_text(yaml.safe_dump(experiment_document(name, **sections), sort_keys=False))


def experiment_errors(text: str) -> list[str]:
    """The errors of an experiment's YAML, as they are shown."""
    try:
        parse_experiment_text(text)
    except InvalidJob as invalid:
        return [str(error) for error in invalid.errors]
    return []


def errors_with(**sections: Any) -> list[str]:
    """The errors of the smallest experiment with merge patches on its sections."""
    return experiment_errors(yaml.safe_dump(experiment_document(**sections), sort_keys=False))
