"""What is measured while something trains: when steps end, what micro-batches are like, what the card holds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu.findings import release_memory
from benchmarks.gpu.settings import CONTEXT_GIB, GIB, MIB, Settings


def on_gpu() -> bool:
    """Whether this process has used a GPU; in a dry run there is none."""
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def wait_for_gpu() -> None:
    """Wait for everything that the card was given to do."""
    if on_gpu():
        torch.cuda.synchronize()


def allocated_bytes() -> int:
    """What the allocator has handed out now; 0 without a GPU."""
    return torch.cuda.memory_allocated() if on_gpu() else 0


def peak_bytes() -> int:
    """The most that the allocator had handed out since `reset_peak`; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() if on_gpu() else 0


def reset_peak() -> None:
    """Count the peak from now."""
    release_memory()
    if on_gpu():
        torch.cuda.reset_peak_memory_stats()


def reserved_memory() -> dict[str, int]:
    """MiB that torch's allocator holds at most, and that the driver and the libraries hold beside it."""
    if not on_gpu():
        return {}
    free, total = torch.cuda.mem_get_info()
    held = torch.cuda.memory_reserved()
    return {"reservedMiB": round(torch.cuda.max_memory_reserved() / MIB),
            "contextMiB": round((total - free - held) / MIB)}


class _SmallCard:
    """A card's properties with less memory."""

    def __init__(self, properties: Any, total_memory: int) -> None:
        self._properties = properties
        self.total_memory = total_memory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._properties, name)


def cap_memory(settings: Settings) -> None:
    """Give this process no more than an L4 has, and let the trainer believe that the card is one."""
    if settings.dry:
        return
    real = torch.cuda.get_device_properties
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, (settings.cap_gib - CONTEXT_GIB) * GIB / real(0).total_memory))
    total = min(real(0).total_memory, int(settings.cap_gib * GIB))
    torch.cuda.get_device_properties = lambda *arguments, **words: _SmallCard(real(*arguments, **words), total)


def uncap_memory(settings: Settings) -> None:
    """Give this process the whole card again."""
    if not settings.dry:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value of an attribute, for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class Steps:
    """Notes when each step ended, its loss and the peak after it. An observer of our trainer.

    Attributes:
        stop: the run's flag to stop; set once the time or the steps are over.
        stop_after: the step to stop after, None for no such step.
    """

    def __init__(self, seconds: float) -> None:
        """
        Args:
            seconds: after so long no further step is wanted; two are made anyway.
        """
        self.stop: Any = None
        self.stop_after: int | None = None
        self.began = time.monotonic()
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.notes: list[str] = []
        self._seconds = seconds
        self._tokens: list[int] = []
        self._peaks: list[int] = []

    def step_done(self, loss: float, tokens: int) -> bool:
        """Note a step; whether the time is up."""
        wait_for_gpu()
        self.ends.append(time.monotonic())
        self.losses.append(round(float(loss), 5))
        self._tokens.append(tokens)
        self._peaks.append(peak_bytes())
        return len(self.ends) >= 2 and self.ends[-1] - self.began > self._seconds

    def on_step(self, report: Any, message: Any) -> None:
        """A step of ours is done."""
        if self.step_done(report.loss, report.tokens) or len(self.ends) == self.stop_after:
            self.stop.set("the check")

    def on_stage(self, stage: Any) -> None:
        """Nothing."""

    def on_answers(self, answered: int, total: int) -> None:
        """Nothing."""

    def on_note(self, text: str) -> None:
        """Keep a note for the findings."""
        self.notes.append(text)

    def tokens_per_second(self, left_out: int = 1) -> float | None:
        """Tokens of rows, without padding, per second, from the first `left_out` steps on; None for too few steps."""
        if len(self.ends) <= left_out:
            return None
        seconds = self.ends[-1] - self.ends[left_out - 1]
        return round(sum(self._tokens[left_out:]) / seconds, 1)

    def summary(self) -> dict[str, Any]:
        """What goes into the findings; the first step, which compiles, does not count in the speed."""
        return {
            "steps": len(self.ends),
            "firstStepSeconds": round(self.ends[0] - self.began, 2) if self.ends else None,
            "tokensPerSecond": self.tokens_per_second(),
            "secondsPerStep": [round(end - start, 3) for start, end in zip(self.ends, self.ends[1:], strict=False)],
            "losses": self.losses, "peakMiB": round(max(self._peaks, default=0) / MIB),
            "peaksMiB": [round(one / MIB) for one in self._peaks], "notes": self.notes,
        }


class MicroBatches:
    """What the micro-batches of a run are like."""

    def __init__(self) -> None:
        self.passes = self.most_tokens = self.widest = self.most_answers = 0
        self.packed = False
        self._slots = self._tokens = 0

    def seen(self, ids: torch.Tensor, labels: torch.Tensor, lengths: Sequence[int]) -> None:
        """Note a micro-batch.

        Args:
            ids: (lines, width).
            labels: (lines, width); -100 where nothing counts.
            lengths: tokens of its rows.
        """
        self.passes += 1
        self._slots += ids.numel()
        self._tokens += sum(lengths)
        self.most_tokens, self.widest = max(self.most_tokens, ids.numel()), max(self.widest, ids.shape[1])
        self.most_answers = max(self.most_answers, int((labels != -100).sum()))
        self.packed |= len(lengths) > ids.shape[0]

    def summary(self) -> dict[str, Any]:
        """What goes into the findings."""
        return {"passes": self.passes, "padding": round(1 - self._tokens / max(1, self._slots), 3),
                "mostTokens": self.most_tokens, "widest": self.widest, "mostAnswers": self.most_answers,
                "packed": self.packed}
