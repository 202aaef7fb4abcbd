"""Where the time of training steps goes, by kind of kernel."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.meters import Steps

_KINDS = (
    ("attention", ("fmha", "flash", "attention", "cudnn_generated")),
    ("dequantize", ("dequant",)),
    ("matmul", ("gemm", "nvjet", "cutlass", "xmma", "splitk", "gemv")),
    ("triton", ("triton", "_kernel")),
    ("norm/reduce", ("reduce", "norm")),
    ("copy/cast", ("copy", "memcpy", "cat")),
    ("elementwise", ("elementwise", "vectorized")),
)
_PROFILED_STEPS = 2


class Profile:
    """Profiles the steps after the first. Enter it before training starts, and read it after its end.

    Attributes:
        kernels: milliseconds and share of all, by kind of kernel, the longest first.
        table: torch's table of the kernels that took longest.
    """

    def __init__(self, steps: Steps, dry: bool) -> None:
        """
        Args:
            steps: the observer of the run; its steps start and stop the profile.
            dry: whether the CPU computes.
        """
        self.kernels: dict[str, list[float]] = {}
        self.table = ""
        self._steps, self._dry = steps, dry
        activity = torch.profiler.ProfilerActivity
        self._profile = torch.profiler.profile(activities=[activity.CPU if dry else activity.CUDA])
        self._on = False

    def __enter__(self) -> Profile:
        step_done = self._steps.step_done

        def profiled(loss: float, tokens: int) -> bool:
            over = step_done(loss, tokens)
            done = len(self._steps.ends)
            if done == 1:
                self._profile.start()
                self._on = True
            elif done > _PROFILED_STEPS:
                self._stop()
            return over

        self._steps.step_done = profiled  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop()
        averages = self._profile.key_averages()
        key = "self_cpu_time_total" if self._dry else "self_device_time_total"
        total: dict[str, float] = {}
        for one in averages:
            kind = _kind(one.key.lower())
            total[kind] = total.get(kind, 0.0) + getattr(one, key) / 1e3
        whole = sum(total.values()) or 1.0
        self.kernels = {kind: [round(milliseconds, 1), round(milliseconds / whole, 3)]
                        for kind, milliseconds in sorted(total.items(), key=lambda pair: -pair[1])}
        self.table = averages.table(sort_by=key, row_limit=25, max_name_column_width=90)

    def _stop(self) -> None:
        if self._on:
            self._profile.stop()
        self._on = False


def _kind(kernel: str) -> str:
    return next((kind for kind, words in _KINDS if any(word in kernel for word in words)), "other")
