"""Whatever is not training fails: what was learnt is published all the same, and what is missing is said."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from finetune_api.values.money import Price
from finetune_trainer.errors import StopRequested
from finetune_trainer.progress.metrics_log import MetricsLog
from finetune_trainer.progress.state import RunState
from finetune_trainer.run.attempt.optional_steps import OptionalSteps

from tests.models import tiny_job
from tests.trainer.endpoints import endpoint
from tests.trainer.runs import SECONDS, Running, _become, manifest, published, workshop


class RunningWithFaults(Running):
    """A run in which everything fails that is done after training, beside publishing."""

    def __init__(self, job, log):
        self._log = log
        self._start(log, _child, job, {**os.environ}, log)


def _child(job, environment, log):
    _become(environment, log)
    from finetune_api import parse_job
    from finetune_trainer.publish import export
    from finetune_trainer.run.attempt import evaluating, publishing
    from finetune_trainer.run.local import LocalOptions, run_job
    from rich.console import Console

    def broken(*_, **__):
        raise IndexError("index out of range in self")

    def half(trained_model, published, base, tokenizer, folder):
        folder.mkdir()
        (folder / "model-00001-of-00002.safetensors").write_bytes(b"half")
        raise torch.OutOfMemoryError("simulated")

    assert export.export_merged is publishing.export_merged  # type: ignore[attr-defined]
    evaluating.Evaluator.evaluate = evaluating.majority_scores = broken  # type: ignore[attr-defined,method-assign]
    publishing.render_card = publishing.render_report = broken  # type: ignore[attr-defined]
    publishing.export_merged = half  # type: ignore[attr-defined]
    code = run_job(parse_job(job), Console(file=os.fdopen(1, "w"), width=200), LocalOptions())
    sys.stdout.flush()
    os._exit(code)


def test_what_was_learnt_is_published_whatever_fails_beside_it(tmp_path):
    folder = workshop(tmp_path)
    with endpoint(lambda *_: (404, b"")) as (url, asked):
        job = tiny_job(folder, output={"exports": ["adapter", "merged"]}, evaluation={
            "baseline": False, "reference": {"url": url, "model": "gpt-4"}})
        done = RunningWithFaults(job, folder / "log.txt").wait(SECONDS)
    assert asked
    assert done.code == 0, done.output
    content = manifest(folder)
    names = {file["path"].removeprefix("results/1/") for file in content["files"]}
    assert names == {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "metrics.jsonl"}
    assert not (published(folder) / "merged").exists()
    result = content["result"]
    assert result["outcome"] == "Succeeded"
    for missing in ("the evaluation after training could not be made: an unexpected error: IndexError", "the merged "
                    "model could not be made: the accelerator's memory", "answered 404", "the model card",
                    "the report could not be made"):
        assert missing in result["message"], result["message"]
    assert "report      " not in done.output, "it is not there"


def test_only_a_request_to_stop_ends_what_is_optional():
    said = []
    steps = OptionalSteps(said.append)
    with steps.optional("the plot"):
        raise ValueError("no such colour")
    assert steps.missing == ["the plot could not be made: an unexpected error: ValueError: no such colour"]
    assert said == [f"warning: {steps.missing[0]}"]
    with pytest.raises(StopRequested), steps.optional("the plot"):
        raise StopRequested("stopped")


class FullDisk:
    """An observer whose disk is full."""

    def __getattr__(self, name):
        def fail(*_):
            raise OSError(28, "No space left on device")
        return fail


class FrozenClock:
    """A clock that stands still."""

    def now(self):
        from datetime import UTC, datetime
        return datetime(2026, 1, 1, tzinfo=UTC)

    def seconds(self):
        return 0.0


def test_an_observer_that_fails_to_write_stops_nothing_and_the_others_are_told(tmp_path):
    from decimal import Decimal

    log = MetricsLog(tmp_path / "metrics.jsonl", FrozenClock())
    state = RunState(FrozenClock(), Price(Decimal(0), "USD"), observers=(FullDisk(), log))
    state.note("said")
    assert "said" in log.path.read_text()


def test_a_log_with_broken_lines_gives_the_steps_that_can_be_read(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", FrozenClock())
    log.resume(tmp_path / "none")
    assert log.steps() == []
    (tmp_path / "saved").write_bytes(b'{"step": 2, "loss": 1}\n{"step": 1, "lo\n[]\n{"step": "x"}\n\xff\n{"step": 1}\n')
    log.resume(tmp_path / "saved")
    assert [line["step"] for line in log.steps()] == [1, 2]
