"""PPO's passes over a trajectory: the policy becomes better, within bounds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune_trainer.faults import run_out_of_memory
from finetune_trainer.methods.reft.advantages import policy_loss, value_loss
from finetune_trainer.methods.reft.trajectory import Learner, Trajectory


@dataclass(frozen=True)
class PpoStats:
    """How the passes over a trajectory went.

    Attributes:
        loss: this rank's share of the loss, as a mean over the optimizer steps; the shares of all ranks add up to it.
        clipped: the share of this rank's tokens that were clipped.
        grad_norm: mean over the optimizer steps.
    """

    loss: float
    clipped: float
    grad_norm: float


def update(learner: Learner, optimizer: torch.optim.Optimizer, trajectory: Trajectory, order: random.Random,
           check: Callable[[], None]) -> PpoStats:
    """Pass over a trajectory `ppo.epochs` times, mini-batch by mini-batch, each time in another order.

    Every rank has an equal share of each mini-batch, and all ranks take the same optimizer step.

    Args:
        learner: what learns.
        optimizer: over the learner's parameters.
        trajectory: this rank's responses.
        order: draws the order of the responses.
        check: called before every optimizer step, on all ranks at the same moment; raises to stop.

    Raises:
        OutOfMemory: a single response doesn't fit.
    """
    policy, ppo, world = learner.policy, learner.ppo, learner.world
    losses, clipped, norms = [], 0.0, []
    share = ppo.mini_batch_size // world.size
    for _ in range(ppo.epochs):
        indices = list(range(len(trajectory.dialogues)))
        order.shuffle(indices)
        for start in range(0, len(indices), share):
            check()
            loss, clips = _accumulate_gradients(learner, optimizer, trajectory, indices[start:start + share])
            world.all_reduce_gradients(policy.parameters())
            norms.append(float(torch.nn.utils.clip_grad_norm_(policy.parameters(), ppo.max_grad_norm)))
            optimizer.step()
            losses.append(loss)
            clipped += clips
    optimizer.zero_grad(set_to_none=True)
    tokens = ppo.epochs * float(trajectory.mask.sum())
    return PpoStats(sum(losses) / len(losses), clipped / tokens, sum(norms) / len(norms))


def _accumulate_gradients(learner: Learner, optimizer: torch.optim.Optimizer, trajectory: Trajectory,
                          indices: Sequence[int]) -> tuple[float, float]:
    """The gradient of a mini-batch, from as many forward passes as the limits ask for; its loss, and tokens clipped."""
    while True:
        optimizer.zero_grad(set_to_none=True)
        total = clips = 0.0
        batches = learner.limits.split(indices, trajectory.lengths)
        try:
            for batch in batches:
                run_out_of_memory(len(batch))
                loss, clipped = _backward(learner, trajectory, batch)
                total, clips = total + loss, clips + clipped
            return total, clips
        except torch.OutOfMemoryError as error:
            learner.limits.halve(error, max(map(len, batches)))


def _backward(learner: Learner, trajectory: Trajectory, batch: Sequence[int]) -> tuple[float, float]:
    """One forward and backward pass in a frame of its own: when it fails, nothing refers to its graph any more."""
    loss, clipped = _loss(learner, trajectory, batch)
    loss = loss / learner.ppo.mini_batch_size
    loss.backward()
    return float(loss.detach()), float(clipped)


def _loss(learner: Learner, trajectory: Trajectory, batch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The policy's loss plus the weighted loss of the values, summed over the batch; and tokens clipped."""
    ppo = learner.ppo
    scored = learner.policy.score([trajectory.dialogues[index] for index in batch])
    width = scored.mask.shape[1]

    def of(whole: Tensor) -> Tensor:
        return whole[torch.tensor(batch, device=whole.device), whole.shape[1] - width:]

    acting, clipped = policy_loss(scored.log_probs, of(trajectory.old.log_probs), of(trajectory.advantages),
                                  scored.mask, ppo.clip_range)
    judging = value_loss(scored.values, of(trajectory.old.values), of(trajectory.returns), scored.mask,
                         ppo.value_clip_range)
    return acting + ppo.value_coefficient * judging, clipped
