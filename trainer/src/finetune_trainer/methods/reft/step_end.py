"""The end of a PPO step: report it, save it, and decide whether it is the last one."""

from __future__ import annotations

import math

from finetune_trainer.errors import Diverged, StopRequested
from finetune_trainer.hardware.device import peak_memory_bytes
from finetune_trainer.methods.reft.collapse import collapsed, stuck
from finetune_trainer.methods.reft.metrics import StepMetrics
from finetune_trainer.methods.reft.state import PpoState
from finetune_trainer.progress.limits import stop_reason
from finetune_trainer.progress.state import StepReport
from finetune_trainer.training.stop_after import share_done
from finetune_trainer.training.training_run import TrainingRun


class StepEnd:
    """Ends the steps of one run of PPO. All ranks decide the same at the same moment; rank 0 writes."""

    def __init__(self, run: TrainingRun, state: PpoState, warm_up_steps: int, ppo_steps: int) -> None:
        """
        Args:
            run: the run.
            state: the state of PPO.
            warm_up_steps: optimizer steps of the warm-up; PPO's steps are counted on from there.
            ppo_steps: PPO steps of the whole run.
        """
        self._run = run
        self._state = state
        self._warm_up_steps = warm_up_steps
        self._ppo_steps = ppo_steps
        self._saved_step = state.step

    @property
    def step(self) -> int:
        """Steps done, the warm-up's included."""
        return self._warm_up_steps + self._state.step

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, the warm-up's included."""
        return self._warm_up_steps + self._ppo_steps

    def finish(self, metrics: StepMetrics, grad_norm: float, checkpoint_every: int) -> str | None:
        """Report a step and save it where a checkpoint is due. A collective.

        Returns:
            Why this step is the last one, if it is and others were planned.

        Raises:
            Diverged: the policy collapsed.
            StopRequested: somebody asked; the state after this step is the snapshot.
        """
        run, state = self._run, self._state
        run.uploader.raise_failure()
        self._check_divergence(metrics.loss)
        cause = self._cause_to_stop()
        early, stopping, complete = run.world.all_reduce_max(
            bool(cause), run.stop.is_set, run.checkpoints.complete_step)
        run.state.checkpoint_step = complete
        self._report(metrics, grad_norm)
        reason = self._stop_in_words(cause or "the first process says so") if early else None
        if reason or state.step == self._ppo_steps or state.step % checkpoint_every == 0:
            self.save()
        if stopping:
            state.take_snapshot()
            raise StopRequested("stopped")
        return reason

    def reason_not_to_begin(self) -> str | None:
        """Why there is no other step: the warm-up, or the checkpoint, was the whole share that the job trains."""
        done = share_done(self._run, self.step)
        return self._stop_in_words(f"because {done}") if done else None

    def _stop_in_words(self, cause: str) -> str:
        return f"training stopped after step {self.step} of {self.total_steps}: {cause}"

    def save(self) -> None:
        """Save a checkpoint of the present state, unless that is done already."""
        run, state = self._run, self._state
        if state.step == self._saved_step:
            return
        self._saved_step = state.step
        if run.world.is_main:
            folder = state.write(run.scratch / f"ppo-{self.step}", run.metrics.path)
            run.checkpoints.save(folder, self.step, run.identity, run.state.trained_seconds())

    def _check_divergence(self, loss: float) -> None:
        run = self._run
        vocabulary = int(self._state.policy.model.config.get_text_config().vocab_size)
        fault = collapsed(self._state.history, vocabulary)
        if fault or not math.isfinite(loss):
            run.uploader.drain()
            raise Diverged(f"{fault or f'the loss of step {self.step} is {loss}'}; the checkpoint of step "
                           f"{run.checkpoints.complete_step} is kept. Try a lower spec.method.reft.ppo.learningRate or "
                           "a higher klCoefficient")

    def _cause_to_stop(self) -> str | None:
        """A limit that is reached, or a policy that does not learn; the limits are rank 0's to read."""
        run = self._run
        if self._state.step >= self._ppo_steps:
            return None
        if done := share_done(run, self.step):
            return f"because {done}"
        if run.world.is_main:
            limit = stop_reason(run.limits.read(), run.clock.now(), run.state.spending(), run.reserve)
            if limit:
                return f"because {limit}"
        return stuck(self._state.history)

    def _report(self, metrics: StepMetrics, grad_norm: float) -> None:
        run, state, rollouts = self._run, self._state, metrics.rollouts
        sampled = state.step * run.spec.method.settings.ppo.rollouts
        run.state.step_done(StepReport(
            step=self.step, total_steps=self.total_steps, epoch=sampled / len(run.data.train), loss=metrics.loss,
            learning_rate=state.optimizer.param_groups[0]["lr"], grad_norm=grad_norm, tokens=metrics.trained_tokens,
            seconds=rollouts.rollout_seconds + rollouts.update_seconds,
            peak_memory_bytes=peak_memory_bytes(run.device), earlier_steps=self._warm_up_steps, rollouts=rollouts))
