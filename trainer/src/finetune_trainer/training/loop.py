"""What happens between the steps of a training loop: reporting, checkpoints, limits, and stopping."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, Any

import numpy
import torch
from finetune_api.messages.layout import METRICS
from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.errors import Diverged
from finetune_trainer.faults import reach
from finetune_trainer.hardware.device import peak_memory_bytes
from finetune_trainer.progress.limits import stop_reason
from finetune_trainer.progress.state import StepReport
from finetune_trainer.training.divergence import divergence
from finetune_trainer.training.training_run import TrainingRun

if TYPE_CHECKING:
    from finetune_trainer.training.loader import StepLoader
    from finetune_trainer.training.trainer import StepTrainer


class LoopCallback(TrainerCallback):
    """Watches one training loop. All processes decide the same at the same moment, and only the first writes.

    A request to stop is heard between micro-batches: the step that was begun is given up, and the checkpoint holds the
    state after the last whole one. Its random states are those of that moment too, so that the resumed run is the same.
    """

    trainer: StepTrainer

    def __init__(self, run: TrainingRun, loader: StepLoader, steps: int, start: int) -> None:
        self._run = run
        self._loader = loader
        self._steps = steps
        self._saved_step = start
        self._losses: list[float] = []
        self._began = run.clock.seconds()
        self._random: _RandomStates | None = None
        self.stopping = False
        self.stopped_early: str | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remember the losses before a resume."""
        if args.gradient_checkpointing and not isinstance(self.trainer.model, PeftModel):
            # Frozen layers below what is trained would be computed again and differentiated for nothing: only the
            # reentrant kind of checkpointing needs inputs with gradients.
            self.trainer.model.disable_input_require_grads()
        self._losses = [entry["loss"] for entry in state.log_history if "loss" in entry]

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the step's clock, and keep the random states from before it."""
        self._began = self._run.clock.seconds()
        if self._run.world.size > 1:
            # By step and process, so that no checkpoint has to hold the random states of all.
            name = f"{args.seed} step {state.global_step + 1} process {self._run.world.rank}"
            torch.manual_seed(random.Random(name).getrandbits(63))
        self._random = _RandomStates()

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Between two micro-batches of a step."""
        reach(f"step-{state.global_step + 1}")
        if self._run.world.any(self._run.stop.is_set):
            assert self._random is not None
            self._random.restore()
            self.stopping = control.should_training_stop = True
            self._checkpoint(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After a step, before it is logged."""
        self._run.uploader.raise_failure()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
               logs: dict[str, float] | None = None, **_: Any) -> None:
        """After a step was logged: report it, judge it, keep it."""
        if not logs or "loss" not in logs:
            return
        run, step = self._run, state.global_step
        self._losses.append(logs["loss"])
        fault = divergence(self._losses, logs.get("grad_norm"), self.trainer.model.config.get_text_config().vocab_size)
        reason = None
        if run.world.is_main and step < self._steps:
            reason = stop_reason(run.limits.read(), run.clock.now(), run.state.spending(), run.reserve)
        diverged, stopping, early, complete = run.world.all_reduce_max(
            bool(fault), run.stop.is_set, bool(reason), run.checkpoints.complete_step)
        if diverged:
            # The last good checkpoint may still be on its way to the output.
            run.uploader.drain()
            complete = max(complete, run.checkpoints.complete_step)
            raise Diverged(f"{fault or 'the loss of another process ran away'}; the checkpoint of step {complete} is "
                           "kept. Try a lower spec.training.learningRate, more warmup, or look for broken rows")
        run.state.checkpoint_step = complete
        run.state.step_done(StepReport(
            step=step, total_steps=self._steps, epoch=self._loader.epoch(step), loss=logs["loss"],
            learning_rate=logs["learning_rate"], grad_norm=logs.get("grad_norm"), tokens=self._loader.tokens(step),
            seconds=run.clock.seconds() - self._began, peak_memory_bytes=peak_memory_bytes(run.device),
        ))
        if stopping:
            self.stopping = control.should_training_stop = True
        elif early:
            because = reason or "the first process says so"
            self.stopped_early = f"training stopped after step {step} of {self._steps}, because {because}"
            control.should_training_stop = True
        if self.stopping or self.stopped_early or step == self._steps or \
                step % run.spec.training.checkpoint_every == 0:
            self._checkpoint(step)

    def _checkpoint(self, step: int) -> None:
        if step == self._saved_step:
            return
        self._saved_step = step
        # Called in every process, since it sums up what they have done; the first one writes.
        folder = self.trainer.write_checkpoint()
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
        """Put them back."""
        random.setstate(self._python)
        numpy.random.set_state(self._numpy)
        torch.random.set_rng_state(self._cpu)
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._gpu)
