"""What the first release published is still read, and every name in it is still written.

`recorded/2026-11-26/published` was written by that release's own code: each message with all of its fields, a
metrics.jsonl, and the names of exit codes, outcomes, reasons, metrics and alerts.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from finetune_api.exit_codes import ExitCode
from finetune_api.messages import (
    CheckpointManifest,
    Limits,
    Manifest,
    Outcome,
    PreflightResult,
    PreflightVerdict,
    ProgressMessage,
    Result,
    Stage,
)
from finetune_api.reasons import Reason
from finetune_api.status import ConditionType, FineTuneJobStatus, Phase
from finetune_operator.telemetry import metrics
from finetune_operator.telemetry.metrics import JobCollector
from finetune_trainer.progress.metrics_log import MetricsLog
from finetune_trainer.progress.server import Metrics
from finetune_trainer.progress.state import StepReport
from prometheus_client import CollectorRegistry

from tests.api.recorded_files import FOLDER

RECORDED = FOLDER / "2026-11-26" / "published"
NAMES = json.loads((RECORDED / "names.json").read_text())
ALERTS = Path(__file__).parents[2] / "charts" / "finetune-operator" / "files" / "alerts.yaml"
MESSAGES: dict[str, Any] = {"limits": Limits, "progress": ProgressMessage, "result": Result,
                            "preflight_result": PreflightResult,
                            "checkpoint": CheckpointManifest, "manifest": Manifest, "status": FineTuneJobStatus}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_the_first_release_is_read_and_written_with_the_same_fields_and_values(name):
    text = (RECORDED / f"{name}.json").read_text()
    written = json.loads(MESSAGES[name].read(text).model_dump_json(exclude_none=True))
    assert _lost(json.loads(text), written) == []


def test_a_field_that_a_release_stops_reading_would_be_noticed():
    written = json.loads(Limits.read('{"maxCost": "20", "oldName": 1}').model_dump_json(exclude_none=True))
    assert _lost({"maxCost": "20", "oldName": 1}, written) == ["oldName"]


def _lost(recorded: Any, written: Any, path: str = "") -> list[str]:
    """The paths of what was recorded and is not written with the same value."""
    if isinstance(recorded, dict) and isinstance(written, dict):
        return [lost for key, value in recorded.items()
                for lost in (_lost(value, written[key], f"{path}.{key}") if key in written else [f"{path}.{key}"[1:]])]
    if isinstance(recorded, list) and isinstance(written, list) and len(recorded) == len(written):
        return [lost for index, (one, other) in enumerate(zip(recorded, written, strict=True))
                for lost in _lost(one, other, f"{path}.{index}")]
    return [] if recorded == written else [path[1:]]


@pytest.mark.parametrize(("kind", "enum"), [
    ("outcomes", Outcome), ("stages", Stage), ("phases", Phase), ("conditions", ConditionType),
    ("verdicts", PreflightVerdict), ("reasons", Reason)])
def test_every_word_that_was_published_is_still_one(kind, enum):
    assert set(NAMES[kind]) - {str(member) for member in enum} == set()


def test_every_exit_code_means_what_it_meant():
    assert NAMES["exitCodes"].items() <= {code.name: int(code) for code in ExitCode}.items()


class Clock:
    """A clock that stands still."""

    def now(self):
        return datetime(2026, 11, 27, tzinfo=UTC)

    def seconds(self):
        return 0.0


def _report(rollouts):
    return StepReport(step=6, total_steps=10, epoch=0.6, loss=1.0, learning_rate=1e-4, grad_norm=0.5, tokens=100,
                      seconds=1.5, peak_memory_bytes=10**9, rollouts=rollouts)


def test_a_log_of_the_first_release_is_read_and_continued_with_the_same_fields(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", Clock())
    log.resume(RECORDED / "metrics.jsonl")
    progress = ProgressMessage.read((RECORDED / "progress.json").read_text())
    assert progress.progress is not None
    log.on_step(_report(progress.progress.rollouts), progress)
    before, after = log.steps()
    assert (before["step"], before["loss"], before["spent"]) == (5, 1.25, "1.2500")
    assert set(before) - set(after) == set()


def test_every_metric_of_the_first_release_is_exported_with_its_labels():
    status = json.loads((RECORDED / "status.json").read_text())
    job = {"metadata": {"namespace": "team", "name": "tune", "uid": "1"}, "spec": {"budget": {"maxCost": "5"}},
           "status": status}
    jobs = CollectorRegistry()
    jobs.register(JobCollector(lambda: [job]))
    trainer = Metrics("team", "tune")
    metrics.REQUESTS.labels("GET", "200", "").inc(0)
    exported: dict[str, set[str]] = {}
    registries = [metrics.REGISTRY, jobs,
                  next(one for one in vars(trainer).values() if isinstance(one, CollectorRegistry))]
    for registry in registries:
        for sample in (sample for family in registry.collect() for sample in family.samples):
            exported.setdefault(sample.name, set()).update(sample.labels)
    missing = {name for name, labels in NAMES["metrics"].items()
               if name not in exported or not set(labels) <= exported[name]}
    assert missing == set()


def test_every_alert_of_the_first_release_is_there():
    alerts = {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    assert set(NAMES["alerts"]) - alerts == set()


def test_money_that_was_published_is_read_exactly():
    status = FineTuneJobStatus.read((RECORDED / "status.json").read_text())
    assert status.cost is not None
    assert (status.cost.spent, status.cost.hourly_rate) == (Decimal("1.2500"), Decimal("1.00"))
