"""ReFT: a supervised warm-up, then PPO on chains of thought that the model samples itself.

Luong et al., 2024, "ReFT: Reasoning with Reinforced Fine-Tuning" (arXiv:2401.08967). Each PPO step samples one response
to each of its questions (roll-out), judges the answers (reward), estimates how much better than expected each token was
(advantage), and makes better tokens more likely, within bounds (update).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from finetune_api.messages import Stage
from finetune_api.methods.low_rank import LowRankSpec
from finetune_api.methods.reft import PpoSpec, ReftPolicy, ReftSpec

from finetune_trainer.data.batches.steps import step_rows
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.distributed.sharding import unfreeze
from finetune_trainer.errors import StopRequested
from finetune_trainer.faults import reach
from finetune_trainer.methods.dora.layer import cached_norms
from finetune_trainer.methods.lora.attach import attach
from finetune_trainer.methods.reft.collapse import remark
from finetune_trainer.methods.reft.metrics import StepTimings, rollout_metrics
from finetune_trainer.methods.reft.micro_batches import MicroBatchLimits
from finetune_trainer.methods.reft.policy import Policy
from finetune_trainer.methods.reft.rollout import Rollout, check_sampling
from finetune_trainer.methods.reft.sampler import ResponseSampler
from finetune_trainer.methods.reft.state import PpoState, is_ppo_checkpoint
from finetune_trainer.methods.reft.step_end import StepEnd
from finetune_trainer.methods.reft.trajectory import Learner, make_trajectory
from finetune_trainer.methods.reft.update import update
from finetune_trainer.rewards.judging import Verdict
from finetune_trainer.trained_model import TrainedModel
from finetune_trainer.trained_model.peft_adapter import PeftAdapter
from finetune_trainer.trained_model.whole_model import WholeModel
from finetune_trainer.training.result import RolloutExample, TrainingResult
from finetune_trainer.training.resumed_progress import resume_progress
from finetune_trainer.training.schedule import ramp
from finetune_trainer.training.sft import LEAVING_SECONDS, fine_tune
from finetune_trainer.training.stop_after import steps_of_run
from finetune_trainer.training.training_run import TrainingRun


def train(run: TrainingRun) -> TrainingResult:
    """Warm up, then reinforce; errors as in `fine_tune`, and these.

    Raises:
        BadConfig: unknown target modules, or a model from which no responses can be sampled.
        Diverged: the policy collapsed; the last checkpoint is kept.
        OutOfMemory: a single response doesn't fit.
    """
    settings: ReftSpec = run.spec.method.settings
    with run.device.autocast():
        check_sampling(run.model)
    with _prepared_policy(run, settings) as trained_model:
        warm_up = _warm_up(run, trained_model, settings.ppo)
        return warm_up.stopped or _reinforce(run, settings, trained_model, warm_up)


@contextmanager
def _prepared_policy(run: TrainingRun, settings: ReftSpec) -> Iterator[TrainedModel]:
    """The model that learns, for as long as it learns in both stages."""
    if settings.policy is ReftPolicy.FULL:
        round_back = unfreeze(list(run.model.parameters()))
        yield WholeModel(run.model, run.tokenizer)
        # What is evaluated is what is published: weights in the type that the base was in.
        round_back()
        return
    adapter, dora = settings.lora or LowRankSpec(), settings.policy is ReftPolicy.DORA
    model = attach(run, adapter, "spec.method.reft.lora", dora=dora)
    with cached_norms(model, run.state.note) if dora else nullcontext():
        yield PeftAdapter(model, adapter.learning_rate_ratio or 1.0)


@dataclass(frozen=True)
class _WarmUp:
    """How PPO starts.

    Attributes:
        steps: optimizer steps of the warm-up.
        checkpoint: the folder of a checkpoint of PPO to resume from, or None.
        stopped: the result, if the warm-up ended before its last step; then there is no PPO.
    """

    steps: int
    checkpoint: Path | None = None
    stopped: TrainingResult | None = None


def _warm_up(run: TrainingRun, trained_model: TrainedModel, ppo: PpoSpec) -> _WarmUp:
    """Fine-tune the model on the training rows, unless a checkpoint of PPO shows that this is done."""
    folder = run.resume_folder
    found = run.checkpoints.newest(run.identity, folder)
    if found is not None and is_ppo_checkpoint(folder):
        steps = steps_of_run(run)
        resume_progress(run, found, folder, steps)
        return _WarmUp(steps - ppo.steps, checkpoint=folder)
    result = fine_tune(run, trained_model)
    stopped = replace(result, total_steps=steps_of_run(run)) if result.stopped_early else None
    return _WarmUp(result.total_steps, stopped=stopped)


def _reinforce(run: TrainingRun, settings: ReftSpec, trained_model: TrainedModel, warm_up: _WarmUp) -> TrainingResult:
    """PPO, from the warm-up or a checkpoint on.

    Every rank samples and judges an equal share of a step's questions, and all learn together.
    """
    run.state.enter(Stage.PPO)
    ppo = settings.ppo
    chat = ChatFormat(run.tokenizer, run.spec.dataset.system)
    learner, state, rates = _start(run, settings, trained_model, warm_up)
    sampler = ResponseSampler(run, learner.policy, ppo, chat.end_of_turn)
    end = StepEnd(run, state, warm_up.steps, ppo.steps)
    reason = end.reason_not_to_begin()
    try:
        for questions in () if reason else _questions(run, ppo, state.step):
            state.take_snapshot()
            began = run.clock.seconds()

            # Roll-out: one response to each question.
            prompts = [run.data.train[index].prompt for index in questions]
            rollout = sampler.roll_out(prompts, _chance(run, state, "sample"), _stop_of_one_process(run))
            _stop_if_requested(run)

            # Reward: what each response is worth.
            verdicts = _judge(run, chat, questions, rollout)
            reach(f"step-{end.step + 1}")
            rewards = [verdict.reward for verdict in verdicts]

            # Advantage: how much better than expected each token was.
            if state.step == 0:
                learner.policy.set_initial_value(_mean_over_ranks(run, rewards))
            dialogues = list(zip(prompts, rollout.responses, strict=True))
            trajectory = make_trajectory(learner, dialogues, rewards, _stop_of_one_process(run))
            middle = run.clock.seconds()

            # Update: better tokens become more likely, within bounds.
            _set_learning_rates(state, rates, ppo)
            stats = update(learner, state.optimizer, trajectory, _chance(run, state, "order"),
                           lambda: _stop_if_requested(run))

            timings = StepTimings(middle - began, run.clock.seconds() - middle)
            metrics = rollout_metrics(trajectory, verdicts, rollout, stats, timings, run.world)
            state.complete_step(metrics.rollouts, _examples(run, chat, questions, rollout, verdicts))
            reason = end.finish(metrics, stats.grad_norm, ppo.checkpoint_every)
            if reason:
                break
    except StopRequested:
        state.restore_snapshot()
        end.save()
        run.uploader.drain()
        raise StopRequested(f"stopped at step {end.step} of {end.total_steps}; the checkpoint of that step is in the "
                            "output") from None
    run.world.barrier("reinforced", lambda: None, LEAVING_SECONDS)
    return TrainingResult(
        trained_model=trained_model, step=end.step, total_steps=end.total_steps,
        resumed_from_step=run.state.resumed_from_step,
        micro_batch_size=learner.limits.rows or ppo.mini_batch_size,
        trainable_parameters=sum(p.numel() for p in learner.policy.trainable.values()), stopped_early=reason,
        remark=None if reason else remark(state.history, ppo.rollouts),
        rollouts=(*state.first_examples, *state.last_examples),
    )


def _start(run: TrainingRun, settings: ReftSpec, trained_model: TrainedModel, warm_up: _WarmUp
           ) -> tuple[Learner, PpoState, tuple[float, float]]:
    """What learns, its state after the warm-up or the checkpoint, and the peak learning rates of policy and values.

    Raises:
        PeerFailure: the ranks start from different states.
    """
    ppo, identity = settings.ppo, run.identity
    if ppo.learning_rate is None or ppo.value_learning_rate is None:
        raise ValueError("the learning rates of spec.method.reft.ppo are not resolved")
    rates = (ppo.learning_rate, ppo.value_learning_rate)
    policy = Policy(trained_model.model, int(run.tokenizer.pad_token_id), ppo.temperature, run.device)
    state = PpoState(policy, policy.optimizer(*rates))
    if warm_up.checkpoint:
        state.read(warm_up.checkpoint)
    run.world.check_equal({"job": identity.spec_hash, "data": identity.data_hash, "base weights": identity.base_hash,
                           "newest checkpoint": state.step})
    vocabulary = int(policy.model.config.get_text_config().vocab_size)
    limits = MicroBatchLimits.usual(run.device.is_gpu, vocabulary, run.spec.training.micro_batch_size)
    return Learner(policy, ppo, limits, run.world), state, rates


def _questions(run: TrainingRun, ppo: PpoSpec, done: int) -> Iterator[tuple[int, ...]]:
    """The training rows that this rank asks in each remaining step: epoch after epoch, each in its own order."""
    world = run.world
    plan = step_rows(len(run.data.train), ppo.rollouts, run.spec.training.seed, ppo.steps)
    yield from (step[world.rank::world.size] for step in list(plan)[done:])


def _judge(run: TrainingRun, chat: ChatFormat, questions: Sequence[int], rollout: Rollout) -> list[Verdict]:
    """What each response is worth."""
    if run.judge is None:
        raise ValueError("a run of ReFT needs a judge")
    rows = [run.data.train_examples[index] for index in questions]
    return run.judge.judge([chat.text(ids) for ids in rollout.responses], rows)


def _mean_over_ranks(run: TrainingRun, rewards: Sequence[float]) -> float:
    """The mean reward over all ranks. A collective."""
    added, count = run.world.all_reduce_sum(torch.tensor([sum(rewards), len(rewards)], dtype=torch.float64))
    return float(added / count)


def _set_learning_rates(state: PpoState, peaks: tuple[float, float], ppo: PpoSpec) -> None:
    """The learning rates of the step that is next."""
    share = ramp(state.step, ppo.steps, ppo.ramp_steps)
    for group, peak in zip(state.optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * share


def _chance(run: TrainingRun, state: PpoState, purpose: str) -> random.Random:
    """This rank's random numbers for one purpose of the next step; they do not depend on what happened before."""
    rank = run.world.rank
    return random.Random(f"{run.spec.training.seed} ppo {state.step + 1} {purpose}{f' process {rank}' if rank else ''}")


def _examples(run: TrainingRun, chat: ChatFormat, questions: Sequence[int], rollout: Rollout,
              verdicts: Sequence[Verdict]) -> list[RolloutExample]:
    """The first responses, for the report."""
    rows = [run.data.train_examples[index] for index in questions[:6]]
    return [RolloutExample(row.question, row.target or "", chat.text(ids), verdict.reward)
            for row, ids, verdict in zip(rows, rollout.responses, verdicts, strict=False)]


def _stop_if_requested(run: TrainingRun) -> None:
    """Stop if any rank was asked to. A collective: all ranks call this at the same moment.

    Raises:
        StopRequested: a rank was asked to stop.
    """
    if run.world.any(run.stop.is_set):
        raise StopRequested("stopped")


def _stop_of_one_process(run: TrainingRun) -> Callable[[], None]:
    """A check for moments that the ranks reach at different times: it does nothing where several ranks train."""
    return (lambda: _stop_if_requested(run)) if run.world.size == 1 else lambda: None
