"""ReFT: a supervised warm-up, then PPO on chains of thought that the model samples itself.

Luong et al., 2024, "ReFT: Reasoning with Reinforced Fine-Tuning" (arXiv:2401.08967). Each PPO step samples one response
to each of so many questions (roll-out), judges its answer (reward), works out how much better than expected each token
was (advantage), and makes better tokens likelier, within bounds (update).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from finetune_api.messages import Stage
from finetune_api.methods.reft import ReftPolicy
from finetune_api.spec.method import ReftSpec
from finetune_api.status import Rollouts

from finetune_trainer.data.batches.steps import step_rows, total_steps
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.distributed.sharding import unfreeze
from finetune_trainer.errors import Diverged, StopRequested
from finetune_trainer.faults import reach
from finetune_trainer.hardware.device import peak_memory_bytes
from finetune_trainer.hardware.memory import halved
from finetune_trainer.methods.lora.attach import attach
from finetune_trainer.methods.reft.collapse import collapsed, remark, stuck
from finetune_trainer.methods.reft.metrics import Spent, see
from finetune_trainer.methods.reft.policy import Policy
from finetune_trainer.methods.reft.rollout import Sampled, check_sampling, sample
from finetune_trainer.methods.reft.state import PpoState, is_ppo_checkpoint
from finetune_trainer.methods.reft.update import TOO_LONG, Batch, Room, Updated, prepare_batch, update
from finetune_trainer.progress.limits import stop_reason
from finetune_trainer.progress.state import StepReport
from finetune_trainer.rewards.answers import Verdict
from finetune_trainer.trained_model import TrainedModel
from finetune_trainer.trained_model.peft_adapter import PeftAdapter
from finetune_trainer.trained_model.whole_model import WholeModel
from finetune_trainer.training.result import RolloutExample, TrainingResult
from finetune_trainer.training.resume import resume_progress
from finetune_trainer.training.schedule import ramp
from finetune_trainer.training.sft import LEAVING_SECONDS, fine_tune
from finetune_trainer.training.training_run import TrainingRun

_ROWS = {False: 128, True: 256}
"""Most responses that are sampled at once, on a CPU and on a GPU."""
_GPU_TOKENS = 65_536


def train(run: TrainingRun) -> TrainingResult:
    """Warm up, then reinforce; errors as in `fine_tune`, and these.

    Raises:
        BadConfig: unknown target modules.
        Diverged: the policy collapsed; the last checkpoint is kept.
        OutOfMemory: responses don't fit.
    """
    settings = run.spec.method.reft
    assert settings is not None
    check_sampling(run.model)
    trained_model, round_back = _learning(run, settings)
    folder = run.scratch / "resume"
    found = run.checkpoints.newest(run.identity, folder)
    resumed = found is not None and is_ppo_checkpoint(folder)
    if resumed:
        training = run.spec.training
        warm_up = total_steps(len(run.data.train), training.batch_size, training.epochs, training.max_steps)
        assert found is not None
        resume_progress(run, found, folder, warm_up + settings.ppo.steps)
    else:
        warmed = fine_tune(run, trained_model)
        warm_up = warmed.total_steps
    if not resumed and warmed.stopped_early:
        trained = warmed
    else:
        run.state.enter(Stage.PPO)
        trained = _Reinforcement(run, settings, trained_model, warm_up, folder if resumed else None).run()
    # What is evaluated is what is published: in the type that the base was in.
    round_back()
    return trained


def _learning(run: TrainingRun, settings: ReftSpec) -> tuple[TrainedModel, Callable[[], None]]:
    """What learns, in both stages, and what rounds it to the base's type afterwards."""
    if settings.policy is ReftPolicy.FULL:
        round_back = unfreeze(list(run.model.parameters()))
        return WholeModel(run.model, run.tokenizer), round_back
    assert settings.lora is not None
    model = attach(run, settings.lora, "spec.method.reft.lora", dora=settings.policy is ReftPolicy.DORA)
    return PeftAdapter(model, settings.lora.learning_rate_ratio or 1.0), lambda: None


class _Reinforcement:
    """PPO, from the warm-up or a checkpoint on.

    Several processes sample and judge an equal share of every step's questions each, and learn together; all of them
    decide the same at the same moment, and the first one writes.
    """

    def __init__(self, run: TrainingRun, settings: ReftSpec, trained_model: TrainedModel, warm_up: int,
                 resume: Path | None) -> None:
        self._run = run
        self._trained_model = trained_model
        self._ppo = settings.ppo
        self._warm_up = warm_up
        self._total = warm_up + self._ppo.steps
        self._seed = run.spec.training.seed
        self._chat = ChatFormat(run.tokenizer, run.spec.dataset.system)
        assert run.judge is not None
        self._judge = run.judge
        self._policy = Policy(trained_model.model, int(run.tokenizer.pad_token_id), self._ppo.temperature,
                              run.device.dtype if settings.policy is ReftPolicy.FULL else torch.float32)
        assert self._ppo.learning_rate is not None and self._ppo.value_learning_rate is not None
        self._rates = (self._ppo.learning_rate, self._ppo.value_learning_rate)
        self._state = PpoState(self._policy, self._policy.optimizer(*self._rates))
        if resume:
            self._state.read(resume)
        self._saved = self._state.step if resume else 0
        run.world.check_equal({"job": run.identity.spec_hash, "data": run.identity.data_hash,
                         "base weights": run.identity.base_hash, "newest checkpoint": self._state.step})
        self._vocabulary = int(self._policy.model.config.get_text_config().vocab_size)
        self._room = Room.on(run.device.is_gpu, self._vocabulary, run.spec.training.micro_batch_size)
        rows = run.data.train
        self._at_once = _ROWS[run.device.is_gpu]
        self._longest = self._ppo.max_new_tokens or math.ceil(1.25 * max(len(row.answer) for row in rows))

    def run(self) -> TrainingResult:
        """The remaining steps."""
        state, ppo, reason = self._state, self._ppo, None
        try:
            for questions in self._questions():
                state.keep()
                began = self._run.clock.seconds()
                sampled = self._roll_out(questions)
                self._check()
                verdicts = self._reward(questions, sampled)
                reach(f"step-{self._warm_up + state.step + 1}")
                batch = self._advantage(questions, sampled, verdicts)
                middle = self._run.clock.seconds()
                updated = self._update(batch)
                spent = Spent(middle - began, self._run.clock.seconds() - middle)
                seen, loss, tokens = see(batch, verdicts, sampled, updated, spent, self._run.world)
                state.done(seen, self._examples(questions, sampled, verdicts))
                reason = self._after_step(loss, updated.grad_norm, tokens, seen)
                if reason:
                    break
        except StopRequested:
            state.retreat()
            self._save()
            self._run.uploader.drain()
            raise StopRequested(f"stopped at step {self._warm_up + state.step} of {self._total}; the checkpoint of "
                                "that step is in the output") from None
        self._run.world.barrier("reinforced", lambda: None, LEAVING_SECONDS)
        return TrainingResult(
            trained_model=self._trained_model, step=self._warm_up + state.step, total_steps=self._total,
            resumed_from_step=self._run.state.resumed_from_step,
            micro_batch_size=self._room.rows or ppo.mini_batch_size,
            trainable_parameters=sum(p.numel() for p in self._policy.trainable.values()), stopped_early=reason,
            remark=None if reason else remark(state.history, ppo.rollouts),
            rollouts=(*state.first_examples, *state.last_examples),
        )

    def _check(self) -> None:
        """Stop if somebody asked any of the processes to: all of them ask at the same moment.

        Raises:
            StopRequested: somebody did.
        """
        if self._run.world.any(self._run.stop.is_set):
            raise StopRequested("stopped")

    def _check_alone(self) -> None:
        """The same between two moments at which several processes may ask each other."""
        if self._run.world.size == 1:
            self._check()

    def _questions(self) -> Iterator[tuple[int, ...]]:
        """The rows that this process asks in each remaining step: epoch after epoch, each in an order of its own."""
        world = self._run.world
        plan = step_rows(len(self._run.data.train), self._ppo.rollouts, self._seed, self._ppo.steps)
        yield from (step[world.rank::world.size] for step in list(plan)[self._state.step:])

    def _roll_out(self, questions: Sequence[int]) -> Sampled:
        prompts = [self._run.data.train[index].prompt for index in questions]
        if self._run.device.is_gpu:
            self._at_once = min(self._at_once, max(1, _GPU_TOKENS // (max(map(len, prompts)) + self._longest)))
        while True:
            try:
                return self._sample(prompts)
            except torch.OutOfMemoryError as error:
                self._at_once = halved(error, min(self._at_once, len(prompts)), TOO_LONG)
                self._run.state.note(f"out of accelerator memory: going on with {self._at_once} responses at once")

    def _sample(self, prompts: Sequence[tuple[int, ...]]) -> Sampled:
        tokenizer = self._run.tokenizer
        with self._policy.computing():
            return sample(
                self._policy.model, prompts, end_ids=sorted({self._chat.end_of_turn, int(tokenizer.eos_token_id)}),
                pad_id=int(tokenizer.pad_token_id), max_new_tokens=self._longest, batch_size=self._at_once,
                temperature=self._ppo.temperature, check=self._check_alone,
                generator=torch.Generator(self._policy.device).manual_seed(self._chance("sample").getrandbits(63)))

    def _reward(self, questions: Sequence[int], sampled: Sampled) -> list[Verdict]:
        rows = [self._run.data.train_examples[index] for index in questions]
        return self._judge.judge([self._chat.text(ids) for ids in sampled.responses], rows)

    def _advantage(self, questions: Sequence[int], sampled: Sampled, verdicts: Sequence[Verdict]) -> Batch:
        prompts = [self._run.data.train[index].prompt for index in questions]
        rewards = [verdict.reward for verdict in verdicts]
        if self._state.step == 0:
            added, count = self._run.world.all_reduce_sum(
                torch.tensor([sum(rewards), len(rewards)], dtype=torch.float64))
            self._policy.expect(float(added / count))
        return prepare_batch(self._policy, list(zip(prompts, sampled.responses, strict=True)), rewards, self._ppo,
                             self._room, self._check_alone, self._run.world)

    def _update(self, batch: Batch) -> Updated:
        risen = ramp(self._state.step, self._ppo.steps, self._ppo.ramp_steps)
        for group, rate in zip(self._state.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * risen
        return update(self._policy, self._state.optimizer, batch, self._ppo, self._room, self._chance("order"),
                      self._check, self._run.world)

    def _chance(self, what: str) -> random.Random:
        """This process's chance for one purpose of the step that is being done, whatever happened before."""
        rank = self._run.world.rank
        return random.Random(f"{self._seed} ppo {self._state.step + 1} {what}{f' process {rank}' if rank else ''}")

    def _examples(self, questions: Sequence[int], sampled: Sampled, verdicts: Sequence[Verdict]
                  ) -> list[RolloutExample]:
        rows = [self._run.data.train_examples[index] for index in questions[:6]]
        return [RolloutExample(row.question, row.target or "", self._chat.text(ids), verdict.reward)
                for row, ids, verdict in zip(rows, sampled.responses, verdicts, strict=False)]

    def _after_step(self, loss: float, grad_norm: float, tokens: int, seen: Rollouts) -> str | None:
        """Report a step, keep it, and say why it was the last one, if it was."""
        run, state, ppo = self._run, self._state, self._ppo
        step = self._warm_up + state.step
        run.uploader.raise_failure()
        fault = collapsed(state.history, self._vocabulary)
        if fault or not math.isfinite(loss):
            run.uploader.drain()
            raise Diverged(f"{fault or f'the loss of step {step} is {loss}'}; the checkpoint of step "
                           f"{run.checkpoints.complete_step} is kept. Try a lower spec.method.reft.ppo.learningRate or "
                           "a higher klCoefficient")
        because = None
        if state.step < ppo.steps:
            limit = stop_reason(run.limits.read(), run.clock.now(), run.state.spending(), run.reserve) \
                if run.world.is_main else None
            because = f"because {limit}" if limit else stuck(state.history)
        early, stopping, complete = run.world.all_reduce_max(
            bool(because), run.stop.is_set, run.checkpoints.complete_step)
        run.state.checkpoint_step = complete
        run.state.step_done(StepReport(
            step=step, total_steps=self._total, epoch=state.step * ppo.rollouts / len(run.data.train),
            loss=loss, learning_rate=state.optimizer.param_groups[0]["lr"], grad_norm=grad_norm,
            tokens=tokens, seconds=seen.rollout_seconds + seen.update_seconds,
            peak_memory_bytes=peak_memory_bytes(run.device), earlier_steps=self._warm_up, rollouts=seen))
        reason = f"training stopped after step {step} of {self._total}: {because or 'the first process says so'}" \
            if early else None
        if reason or state.step == ppo.steps or state.step % ppo.checkpoint_every == 0:
            self._save()
        if stopping:
            state.keep()
            raise StopRequested("stopped")
        return reason

    def _save(self) -> None:
        run, step = self._run, self._warm_up + self._state.step
        if self._state.step == self._saved:
            return
        self._saved = self._state.step
        if not run.world.is_main:
            return
        folder = self._state.write(run.scratch / f"ppo-{step}", run.metrics.path)
        run.checkpoints.save(folder, step, run.identity, run.state.trained_seconds())
