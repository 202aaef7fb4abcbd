"""Prices in another currency than USD stay in it, wherever the trainer tells of money."""

from __future__ import annotations

import io
import json
import urllib.request
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from finetune_api.messages import Accelerator, Limits, Stage
from finetune_api.values.money import Price
from finetune_trainer.progress.console import ConsoleObserver
from finetune_trainer.progress.limits import Spending, stop_reason
from finetune_trainer.progress.metrics_log import MetricsLog
from finetune_trainer.progress.server import Metrics, ProgressServer
from finetune_trainer.progress.state import RunState, StepReport
from rich.console import Console

EUROS = Accelerator(name="nvidia-l4", hourly_rate=Decimal("0.80"), currency="EUR").price(accelerators=2)
STEP = StepReport(step=1, total_steps=2, epoch=0.5, loss=1.0, learning_rate=1e-4, grad_norm=None, tokens=10,
                  seconds=1.0, peak_memory_bytes=1)


class HalfAnHourLater:
    """A clock that stands half an hour after the run's start."""

    def __init__(self):
        self._passed = iter((0.0, 0.0))

    def now(self):
        return datetime(2026, 1, 1, tzinfo=UTC)

    def seconds(self):
        return next(self._passed, 1800.0)


@pytest.fixture
def run(tmp_path):
    """A run that is priced in EUR, after its first step: its state, its log and what its console shows."""
    clock, shown = HalfAnHourLater(), io.StringIO()
    log = MetricsLog(tmp_path / "metrics.jsonl", clock)
    state = RunState(clock, EUROS, observers=(log, ConsoleObserver(Console(file=shown, width=200), clock)))
    state.enter(Stage.TRAINING)
    state.step_done(STEP)
    return state, log, shown.getvalue()


def test_progress_has_the_currency_and_the_price_of_one_accelerator(run):
    state, _, _ = run
    with ProgressServer(state, Metrics("team", "job"), "127.0.0.1", 0) as server, urllib.request.urlopen(
            f"http://127.0.0.1:{server.port}/progress", timeout=5) as answer:
        cost = json.loads(answer.read())["cost"]
    assert (cost["spent"], cost["currency"], cost["hourlyRate"]) == ("0.8000", "EUR", "0.80")


def test_console_and_log_have_the_currency(run):
    _, log, shown = run
    assert "0.8000 EUR" in shown and "USD" not in shown
    (step,) = log.steps()
    assert (step["spent"], step["currency"]) == ("0.8000", "EUR")


def test_a_run_that_stops_at_its_budget_says_so_in_the_currency():
    limits = Limits(max_cost=Decimal("1.00"))
    reason = stop_reason(limits, datetime(2026, 1, 1, tzinfo=UTC), Spending(Decimal("0.95"), EUROS), Decimal("0.10"))
    assert reason is not None
    assert "1.00 EUR" in reason and "0.95 EUR" in reason and "0.10 EUR" in reason


def test_without_a_budget_nothing_stops():
    assert stop_reason(Limits(), datetime(2026, 1, 1, tzinfo=UTC), Spending(Decimal(5), Price(Decimal(1), "EUR")),
                       Decimal(1)) is None


def test_what_earlier_attempts_spent_follows_from_the_operator_or_from_their_time(run):
    state, _, _ = run
    assert state.resumed_cost() == 0
    state.seconds_before = 900.0
    assert (state.resumed_cost(), state.spending().spent) == (Decimal("0.4"), Decimal("1.2"))
    state.spent_before = Decimal("0.5")
    assert (state.resumed_cost(), state.spending().spent) == (Decimal("0.5"), Decimal("1.3"))
