"""The metrics that the operator exports: its own, and those of every job, made from the job itself at every scrape."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from finetune_api.status import ConditionStatus, ConditionType, Phase
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_operator.observed.job import owner_of
from finetune_operator.observed.timestamps import time_of

REGISTRY = CollectorRegistry()

REQUESTS = Counter(
    "finetune_operator_api_requests",
    "Requests to the apiserver, by method and HTTP status; a 401 or 403 also by what refused it: authorization (the "
    "operator's role) or admission (a quota, a policy).",
    ("method", "status", "refused_by"), registry=REGISTRY)
PASSES = Counter(
    "finetune_operator_reconciles",
    "Passes over a job, by result: ok, conflict, error, or refused (a quota or a policy refuses what the job needs; "
    "the job's conditions quote it).",
    ("result",), registry=REGISTRY)
EXPERIMENT_PASSES = Counter(
    "finetune_operator_experiment_reconciles", "Passes over an experiment, by result, as for a job.", ("result",),
    registry=REGISTRY)
PASS_SECONDS = Histogram(
    "finetune_operator_reconcile_seconds", "Time of one pass over a job, with its requests.", registry=REGISTRY)
WAIT_SECONDS = Histogram(
    "finetune_operator_queue_wait_seconds", "Time that a job waits in the queue for its pass.", registry=REGISTRY)
QUEUED = Gauge("finetune_operator_queue_jobs", "Jobs that wait in the queue for a pass.", registry=REGISTRY)
POLLS = Counter(
    "finetune_operator_polls", "Requests for the progress of trainers, by result (ok, failed).", ("result",),
    registry=REGISTRY)
UNREADABLE = Counter(
    "finetune_operator_unreadable_objects",
    "Received values that were ignored because they are not Kubernetes objects.", registry=REGISTRY)
STATUS_REFUSALS = Counter(
    "finetune_operator_status_refusals", "Statuses that the apiserver refused in whole or in part.", registry=REGISTRY)
LEADER = Gauge("finetune_operator_leader", "1 while this replica leads.", registry=REGISTRY)
for _result in ("ok", "conflict", "refused", "error"):
    EXPERIMENT_PASSES.labels(_result)
    PASSES.labels(_result)  # rate() needs a zero to start from.
for _result in ("ok", "failed"):
    POLLS.labels(_result)

_JOB = ("namespace", "job")
_JOB_AND_UID = (*_JOB, "uid")
"""Labels that also tell a job from an earlier job of the same name."""

_FINISHED = (Phase.SUCCEEDED, Phase.FAILED)
_FIELDS: tuple[tuple[str, str, str], ...] = (
    ("finetune_job_loss_nats", "Training loss of the last step, in nats per answer token.", "status.progress.loss"),
    ("finetune_job_step", "Optimizer steps done.", "status.progress.step"),
    ("finetune_job_total_steps", "Optimizer steps of the whole training.", "status.progress.totalSteps"),
    ("finetune_job_tokens_per_second", "Training tokens per second.", "status.progress.tokensPerSecond"),
    ("finetune_job_cost_spent", "Money spent on accelerators, in the job's currency.", "status.cost.spent"),
    ("finetune_job_cost_limit", "Limit of the job's cost (budget.maxCost), in the job's currency.",
     "spec.budget.maxCost"),
    ("finetune_job_peak_memory_bytes", "Peak memory use of one accelerator.", "status.memory.peakBytes"),
)
"""Name, help text and field of each metric that shows one number of a job."""

_WRONG_TYPE = (TypeError, ValueError, OverflowError)
"""Somebody may have written a value of another type. It must not hide the other jobs."""


class JobCollector(Collector):
    """The jobs' series. They vanish with the job."""

    def __init__(self, jobs: Callable[[], Iterable[Any]]) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The number of jobs by phase, and the series of each job."""
        jobs = list(self._jobs())
        yield _by_phase(jobs)
        yield _info(jobs)
        yield _refused(jobs)
        yield _experiments(jobs)
        yield _completion_times(jobs)
        for name, text, path in _FIELDS:
            yield _field(jobs, name, text, path)


def _by_phase(jobs: Sequence[Any]) -> GaugeMetricFamily:
    counts = collections.Counter(_status(job).get("phase", Phase.PENDING) for job in jobs)
    family = GaugeMetricFamily("finetune_jobs", "Jobs, by phase.", labels=("phase",))
    for phase in Phase:
        family.add_metric((phase,), counts.get(phase, 0))
    return family


def _info(jobs: Sequence[Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily("finetune_job_info", "1 for each job, with its phase and the reason for it.",
                               labels=(*_JOB_AND_UID, "phase", "reason"))
    for job in jobs:
        reason = _condition(job, ConditionType.PROGRESSING).get("reason", "")
        family.add_metric((*_labels(job), job["metadata"]["uid"], _status(job).get("phase", Phase.PENDING), reason), 1)
    return family


def _refused(jobs: Sequence[Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily("finetune_job_refused", "1 while the job cannot run as its spec is.", labels=_JOB)
    for job in jobs:
        if _status(job).get("phase") not in _FINISHED:
            valid = _condition(job, ConditionType.VALIDATED).get("status")
            family.add_metric(_labels(job), int(valid == ConditionStatus.FALSE))
    return family


def _experiments(jobs: Sequence[Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily("finetune_job_experiment_info", "1 for each job that an experiment owns.",
                               labels=(*_JOB, "experiment"))
    for job in jobs:
        if (owner := owner_of(job)) is not None:
            family.add_metric((*_labels(job), owner.name), 1)
    return family


def _completion_times(jobs: Sequence[Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily("finetune_job_completion_timestamp_seconds",
                               "When the job ended, in seconds since 1970-01-01 UTC.", labels=_JOB_AND_UID)
    for job in jobs:
        with suppress(*_WRONG_TYPE):
            if completed := time_of(_status(job).get("completionTime")):
                family.add_metric((*_labels(job), job["metadata"]["uid"]), completed.timestamp())
    return family


def _field(jobs: Sequence[Any], name: str, text: str, path: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=_JOB)
    for job in jobs:
        value: Any = job
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        with suppress(*_WRONG_TYPE):
            family.add_metric(_labels(job), float(value))
    return family


def _labels(job: Any) -> tuple[str, str]:
    return job["metadata"]["namespace"], job["metadata"]["name"]


def _status(job: Any) -> dict[str, Any]:
    return job.get("status") or {}


def _condition(job: Any, kind: ConditionType) -> dict[str, Any]:
    return next((one for one in _status(job).get("conditions") or () if one["type"] == kind), {})
