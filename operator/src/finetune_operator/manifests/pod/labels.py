"""The labels of a job's pods. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def pod_labels(child_labels: Mapping[str, str]) -> dict[str, str]:
    """Labels of a pod: those of every child of the job, and the name of the program."""
    return {**child_labels, "app.kubernetes.io/name": "finetune-trainer"}
