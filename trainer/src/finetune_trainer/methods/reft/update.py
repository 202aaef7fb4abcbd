"""From sampled responses to a better policy: scoring them, and PPO's passes over them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from finetune_api.methods.reft import PpoSpec
from torch import Tensor

from finetune_trainer.distributed.collectives import World
from finetune_trainer.faults import run_out_of_memory
from finetune_trainer.hardware.memory import halved
from finetune_trainer.methods.reft.advantages import advantages, policy_loss, token_rewards, value_loss, whiten
from finetune_trainer.methods.reft.policy import Dialogue, Policy, portions

TOO_LONG = ("the accelerator's memory doesn't suffice for a single response: write a smaller "
            "spec.method.reft.ppo.maxNewTokens, or quantization: nf4")
_CPU_TOKENS = 8_192
_GPU_TOKENS = 16_384
_LOGIT_BUDGET = 512 * 1024**2


@dataclass
class Room:
    """How much fits in a forward pass; halved when memory runs out.

    Attributes:
        tokens: most tokens, padding included.
        rows: most rows, or None.
    """

    tokens: int
    rows: int | None

    @classmethod
    def on(cls, is_gpu: bool, vocabulary: int, rows: int | None) -> Room:
        """What usually fits: the logits of all tokens within a budget."""
        return cls(min(_GPU_TOKENS if is_gpu else _CPU_TOKENS, max(64, _LOGIT_BUDGET // (4 * vocabulary))), rows)


@dataclass(frozen=True)
class Batch:
    """Sampled responses with everything that PPO learns from; tensors are (responses, longest), see `Scored`."""

    dialogues: Sequence[Dialogue]
    mask: Tensor
    log_probs: Tensor
    reference: Tensor
    values: Tensor
    entropies: Tensor
    returns: Tensor
    advantages: Tensor

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt and response together."""
        return [len(prompt) + len(response) for prompt, response in self.dialogues]

    @property
    def kl(self) -> float:
        """Mean distance from the reference in nats per response, as sampled."""
        return float(((self.log_probs - self.reference) * self.mask).sum() / len(self.dialogues))


@dataclass(frozen=True)
class Updated:
    """How the passes over a batch went.

    Attributes:
        loss: this process's share of the loss, as a mean over the optimizer steps; the shares of all add up to it.
        clipped: the share of this process's tokens that were clipped.
        grad_norm: mean over the optimizer steps.
    """

    loss: float
    clipped: float
    grad_norm: float


@torch.no_grad()
def prepare_batch(policy: Policy, dialogues: Sequence[Dialogue], scores: Sequence[float], ppo: PpoSpec, room: Room,
                  check: Callable[[], None], world: World) -> Batch:
    """Old log-probabilities and values, the reference's log-probabilities, rewards, advantages and returns.

    The old log-probabilities come from a full forward pass and not from the sampler, whose batches are others.
    Advantages are whitened over the responses of all processes.
    """
    assert ppo.kl_coefficient is not None
    log_probs, values, entropies, mask = _score_all(policy, dialogues, room, check)
    with policy.as_reference():
        reference, *_ = _score_all(policy, dialogues, room, check)
    rewards = token_rewards(torch.tensor(scores, device=policy.device), log_probs, reference, mask, ppo.kl_coefficient)
    estimates, returns = advantages(rewards, values, mask, ppo.gamma, ppo.gae_lambda)
    return Batch(dialogues, mask, log_probs, reference, values, entropies, returns,
                 whiten(estimates, mask, world.all_reduce_sum))


def _score_all(policy: Policy, dialogues: Sequence[Dialogue], room: Room, check: Callable[[], None]
               ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the policy thinks of all responses, in as many passes as memory wants."""
    lengths = [len(prompt) + len(response) for prompt, response in dialogues]
    while True:
        groups = portions(range(len(dialogues)), lengths, room.tokens, room.rows)
        try:
            return _score_groups(policy, dialogues, groups, check)
        except torch.OutOfMemoryError as error:
            room.rows = halved(error, max(map(len, groups)), TOO_LONG)


def _score_groups(policy: Policy, dialogues: Sequence[Dialogue], groups: Sequence[Sequence[int]],
                  check: Callable[[], None]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    longest = max(len(response) for _, response in dialogues)
    whole = tuple(torch.zeros(len(dialogues), longest, device=policy.device) for _ in range(4))
    for group in groups:
        check()
        run_out_of_memory(len(group), "oom-scoring")
        scored = policy.score([dialogues[index] for index in group])
        rows = torch.tensor(group, device=policy.device)
        for target, part in zip(whole, (scored.log_probs, scored.values, scored.entropies, scored.mask), strict=True):
            target[rows, longest - part.shape[1]:] = part
    return whole  # type: ignore[return-value]


def update(policy: Policy, optimizer: torch.optim.Optimizer, batch: Batch, ppo: PpoSpec, room: Room,
           chance: random.Random, check: Callable[[], None], world: World) -> Updated:
    """PPO's passes over a batch, mini-batch by mini-batch, each in an order of its own.

    Every process has an equal share of each mini-batch, and all take the same step.

    Raises:
        OutOfMemory: a single response doesn't fit.
    """
    losses, clipped, norms = [], 0.0, []
    share = ppo.mini_batch_size // world.size
    for _ in range(ppo.epochs):
        order = list(range(len(batch.dialogues)))
        chance.shuffle(order)
        for start in range(0, len(order), share):
            check()
            loss, clips = _accumulate(policy, optimizer, batch, order[start:start + share], ppo, room)
            world.all_reduce_gradients(policy.parameters())
            norms.append(float(torch.nn.utils.clip_grad_norm_(policy.parameters(), ppo.max_grad_norm)))
            optimizer.step()
            losses.append(loss)
            clipped += clips
    optimizer.zero_grad(set_to_none=True)
    return Updated(sum(losses) / len(losses), clipped / (ppo.epochs * float(batch.mask.sum())), sum(norms) / len(norms))


def _accumulate(policy: Policy, optimizer: torch.optim.Optimizer, batch: Batch, chosen: Sequence[int], ppo: PpoSpec,
                room: Room) -> tuple[float, float]:
    """The gradient of a mini-batch, from as many forward passes as memory wants; its loss, and tokens clipped."""
    while True:
        optimizer.zero_grad(set_to_none=True)
        total = clips = 0.0
        try:
            for group in portions(chosen, batch.lengths, room.tokens, room.rows):
                run_out_of_memory(len(group))
                loss, clipped = _backward(policy, batch, group, ppo)
                total, clips = total + loss, clips + clipped
            return total, clips
        except torch.OutOfMemoryError as error:
            most = max(map(len, portions(chosen, batch.lengths, room.tokens, room.rows)))
            room.rows = halved(error, most, TOO_LONG)


def _backward(policy: Policy, batch: Batch, group: Sequence[int], ppo: PpoSpec) -> tuple[float, float]:
    """One pass of its own: where it fails, nothing holds its graph any more."""
    loss, clipped = _loss(policy, batch, group, ppo)
    loss = loss / ppo.mini_batch_size
    loss.backward()
    return float(loss.detach()), float(clipped)


def _loss(policy: Policy, batch: Batch, group: Sequence[int], ppo: PpoSpec) -> tuple[Tensor, Tensor]:
    scored = policy.score([batch.dialogues[index] for index in group])
    width = scored.mask.shape[1]

    def of(whole: Tensor) -> Tensor:
        return whole[torch.tensor(group, device=whole.device), whole.shape[1] - width:]

    acting, clipped = policy_loss(scored.log_probs, of(batch.log_probs), of(batch.advantages), scored.mask,
                                  ppo.clip_range)
    judging = value_loss(scored.values, of(batch.values), of(batch.returns), scored.mask, ppo.value_clip_range)
    return acting + ppo.value_coefficient * judging, clipped
