"""The policy, its frozen start, and its value head.

What doesn't learn is in memory once: for an adapter that is the base model, and the reference takes an adapter more.
Where all weights learn the reference is a second model, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor

from finetune_trainer.methods.reft.rollout import left_padded, positions
from finetune_trainer.trained_model import weights_changed

Weights = dict[str, Tensor]
Dialogue = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids of a prompt and of the response to it."""


@dataclass(frozen=True)
class Scored:
    """What a model says of responses; each tensor is (responses, longest), responses end at the right edge.

    Attributes:
        log_probs: of the tokens that were written, in nats.
        values: predicted just before each token.
        entropies: of the distribution that each token was drawn from, in nats; without a gradient.
        mask: 1 for a token, 0 for padding.
    """

    log_probs: Tensor
    values: Tensor
    entropies: Tensor
    mask: Tensor


class Policy:
    """A model that acts, in eval mode throughout: PPO compares probabilities, which dropout would blur.

    Attributes:
        model: the model with the adapter that learns.
        value_head: one linear layer on the last hidden state, float32, at first zero; so is that of Ziegler et al.,
            2019 (arXiv:1909.08593), whom the paper follows. Its own code starts from noise.
        trainable: the parameters that learn, by name.
        reference: their values in the frozen start.
    """

    def __init__(self, model: Any, pad_id: int, temperature: float, dtype: torch.dtype = torch.float32) -> None:
        """
        Args:
            model: with the parameters that learn requiring gradients.
            pad_id: id to pad with.
            temperature: logits are divided by it.
            dtype: what is computed in where the model's own weights are kept in float32.
        """
        # Without accelerate's wrapper for mixed precision, which a model that resumes here has not got either.
        self.model = extract_model_from_parallel(model, keep_fp32_wrapper=False).eval()
        self.trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.trainable.values())).device
        hidden_size = self.model.config.get_text_config().hidden_size
        self.value_head = torch.nn.utils.skip_init(torch.nn.Linear, hidden_size, 1, device=self.device)
        for parameter in self.value_head.parameters():
            torch.nn.init.zeros_(parameter)
        self._pad_id = pad_id
        self._temperature = temperature
        self._dtype = dtype
        self.reference = {name: p.detach().clone() for name, p in self.trainable.items()}

    def parameters(self) -> list[torch.nn.Parameter]:
        """Everything that learns."""
        return [*self.trainable.values(), *self.value_head.parameters()]

    def optimizer(self, rate: float, value_rate: float) -> torch.optim.AdamW:
        """An optimizer of what acts and of the value head, each at a learning rate of its own."""
        return torch.optim.AdamW([{"params": [*self.trainable.values()], "lr": rate},
                                  {"params": [*self.value_head.parameters()], "lr": value_rate}], weight_decay=0.0)

    @torch.no_grad()
    def expect(self, reward: float) -> None:
        """Let values start from what a response is worth on average: the best guess of who knows nothing yet."""
        torch.nn.init.constant_(self.value_head.bias, reward)

    def weights(self) -> Weights:
        """A copy of what the policy has learnt so far, in the host's memory; the value head is apart."""
        return {name: p.detach().to("cpu", copy=True) for name, p in self.trainable.items()}

    def put(self, weights: Weights) -> None:
        """Take over weights: by load_state_dict, so that whoever caches what follows from them hears of it."""
        self.model.load_state_dict(weights, strict=False)

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """The model as the warm-up left it, on the same base, to the bit: weights change places, and none is copied."""
        self._change_places()
        try:
            yield
        finally:
            self._change_places()

    def _change_places(self) -> None:
        for name, parameter in self.trainable.items():
            parameter.data, self.reference[name] = self.reference[name], parameter.data
        weights_changed(self.model)

    def computing(self) -> AbstractContextManager[Any]:
        """The precision that the model computes in: its own, or a lower one than its weights are kept in."""
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not torch.float32)

    def score(self, dialogues: Sequence[Dialogue]) -> Scored:
        """One forward pass over prompts and responses together."""
        ids, mask = left_padded([prompt + response for prompt, response in dialogues], self._pad_id, self.device)
        longest = max(len(response) for _, response in dialogues)
        with self.computing():
            output = self.model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False,
                                logits_to_keep=longest + 1, output_hidden_states=True)
        # Position i predicts token i + 1, and its value is the one before that token.
        spread = (output.logits[:, :-1].float() / self._temperature).log_softmax(-1)
        log_probs = spread.gather(-1, ids[:, -longest:].unsqueeze(-1)).squeeze(-1)
        values = self.value_head(output.hidden_states[-1][:, -longest - 1:-1].float()).squeeze(-1)
        there = torch.tensor([[0.0] * (longest - len(response)) + [1.0] * len(response) for _, response in dialogues],
                             device=self.device)
        with torch.no_grad():
            entropies = -(spread.exp() * spread).sum(-1)
        return Scored(log_probs * there, values * there, entropies * there, there)


def portions(indices: Sequence[int], lengths: Sequence[int], most_tokens: int, most_rows: int | None
             ) -> list[list[int]]:
    """Indices in groups of like length whose rows, padded to the longest, hold at most so many tokens (or one row)."""
    groups: list[list[int]] = []
    for index in sorted(indices, key=lambda index: (-lengths[index], index)):
        group = groups[-1] if groups else None
        if group and (len(group) + 1) * lengths[group[0]] <= most_tokens and len(group) < (most_rows or len(indices)):
            group.append(index)
        else:
            groups.append([index])
    return groups
