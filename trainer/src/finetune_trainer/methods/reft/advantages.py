"""What PPO computes from a batch of responses: rewards, advantages, whitening, and its two losses. Pure.

Every tensor is (responses, tokens): responses end together at the right edge, and a mask of ones and zeros says which
tokens there are. A token's value was predicted just before it was written. Luong et al., 2024 (arXiv:2401.08967).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]


def _alone(numbers: Tensor) -> Tensor:
    return numbers


def token_rewards(scores: Tensor, log_probs: Tensor, reference: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """The score on the last token, and on every token minus the price of its distance from the reference.

    The distance is that of the sampled token alone, log π − log π₀: its mean is the Kullback-Leibler divergence.

    Args:
        scores: what each whole response is worth (responses,).
        log_probs: of the tokens under the policy that wrote them, in nats.
        reference: the same under the warm-up's model.
        mask: which tokens there are.
        kl_coefficient: price of a nat.
    """
    rewards = -kl_coefficient * (log_probs - reference) * mask
    rewards[:, -1] += scores
    return rewards


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, decay: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns that values should have predicted.

    A_t = δ_t + γλ·A_{t+1} with δ_t = r_t + γ·V_{t+1} − V_t; after the last token all is 0. The return is A_t + V_t.
    Schulman et al., 2016 (arXiv:1506.02438).
    """
    estimates = torch.zeros_like(rewards)
    following = next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        here = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * decay * following) * here
        next_value = values[:, t] * here
        estimates[:, t] = following
    return estimates, (estimates + values) * mask


def whiten(values: Tensor, mask: Tensor, total: Total = _alone) -> Tensor:
    """Values with mean 0 and variance 1 over all tokens that there are; those that aren't are 0.

    Args:
        values: what is whitened.
        mask: which tokens there are.
        total: adds up a tensor over the processes that have a part of the values each.
    """
    mean, variance = _moments(values, mask, total)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def _moments(values: Tensor, mask: Tensor, total: Total) -> tuple[Tensor, Tensor]:
    """Mean and variance over all tokens that there are."""
    count, added = total(torch.stack([mask.sum(), (values * mask).sum()]))
    mean = added / count
    return mean, total(((values - mean).square() * mask).sum()) / count


def per_response(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over each response's tokens, summed over responses: a long response weighs no more than a short one."""
    return ((values * mask).sum(1) / mask.sum(1)).sum()


def policy_loss(log_probs: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The clipped surrogate, per response and summed, and how many tokens were clipped.

    max(−A·ρ, −A·clip(ρ, 1 ± ε)) with ρ = π/π_old. Schulman et al., 2017 (arXiv:1707.06347).
    """
    ratio = torch.exp(log_probs - old)
    free, clipped = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)
    return per_response(torch.maximum(free, clipped), mask), ((clipped > free) * mask).sum()


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Half the squared error of the values, or of the values kept within `clip` of the old ones where that is more."""
    kept = old + (values - old).clamp(-clip, clip)
    return per_response(0.5 * torch.maximum((values - returns).square(), (kept - returns).square()), mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, total: Total = _alone) -> float:
    """1 − Var(returns − values) / Var(returns) over all tokens; 1 is perfect, 0 no better than a constant."""
    (_, spread), (_, error) = _moments(returns, mask, total), _moments(returns - values, mask, total)
    return float(1 - error / spread) if spread > 1e-12 else 0.0
