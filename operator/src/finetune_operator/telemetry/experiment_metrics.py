"""The series of every experiment, made from the experiment itself at every scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from finetune_api.experiment.status import ENDED_PHASES, ExperimentPhase
from finetune_api.status import ConditionStatus, ConditionType
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_EXPERIMENT = ("namespace", "experiment")
_WRONG_TYPE = (TypeError, ValueError, OverflowError)
"""Somebody may have written a value of another type. It must not hide the other experiments."""


class ExperimentCollector(Collector):
    """The experiments' series. They vanish with the experiment."""

    def __init__(self, experiments: Callable[[], Iterable[Any]]) -> None:
        self._experiments = experiments

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The series of each experiment."""
        info = GaugeMetricFamily(
            "finetune_experiment_info", "1 for each experiment, with its phase and the reason for it.",
            labels=(*_EXPERIMENT, "uid", "phase", "reason"))
        refused = GaugeMetricFamily(
            "finetune_experiment_refused", "1 while the experiment cannot run as its spec is.", labels=_EXPERIMENT)
        spent = GaugeMetricFamily(
            "finetune_experiment_cost_spent", "Money that all jobs of the experiment have spent, in its currency.",
            labels=_EXPERIMENT)
        limit = GaugeMetricFamily(
            "finetune_experiment_cost_limit", "Limit of the experiment's cost (budget.maxCost), in its currency.",
            labels=_EXPERIMENT)
        for raw in self._experiments():
            labels = raw["metadata"]["namespace"], raw["metadata"]["name"]
            status = raw.get("status") or {}
            conditions = {one["type"]: one for one in status.get("conditions") or ()}
            reason = conditions.get(ConditionType.PROGRESSING, {}).get("reason", "")
            info.add_metric((*labels, raw["metadata"]["uid"], status.get("phase", ExperimentPhase.PENDING), reason), 1)
            if status.get("phase") not in ENDED_PHASES:
                valid = conditions.get(ConditionType.VALIDATED, {}).get("status")
                refused.add_metric(labels, int(valid == ConditionStatus.FALSE))
            for family, tree, path in ((spent, status, ("cost", "spent")),
                                       (limit, raw.get("spec"), ("budget", "maxCost"))):
                value: Any = tree
                for key in path:
                    value = value.get(key) if isinstance(value, dict) else None
                with suppress(*_WRONG_TYPE):
                    family.add_metric(labels, float(value))
        yield from (info, refused, spent, limit)
