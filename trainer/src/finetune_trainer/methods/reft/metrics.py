"""The metrics of a PPO step, over the responses of all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from finetune_api.status import Rollouts

from finetune_trainer.distributed.collectives import World
from finetune_trainer.methods.reft.advantages import explained_variance
from finetune_trainer.methods.reft.rollout import Rollout
from finetune_trainer.methods.reft.trajectory import Trajectory
from finetune_trainer.methods.reft.update import PpoStats
from finetune_trainer.rewards.judging import Verdict


@dataclass(frozen=True)
class StepTimings:
    """Seconds of a step: `rollout` ends with the advantages, `update` is the rest."""

    rollout: float
    update: float


@dataclass(frozen=True)
class StepMetrics:
    """What a step came to.

    Attributes:
        rollouts: the metrics that progress and checkpoints show.
        loss: mean over the optimizer steps.
        trained_tokens: tokens of prompts and responses that the step learnt from.
    """

    rollouts: Rollouts
    loss: float
    trained_tokens: int


@dataclass(frozen=True)
class RolloutSums:
    """Sums over the responses of one rank; `all_reduce` gives those over all ranks.

    Attributes:
        responses: how many responses.
        reward: their rewards.
        right: how many of them are right.
        kl: distance from the reference, in nats.
        response_tokens: tokens that PPO scores.
        entropy: over these tokens, in nats.
        clipped: tokens that were clipped.
        sampled_tokens: tokens that were sampled.
        loss: shares of the loss.
        trained_tokens: tokens of prompts and responses.
    """

    responses: float
    reward: float
    right: float
    kl: float
    response_tokens: float
    entropy: float
    clipped: float
    sampled_tokens: float
    loss: float
    trained_tokens: float

    def all_reduce(self, world: World) -> RolloutSums:
        """The sums over all ranks. A collective."""
        return RolloutSums(*world.all_reduce_sum(torch.tensor(astuple(self), dtype=torch.float64)).tolist())


def rollout_metrics(trajectory: Trajectory, verdicts: Sequence[Verdict], rollout: Rollout, stats: PpoStats,
                    timings: StepTimings, world: World) -> StepMetrics:
    """The metrics of a step over all ranks. A collective."""
    tokens = float(trajectory.mask.sum())
    sums = RolloutSums(
        responses=len(verdicts),
        reward=sum(verdict.reward for verdict in verdicts),
        right=sum(verdict.right for verdict in verdicts),
        kl=trajectory.kl * len(verdicts),
        response_tokens=tokens,
        entropy=float(trajectory.old.entropies.sum()),
        clipped=stats.clipped * tokens,
        sampled_tokens=rollout.tokens,
        loss=stats.loss,
        trained_tokens=sum(trajectory.lengths),
    ).all_reduce(world)
    rollouts = Rollouts(
        reward=sums.reward / sums.responses,
        accuracy=sums.right / sums.responses,
        kl=sums.kl / sums.responses,
        clip_fraction=sums.clipped / sums.response_tokens,
        explained_variance=explained_variance(trajectory.old.values, trajectory.returns, trajectory.mask,
                                              world.all_reduce_sum),
        entropy=sums.entropy / sums.response_tokens,
        response_tokens=sums.sampled_tokens / sums.responses,
        rollout_seconds=round(timings.rollout, 4),
        update_seconds=round(timings.update, 4),
    )
    return StepMetrics(rollouts, sums.loss, int(sums.trained_tokens))
