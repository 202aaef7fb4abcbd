"""What a step of PPO saw, in numbers: summed over all processes that sampled a part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from finetune_api.status import Rollouts

from finetune_trainer.distributed.collectives import World
from finetune_trainer.methods.reft.advantages import explained_variance
from finetune_trainer.methods.reft.rollout import Sampled
from finetune_trainer.methods.reft.update import Batch, Updated
from finetune_trainer.rewards.answers import Verdict


@dataclass(frozen=True)
class Spent:
    """Seconds of a step's two halves."""

    rollout: float
    update: float


def see(batch: Batch, verdicts: Sequence[Verdict], sampled: Sampled, updated: Updated, spent: Spent, world: World
        ) -> tuple[Rollouts, float, int]:
    """What all processes saw in a step, in numbers; its loss; and the tokens that were learnt from."""
    tokens = float(batch.mask.sum())
    responses, reward, right, kl, there, entropy, clipped, drawn, loss, learnt = world.all_reduce_sum(torch.tensor([
        len(verdicts), sum(verdict.reward for verdict in verdicts), sum(verdict.right for verdict in verdicts),
        batch.kl * len(verdicts), tokens, float(batch.entropies.sum()), updated.clipped * tokens, sampled.tokens,
        updated.loss, sum(batch.lengths)], dtype=torch.float64)).tolist()
    return Rollouts(
        reward=reward / responses, accuracy=right / responses, kl=kl / responses, clip_fraction=clipped / there,
        explained_variance=explained_variance(batch.values, batch.returns, batch.mask, world.all_reduce_sum),
        entropy=entropy / there, response_tokens=drawn / responses,
        rollout_seconds=round(spent.rollout, 4), update_seconds=round(spent.update, 4)), loss, int(learnt)
