"""The reference of the metrics, from the collectors of operator and trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from finetune_api.experiment.resource import EXPERIMENT_KIND
from finetune_operator.telemetry.experiment_metrics import ExperimentCollector
from finetune_operator.telemetry.metrics import REGISTRY, JobCollector
from finetune_trainer.progress.server import Metrics
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

_HEAD = """\
# Metrics

Generated from finetune_operator and finetune_trainer by `make generate`; edit the collectors instead.

[Monitoring](../how-to/monitoring.md) installs the scrapes, the alerts and the dashboard. [Alerts](alerts.md) has
the cause and the cure of each alert.
"""
_JOB = {
    "metadata": {"namespace": "team", "name": "job", "uid": "1", "ownerReferences": [
        {"kind": EXPERIMENT_KIND, "name": "compare", "uid": "1", "controller": True}]},
    "spec": {"budget": {"maxCost": "1"}},
    "status": {
        "phase": "Running", "completionTime": "2026-01-01T00:00:00Z", "conditions": [],
        "progress": {"step": 1, "totalSteps": 2, "loss": 1.0, "tokensPerSecond": 1.0},
        "cost": {"spent": "1"}, "memory": {"peakBytes": 1},
    },
}
"""A job whose status has every value that becomes a series."""

_EXPERIMENT = {
    "metadata": {"namespace": "team", "name": "compare", "uid": "1"}, "spec": {"budget": {"maxCost": "1"}},
    "status": {"phase": "Running", "conditions": [], "cost": {"spent": "1"}},
}
"""An experiment that has every value."""


def metrics_page() -> str:
    """Every metric: its name, type, labels and meaning."""
    return "\n".join([
        _HEAD,
        "## Jobs, from the operator", "",
        "The operator makes them from the jobs at every scrape. A series ends with its job.", "",
        *_table(_of_objects(JobCollector(lambda: [_JOB]))),
        "## Experiments, from the operator", "",
        *_table(_of_objects(ExperimentCollector(lambda: [_EXPERIMENT]))),
        "## The operator", "", *_table(_registered(REGISTRY)),
        "## The trainer", "",
        "Each trainer serves them at the port `settings.trainerPort`, and `finetune run --port N` on this machine.", "",
        *_table(_registered(Metrics("team", "job").registry)),
    ]).rstrip() + "\n"


def _table(rows: Iterable[tuple[str, str, str, str]]) -> Iterator[str]:
    yield from ("| metric | type | labels | meaning |", "|---|---|---|---|")
    for name, kind, labels, meaning in rows:
        yield f"| `{name}` | {kind} | {labels} | {meaning} |"
    yield ""


def _labels(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _of_objects(collector: Collector) -> Iterator[tuple[str, str, str, str]]:
    for family in collector.collect():
        if not family.samples:
            raise LookupError(f"{family.name} has no sample: give the example the value that it is made from")
        yield family.name, family.type, _labels(family.samples[0].labels), family.documentation


def _registered(registry: CollectorRegistry) -> Iterator[tuple[str, str, str, str]]:
    # A metric without children tells its labels to nobody but itself.
    for metric in registry._collector_to_names:
        if isinstance(metric, MetricWrapperBase):
            name = f"{metric._name}_total" if metric._type == "counter" else metric._name
            yield name, metric._type or "", _labels(metric._labelnames), metric._documentation
