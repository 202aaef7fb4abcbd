"""Between the steps of a training loop: progress, checkpoints, limits and requests to stop."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy
import torch
from finetune_api.messages.layout import METRICS
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.errors import Diverged
from finetune_trainer.faults import reach
from finetune_trainer.hardware.device import peak_memory_bytes
from finetune_trainer.progress.limits import stop_reason
from finetune_trainer.progress.state import StepReport
from finetune_trainer.training.divergence import divergence
from finetune_trainer.training.stop_after import share_done, steps_of_run
from finetune_trainer.training.training_run import TrainingRun

if TYPE_CHECKING:
    from finetune_trainer.training.loader import StepLoader


class CheckpointingTrainer(Protocol):
    """What the callback needs of the trainer that it watches."""

    model: Any

    def write_checkpoint(self) -> Path:
        """Write a checkpoint and return its folder."""
        ...


def stop_in_words(step: int, steps: int, reason: str) -> str:
    """The sentence about a training loop that ended before its last step."""
    return f"training stopped after step {step} of {steps}, because {reason}"


class LoopCallback(TrainerCallback):
    """Watches one training loop. All processes take the same decision at the same moment, and only rank 0 writes.

    Requests to stop take effect between micro-batches. The current step is then discarded, and the checkpoint holds the
    state after the last whole step, with the random states of that moment, so that the resumed run is the same.

    Attributes:
        stopping: whether training stops because of a request.
        stopped_early: why training ends before its last step, or None.
    """

    def __init__(self, run: TrainingRun, loader: StepLoader, steps: int, start: int) -> None:
        """
        Args:
            run: the training run.
            loader: yields the micro-batches.
            steps: the steps of the whole run.
            start: the steps that are done.
        """
        self._run = run
        self._loader = loader
        self._steps = steps
        self._saved_step = start
        self._losses: list[float] = []
        self._began = run.clock.seconds()
        self._random: _RandomStates | None = None
        self._attached: CheckpointingTrainer | None = None
        self.stopping = False
        self.stopped_early: str | None = None

    def attach(self, trainer: CheckpointingTrainer) -> None:
        """Tell the callback which trainer it watches."""
        self._attached = trainer

    @property
    def _trainer(self) -> CheckpointingTrainer:
        if self._attached is None:
            raise RuntimeError("the callback is not attached to a trainer")
        return self._attached

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Read the losses from before a resume."""
        self._losses = [entry["loss"] for entry in state.log_history if "loss" in entry]

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock of the step, and save the random states from before it."""
        self._began = self._run.clock.seconds()
        if self._run.world.size > 1:
            # Seeded by step and rank, so that a checkpoint need not hold the random states of all processes.
            name = f"{args.seed} step {state.global_step + 1} process {self._run.world.rank}"
            torch.manual_seed(random.Random(name).getrandbits(63))
        self._random = _RandomStates()

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Between two micro-batches of a step: stop there if the run was asked to."""
        reach(f"step-{state.global_step + 1}")
        if self._random is not None and self._run.world.any(self._run.stop.is_set):
            self._random.restore()
            self.stopping = control.should_training_stop = True
            self._checkpoint(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After a step: raise the failure of an upload, if there was one."""
        self._run.uploader.raise_failure()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
               logs: dict[str, float] | None = None, **_: Any) -> None:
        """After a step was logged: report it, check it, and write a checkpoint if one is due."""
        if not logs or "loss" not in logs:
            return
        run, step = self._run, state.global_step
        self._losses.append(logs["loss"])
        reason = self._limit_reached(step)
        diverged, stopping, early, complete = run.world.all_reduce_max(
            bool(self._divergence(logs, 0)), run.stop.is_set, bool(reason), run.checkpoints.complete_step)
        if diverged:
            self._raise_diverged(logs, complete)
        run.state.checkpoint_step = complete
        run.state.step_done(self._report(logs, step))
        if stopping:
            self.stopping = control.should_training_stop = True
        elif early:
            because = reason or "rank 0 reached a limit"
            self.stopped_early = stop_in_words(step, steps_of_run(run), because)
            control.should_training_stop = True
        if self.stopping or self.stopped_early or step == self._steps or \
                step % run.spec.training.checkpoint_every == 0:
            self._checkpoint(step)

    def _limit_reached(self, step: int) -> str | None:
        """Why training has to end before its last step, or None. Only rank 0 reads the limits."""
        run = self._run
        if step >= self._steps:
            return None
        if reason := share_done(run, step):
            return reason
        if not run.world.is_main:
            return None
        return stop_reason(run.limits.read(), run.clock.now(), run.state.spending(), run.reserve)

    def _divergence(self, logs: dict[str, float], checkpoint_step: int) -> str | None:
        vocabulary = self._trainer.model.config.get_text_config().vocab_size
        return divergence(self._losses, logs.get("grad_norm"), vocabulary, checkpoint_step)

    def _raise_diverged(self, logs: dict[str, float], complete: int) -> NoReturn:
        # The last good checkpoint may still be uploading.
        self._run.uploader.drain()
        complete = max(complete, self._run.checkpoints.complete_step)
        raise Diverged(self._divergence(logs, complete) or
                       f"the loss of another process diverged; the checkpoint of step {complete} is kept")

    def _report(self, logs: dict[str, float], step: int) -> StepReport:
        return StepReport(
            step=step, total_steps=self._steps, epoch=self._loader.epoch(step), loss=logs["loss"],
            learning_rate=logs["learning_rate"], grad_norm=logs.get("grad_norm"), tokens=self._loader.tokens(step),
            seconds=self._run.clock.seconds() - self._began, peak_memory_bytes=peak_memory_bytes(self._run.device),
        )

    def _checkpoint(self, step: int) -> None:
        if step == self._saved_step:
            return
        self._saved_step = step
        # In every process, because it gathers the state of all; rank 0 writes it.
        folder = self._trainer.write_checkpoint()
        if not self._run.world.is_main:
            return
        if self._run.metrics.path.exists():
            shutil.copyfile(self._run.metrics.path, folder / METRICS)
        self._run.checkpoints.save(folder, step, self._run.identity, self._run.state.trained_seconds())


class _RandomStates:
    """The random states of Python, NumPy and torch at one moment."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = numpy.random.get_state()
        self._cpu = torch.random.get_rng_state()
        self._gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def restore(self) -> None:
        """Restore these states."""
        random.setstate(self._python)
        numpy.random.set_state(self._numpy)
        torch.random.set_rng_state(self._cpu)
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._gpu)
