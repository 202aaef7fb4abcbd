"""The stages of the check, in the order in which they run: the most wanted first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from benchmarks.gpu.findings import Check


@dataclass(frozen=True)
class Stage:
    """A part of the check that runs in a process of its own.

    Attributes:
        name: its name on the command line.
        function: `module:function` below benchmarks.gpu; called with a `Check`.
        seconds: the most that it may take on an H100, as reckoned.
        about: what it does, for `--help` and the report.
        beside_next: whether the next stage may run at the same time: nothing is timed in either.
        cudnn_first: whether cuDNN's attention comes before flash and the efficient kernel, as on Hopper.
        by_default: whether it runs where no stage is named.
    """

    name: str
    function: str
    seconds: int
    about: str
    beside_next: bool = False
    cudnn_first: bool = False
    by_default: bool = True

    def call(self, check: Check) -> None:
        """Run it in this process."""
        module, _, function = self.function.partition(":")
        run: Callable[[Check], None] = getattr(import_module(f"benchmarks.gpu.{module}"), function)
        run(check)


STAGES = (
    Stage("machine", "machine:run", 60, "the card, its parts, attention kernels"),
    Stage("jobs", "jobs:run", 110, "every method as a whole tiny job", beside_next=True),
    Stage("model", "make_model:run", 120, "make a random Mistral-7B, store it as nf4"),
    Stage("correctness", "correctness:run", 60, "what a GPU computes against float32 and the CPU"),
    Stage("adapters", "adapters:run", 40, "our fused adapters and PEFT's against float32"),
    Stage("kernels", "kernels:run", 40, "Liger's kernels and torch's own against float32"),
    Stage("main", "arms:run_main", 110, "our QLoRA; Trainer + PEFT as in 2024; TRL at its defaults"),
    Stage("dora", "arms:run_dora", 70, "our QDoRA and PEFT's"),
    Stage("unsloth", "unsloth_arm:run", 120, "Unsloth; our engine: unsloth as a tiny job"),
    Stage("estimate", "estimate:run", 75, "the memory estimate against the allocator"),
    Stage("resume", "resume:run", 45, "resume from a checkpoint; real memory trouble"),
    Stage("merge", "merge:run", 40, "merging into nf4; DoRA's rounding"),
    Stage("sampler", "sampler:run", 45, "ReFT's sampler against generate"),
    Stage("ablations", "arms:run_ablations", 180, "one thing changed in our QLoRA at a time; profiles"),
    Stage("cudnn", "arms:run_cudnn", 40, "our QLoRA with cuDNN's attention first", cudnn_first=True),
    Stage("reft-real", "reft_real:run", 480, "ReFT against SFT on a real model; needs --model and --data",
          by_default=False),
)
BY_NAME = {stage.name: stage for stage in STAGES}
