"""The formulas of PPO: rewards per token, advantages, whitening, and the two losses. Pure.

Every tensor has the shape (responses, tokens). Responses are padded on the left. The mask is 1 at real tokens, 0
at padding. The value of a token is predicted before the token is sampled. Luong et al., 2024 (arXiv:2401.08967).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Total = Callable[[Tensor], Tensor]


def _alone(numbers: Tensor) -> Tensor:
    return numbers


def token_rewards(scores: Tensor, log_probs: Tensor, reference: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """The reward of each token: a KL penalty at every token, plus the score of the response at its last token.

    The penalty is the coefficient times log π − log π₀ of the sampled token. The mean of this difference is the KL
    divergence.

    Args:
        scores: the reward of each whole response (responses,).
        log_probs: log-probabilities of the tokens under the policy that sampled them, in nats.
        reference: log-probabilities under the reference model (the warm-up model), in nats.
        mask: 1 at real tokens, 0 at padding.
        kl_coefficient: penalty per nat.
    """
    rewards = -kl_coefficient * (log_probs - reference) * mask
    rewards[:, -1] += scores
    return rewards


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, decay: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates, and the returns, which are the targets of the values.

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
    """The values shifted and scaled to mean 0 and variance 1 over all real tokens; padding is 0.

    Args:
        values: the values to whiten.
        mask: 1 at real tokens, 0 at padding.
        total: sums a tensor over all ranks (all-reduce).
    """
    mean, variance = _moments(values, mask, total)
    return (values - mean) * torch.rsqrt(variance + 1e-8) * mask


def _moments(values: Tensor, mask: Tensor, total: Total) -> tuple[Tensor, Tensor]:
    """Mean and variance over all real tokens."""
    count, added = total(torch.stack([mask.sum(), (values * mask).sum()]))
    mean = added / count
    return mean, total(((values - mean).square() * mask).sum()) / count


def per_response(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens of each response, summed over responses: long and short responses weigh the same."""
    return ((values * mask).sum(1) / mask.sum(1)).sum()


def policy_loss(log_probs: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The clipped surrogate loss, averaged per response and summed over responses, and the number of clipped tokens.

    max(−A·ρ, −A·clip(ρ, 1 ± ε)) with ρ = π/π_old. Schulman et al., 2017 (arXiv:1707.06347).
    """
    ratio = torch.exp(log_probs - old)
    free, clipped = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)
    return per_response(torch.maximum(free, clipped), mask), ((clipped > free) * mask).sum()


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Half the squared error of the values, or of the values clipped to ± `clip` around the old ones if larger."""
    clipped = old + (values - old).clamp(-clip, clip)
    return per_response(0.5 * torch.maximum((values - returns).square(), (clipped - returns).square()), mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor, total: Total = _alone) -> float:
    """1 − Var(returns − values) / Var(returns) over all real tokens. 1 is perfect; 0 is as good as a constant."""
    (_, spread), (_, error) = _moments(returns, mask, total), _moments(returns - values, mask, total)
    return float(1 - error / spread) if spread > 1e-12 else 0.0
