"""The state of the run: the training loop writes it, and everything else reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Protocol

from finetune_api.messages import ProgressMessage, Stage
from finetune_api.status import Cost, Memory, Progress, Rollouts
from finetune_api.values.money import Price, cost_of

from finetune_trainer.clock import Clock
from finetune_trainer.progress.limits import Spending


@dataclass(frozen=True)
class StepReport:
    """One optimizer step.

    Attributes:
        step: its number, from 1.
        total_steps: steps of the whole run.
        epoch: passes over the data done after it.
        loss: mean loss of its answer tokens in nats.
        learning_rate: learning rate that it used.
        grad_norm: norm of the gradient before clipping; None where it is unknown.
        tokens: tokens of its rows, padding left out.
        seconds: how long it took.
        peak_memory_bytes: peak memory so far.
        earlier_steps: steps of the stage before, which this stage goes on counting from.
        rollouts: what a step of PPO saw.
    """

    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float | None
    tokens: int
    seconds: float
    peak_memory_bytes: int
    earlier_steps: int = 0
    rollouts: Rollouts | None = None


class Observer(Protocol):
    """Receives the progress of a run."""

    def on_stage(self, stage: Stage) -> None:
        """A stage begins."""

    def on_step(self, report: StepReport, message: ProgressMessage) -> None:
        """A step is done."""

    def on_answers(self, answered: int, total: int) -> None:
        """Some of the held-out questions are answered."""

    def on_note(self, text: str) -> None:
        """A note for people."""


@dataclass
class RunState:
    """The state of the run. The training thread writes it; other threads read it.

    Attributes:
        clock: the time.
        price: of the job's accelerators.
        spent_before: what earlier attempts spent, where an operator says.
        seconds_before: how long earlier attempts ran, where a checkpoint says.
        accelerator_bytes: memory of one accelerator, where there is one.
        observers: receive everything in turn, in the training thread.
    """

    clock: Clock
    price: Price
    spent_before: Decimal | None = None
    accelerator_bytes: int | None = None
    observers: Sequence[Observer] = ()
    seconds_before: float = 0.0
    resumed_from_step: int = 0
    checkpoint_step: int = 0
    stage_seconds: dict[Stage, float] = field(default_factory=dict)
    _stage: Stage = Stage.LOADING
    _last: StepReport | None = None
    _recent: list[StepReport] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._started = self._stage_started = self.clock.seconds()

    @property
    def stage(self) -> Stage:
        """What the trainer is doing."""
        return self._stage

    def enter(self, stage: Stage) -> None:
        """Enter a stage; `stage_seconds` gets the time of the stage before."""
        now = self.clock.seconds()
        with self._lock:
            spent = self.stage_seconds.get(self._stage, 0.0) + now - self._stage_started
            self.stage_seconds[self._stage] = spent
            self._stage, self._stage_started = stage, now
            # The speed of the earlier stage says nothing about this one.
            self._recent = []
        self._notify(lambda observer: observer.on_stage(stage))

    def step_done(self, report: StepReport) -> None:
        """Report a step."""
        with self._lock:
            self._last = report
            self._recent = [*self._recent[-9:], report]
        message = self.message()
        self._notify(lambda observer: observer.on_step(report, message))

    def answers_done(self, answered: int, total: int) -> None:
        """Report how many held-out questions are answered."""
        self._notify(lambda observer: observer.on_answers(answered, total))

    def note(self, text: str) -> None:
        """Report a note for people."""
        self._notify(lambda observer: observer.on_note(text))

    def _notify(self, what: Callable[[Observer], None]) -> None:
        for observer in self.observers:
            # A full disk or a closed terminal must not stop training.
            with suppress(OSError):
                what(observer)

    def trained_seconds(self) -> float:
        """The seconds that trainers have run, including earlier attempts whose time a checkpoint holds."""
        return self.seconds_before + self.clock.seconds() - self._started

    def spending(self) -> Spending:
        """What was spent until now.

        An operator says what earlier attempts spent; without one it follows from their time.
        """
        if self.spent_before is None:
            return Spending(cost_of(timedelta(seconds=self.trained_seconds()), self.price), self.price)
        elapsed = timedelta(seconds=self.clock.seconds() - self._started)
        return Spending(self.spent_before + cost_of(elapsed, self.price), self.price)

    def resumed_cost(self) -> Decimal:
        """The part of what was spent that is known from earlier attempts."""
        if self.spent_before is None:
            return cost_of(timedelta(seconds=self.seconds_before), self.price)
        return self.spent_before

    def tokens_per_second(self) -> float | None:
        """The tokens per second of the last ten steps; None before the first step."""
        seconds = sum(report.seconds for report in self._recent)
        return sum(report.tokens for report in self._recent) / seconds if seconds else None

    def message(self) -> ProgressMessage:
        """The answer of `/progress`."""
        with self._lock:
            last, recent = self._last, list(self._recent)
        spending = self.spending()
        left = _seconds_left(last, recent)
        projected = spending.spent + cost_of(timedelta(seconds=left), self.price) if left is not None else None
        end = (self.clock.now() + timedelta(seconds=left)).replace(microsecond=0) if left is not None else None
        progress = None if last is None else Progress(
            step=last.step,
            total_steps=last.total_steps,
            epoch=round(last.epoch, 3),
            percent=100 * (last.step - last.earlier_steps) // (last.total_steps - last.earlier_steps),
            loss=round(last.loss, 6),
            learning_rate=last.learning_rate,
            tokens_per_second=round(self.tokens_per_second() or 0.0, 1),
            rollouts=last.rollouts,
            estimated_completion_time=end,
        )
        return ProgressMessage(
            stage=self._stage,
            progress=progress,
            cost=Cost(spent=spending.spent, projected=projected, currency=self.price.currency,
                      hourly_rate=self.price.per_accelerator_hour),
            memory=Memory(peak_bytes=last.peak_memory_bytes, accelerator_bytes=self.accelerator_bytes)
            if last else None,
            resumed_from_step=self.resumed_from_step,
            checkpoint_step=self.checkpoint_step,
        )


def _seconds_left(last: StepReport | None, recent: Sequence[StepReport]) -> float | None:
    if last is None or not recent:
        return None
    return (last.total_steps - last.step) * sum(report.seconds for report in recent) / len(recent)
