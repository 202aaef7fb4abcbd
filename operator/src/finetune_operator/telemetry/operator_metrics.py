"""The operator's own metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
    PASSES.labels(_result)  # rate() needs a zero to start from.
for _result in ("ok", "failed"):
    POLLS.labels(_result)
