"""What Prometheus sees of the operator and of every job."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from finetune_api.status import ConditionStatus, ConditionType, Phase
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_operator.observed.objects import time_of

REGISTRY = CollectorRegistry()

REQUESTS = Counter("finetune_operator_api_requests", "Requests to the apiserver, by method and HTTP status; of a 401 "
                   "or 403, by what refused it: authorization (the operator's role) or admission (a quota, a policy).",
                   ("method", "status", "refused_by"), registry=REGISTRY)
PASSES = Counter("finetune_operator_reconciles", "Passes over a job, by result (ok, conflict, error, and refused: what "
                 "the job needs is not taken, which its condition says).", ("result",), registry=REGISTRY)
PASS_SECONDS = Histogram("finetune_operator_reconcile_seconds", "Time of one pass over a job, requests included.",
                         registry=REGISTRY)
WAIT_SECONDS = Histogram("finetune_operator_queue_wait_seconds", "Time from a job's becoming due to its pass.",
                         registry=REGISTRY)
QUEUED = Gauge("finetune_operator_queue_jobs", "Jobs that wait for a pass.", registry=REGISTRY)
POLLS = Counter("finetune_operator_polls", "Readings of trainers' progress, by result (ok, failed).", ("result",),
                registry=REGISTRY)
UNREADABLE = Counter("finetune_operator_unreadable_objects", "Times that something was passed over, for it is no "
                     "object of Kubernetes.", registry=REGISTRY)
STATUS_REFUSALS = Counter("finetune_operator_status_refusals", "Statuses that the apiserver did not take as they were.",
                          registry=REGISTRY)
LEADER = Gauge("finetune_operator_leader", "1 while this replica leads.", registry=REGISTRY)
for _result in ("ok", "conflict", "refused", "error"):
    PASSES.labels(_result)  # A rate needs a zero to start from.
for _result in ("ok", "failed"):
    POLLS.labels(_result)

_JOB = ("namespace", "job")
_ONE_JOB = (*_JOB, "uid")
"""A job that is made again under its name is another one, and its failure another failure."""

_FINISHED = (Phase.SUCCEEDED, Phase.FAILED)
_SERIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("finetune_job_loss_nats", "Training loss of the last step, in nats per answer token.",
     ("status", "progress", "loss")),
    ("finetune_job_step", "Optimizer steps done.", ("status", "progress", "step")),
    ("finetune_job_total_steps", "Optimizer steps to do.", ("status", "progress", "totalSteps")),
    ("finetune_job_tokens_per_second", "Tokens trained on per second.", ("status", "progress", "tokensPerSecond")),
    ("finetune_job_cost_spent", "Money spent on accelerators, in the job's currency.", ("status", "cost", "spent")),
    ("finetune_job_cost_limit", "Most that the job may spend (budget.maxCost), in its currency.",
     ("spec", "budget", "maxCost")),
    ("finetune_job_peak_memory_bytes", "Peak memory of one accelerator.", ("status", "memory", "peakBytes")),
)


class JobCollector(Collector):
    """The jobs' series, made from their status at every scrape: they are gone with the job."""

    def __init__(self, jobs: Callable[[], Iterable[Any]]) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The jobs by phase, and each one's figures."""
        jobs = list(self._jobs())
        phases = Tally((job.get("status") or {}).get("phase", Phase.PENDING) for job in jobs)
        by_phase = GaugeMetricFamily("finetune_jobs", "Jobs, by phase.", labels=("phase",))
        for phase in Phase:
            by_phase.add_metric((phase,), phases.get(phase, 0))
        yield by_phase
        about = GaugeMetricFamily("finetune_job_info", "1 for each job, with its phase and why it is there.",
                                  labels=(*_ONE_JOB, "phase", "reason"))
        completed = GaugeMetricFamily("finetune_job_completion_timestamp_seconds", "When the job was done, in seconds "
                                      "since 1970.", labels=_ONE_JOB)
        refused = GaugeMetricFamily("finetune_job_refused", "1 while the job can't be run as it is written.",
                                    labels=_JOB)
        for job in jobs:
            names = (job["metadata"]["namespace"], job["metadata"]["name"])
            one_job = (*names, job["metadata"]["uid"])
            status = job.get("status") or {}
            told = {one["type"]: one for one in status.get("conditions") or ()}
            reason = told.get(ConditionType.PROGRESSING, {}).get("reason", "")
            about.add_metric((*one_job, status.get("phase", Phase.PENDING), reason), 1)
            with suppress(TypeError, ValueError, OverflowError):  # Likewise one that is no time.
                if done := time_of(status.get("completionTime")):
                    completed.add_metric(one_job, done.timestamp())
            if status.get("phase") not in _FINISHED:
                valid = told.get(ConditionType.VALIDATED, {}).get("status")
                refused.add_metric(names, int(valid == ConditionStatus.FALSE))
        yield about
        yield refused
        yield completed
        for name, text, path in _SERIES:
            family = GaugeMetricFamily(name, text, labels=_JOB)
            for job in jobs:
                value: Any = job
                for key in path:
                    value = value.get(key) if isinstance(value, dict) else None
                with suppress(TypeError, ValueError, OverflowError):  # One that is no number is that job's alone.
                    family.add_metric((job["metadata"]["namespace"], job["metadata"]["name"]), float(value))
            yield family
