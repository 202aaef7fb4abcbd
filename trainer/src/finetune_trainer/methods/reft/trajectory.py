"""A step's responses with everything that PPO learns from: log-probabilities, values, rewards and advantages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from finetune_api.methods.reft import PpoSpec
from torch import Tensor

from finetune_trainer.distributed.collectives import World
from finetune_trainer.faults import run_out_of_memory
from finetune_trainer.methods.reft.advantages import advantages, token_rewards, whiten
from finetune_trainer.methods.reft.micro_batches import MicroBatchLimits
from finetune_trainer.methods.reft.policy import Dialogue, Policy, Scored


@dataclass(frozen=True)
class Learner:
    """What learns, and by which settings.

    Attributes:
        policy: the model, its value head and its frozen start.
        ppo: the settings of PPO, resolved.
        limits: how much one forward pass holds.
        world: the processes that learn together.
    """

    policy: Policy
    ppo: PpoSpec
    limits: MicroBatchLimits
    world: World


@dataclass(frozen=True)
class Trajectory:
    """Sampled responses with what PPO learns from. Tensors are (responses, longest response), see `Scored`.

    Attributes:
        dialogues: ids of each prompt and its response.
        old: what the policy that wrote the responses says of them.
        reference_log_probs: log-probabilities under the frozen start, in nats.
        returns: what the values should have predicted.
        advantages: whitened over the responses of all ranks.
    """

    dialogues: Sequence[Dialogue]
    old: Scored
    reference_log_probs: Tensor
    returns: Tensor
    advantages: Tensor

    @property
    def mask(self) -> Tensor:
        """1 for a token, 0 for padding."""
        return self.old.mask

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt and response together."""
        return [len(prompt) + len(response) for prompt, response in self.dialogues]

    @property
    def kl(self) -> float:
        """Mean distance from the reference in nats per response, as sampled."""
        return float(((self.old.log_probs - self.reference_log_probs) * self.mask).sum() / len(self.dialogues))


@torch.no_grad()
def make_trajectory(learner: Learner, dialogues: Sequence[Dialogue], scores: Sequence[float],
                    check: Callable[[], None]) -> Trajectory:
    """Score responses under the policy and the reference, and estimate advantages and returns.

    The old log-probabilities come from a full forward pass and not from the sampler, whose batches are others.
    Advantages are whitened over the responses of all ranks.

    Args:
        learner: what learns.
        dialogues: ids of each prompt and its response.
        scores: the reward of each whole response.
        check: called before every forward pass; raises to stop.

    Raises:
        OutOfMemory: a single response doesn't fit.
        ValueError: the settings are not resolved.
    """
    policy, ppo = learner.policy, learner.ppo
    if ppo.kl_coefficient is None:
        raise ValueError("ppo.klCoefficient is not resolved")
    old = _score_all(learner, dialogues, check)
    with policy.as_reference():
        reference = _score_all(learner, dialogues, check).log_probs
    rewards = token_rewards(torch.tensor(scores, device=policy.device), old.log_probs, reference, old.mask,
                            ppo.kl_coefficient)
    estimates, returns = advantages(rewards, old.values, old.mask, ppo.gamma, ppo.gae_lambda)
    return Trajectory(dialogues, old, reference, returns, whiten(estimates, old.mask, learner.world.all_reduce_sum))


def _score_all(learner: Learner, dialogues: Sequence[Dialogue], check: Callable[[], None]) -> Scored:
    """What the policy says of all responses, in as many forward passes as the limits ask for."""
    lengths = [len(prompt) + len(response) for prompt, response in dialogues]
    while True:
        batches = learner.limits.split(range(len(dialogues)), lengths)
        try:
            return _score_batches(learner.policy, dialogues, batches, check)
        except torch.OutOfMemoryError as error:
            learner.limits.halve(error, max(map(len, batches)))


def _score_batches(policy: Policy, dialogues: Sequence[Dialogue], batches: Sequence[Sequence[int]],
                   check: Callable[[], None]) -> Scored:
    longest = max(len(response) for _, response in dialogues)
    whole = Scored(*(torch.zeros(len(dialogues), longest, device=policy.device) for _ in range(4)))
    for batch in batches:
        check()
        run_out_of_memory(len(batch), "oom-scoring")
        scored = policy.score([dialogues[index] for index in batch])
        rows = torch.tensor(batch, device=policy.device)
        for target, part in zip(whole.tensors, scored.tensors, strict=True):
            target[rows, longest - part.shape[1]:] = part
    return whole
