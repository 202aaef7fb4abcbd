"""The ConfigMaps of attempts and checks. Pure."""

from __future__ import annotations

from finetune_api.messages import Limits
from finetune_api.messages.layout import LIMITS_FILE, RUN_FILE

from finetune_operator.manifests.child import Manifest, child_metadata, hashed
from finetune_operator.names import PREFLIGHT_LABEL, limits_name, preflight_run_name, run_name
from finetune_operator.observed.job import JobView


def run_map(job: JobView, number: int, text: str) -> Manifest:
    """The immutable ConfigMap with the run configuration of an attempt."""
    return _immutable(child_metadata(job, run_name(job.name, job.uid, number), number), text)


def preflight_map(job: JobView, check: str, text: str) -> Manifest:
    """The immutable ConfigMap with the run configuration that a check judges; `check` is the name of its Job."""
    labels = {PREFLIGHT_LABEL: str(job.generation)}
    return _immutable(child_metadata(job, preflight_run_name(check, job.uid), more_labels=labels), text)


def _immutable(metadata: Manifest, text: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "immutable": True, "metadata": metadata, "data": {RUN_FILE: text}}


def limits_map(job: JobView, number: int, limits: Limits) -> Manifest:
    """The ConfigMap with what may change while a trainer runs."""
    return hashed({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": child_metadata(job, limits_name(job.name, job.uid, number), number),
        "data": {LIMITS_FILE: limits.model_dump_json(exclude_none=True)},
    })
