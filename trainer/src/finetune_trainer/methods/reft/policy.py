"""The policy, its frozen start, and its value head.

Frozen weights are in memory once: where an adapter learns, policy and reference share the base model, and the reference
takes one adapter more. Where all weights learn, the reference is a second model, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor

from finetune_trainer.data.batches.padding import left_padded, positions
from finetune_trainer.hardware.device import Device
from finetune_trainer.trained_model import weights_changed

Weights = dict[str, Tensor]
Dialogue = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids of a prompt and of the response to it."""


@dataclass(frozen=True)
class Scored:
    """What a model says of responses. Each tensor is (responses, longest response); responses end at the right edge.

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

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All four, in the order of the attributes."""
        return self.log_probs, self.values, self.entropies, self.mask


class Policy:
    """The model that writes responses. It stays in eval mode: PPO compares probabilities, and dropout adds noise.

    Attributes:
        model: the model, with its adapter if one learns.
        value_head: one linear layer on the state that the model's head gets, float32, at first zero; so is that of
            Ziegler et al., 2019 (arXiv:1909.08593), whom the paper follows. The paper's own code starts from noise.
        trainable: the parameters that learn, by name.
        device: where all of this is.
        autocast: the type of a forward pass, as in the warm-up.
        reference: the values of these parameters after the warm-up, which stay as they are.
    """

    def __init__(self, model: Any, pad_id: int, temperature: float, device: Device) -> None:
        """
        Args:
            model: the model; the parameters that learn require gradients.
            pad_id: id to pad with.
            temperature: logits are divided by it.
            device: where the model computes, and in which type.
        """
        # Without accelerate's wrapper for mixed precision: a model that resumes in PPO has none either.
        self.model = extract_model_from_parallel(model, keep_fp32_wrapper=False).eval()
        self.trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.device = device.torch_device
        self.autocast = device.autocast
        self._head = self.model.get_output_embeddings()
        self.value_head = torch.nn.utils.skip_init(torch.nn.Linear, self._head.weight.shape[1], 1, device=self.device)
        for parameter in self.value_head.parameters():
            torch.nn.init.zeros_(parameter)
        self._pad_id = pad_id
        self._temperature = temperature
        self.reference = {name: p.detach().clone() for name, p in self.trainable.items()}

    def parameters(self) -> list[torch.nn.Parameter]:
        """Everything that learns."""
        return [*self.trainable.values(), *self.value_head.parameters()]

    def optimizer(self, rate: float, value_rate: float) -> torch.optim.AdamW:
        """An optimizer over the model and the value head, each at its own learning rate; fused on a GPU."""
        return torch.optim.AdamW([{"params": [*self.trainable.values()], "lr": rate},
                                  {"params": [*self.value_head.parameters()], "lr": value_rate}], weight_decay=0.0,
                                 fused=self.device.type == "cuda" or None)

    @torch.no_grad()
    def set_initial_value(self, reward: float) -> None:
        """Let the value head predict one reward for every token; the first step's mean is the best first guess."""
        torch.nn.init.constant_(self.value_head.bias, reward)

    def weights(self) -> Weights:
        """A copy of the parameters that learn, in host memory; without the value head."""
        return {name: p.detach().to("cpu", copy=True) for name, p in self.trainable.items()}

    def load_weights(self, weights: Weights) -> None:
        """Load parameters that learn. `load_state_dict` also drops the caches that follow from them."""
        self.model.load_state_dict(weights, strict=False)

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """The model as the warm-up left it, to the bit: policy and reference weights are swapped, not copied."""
        self._swap_weights()
        try:
            yield
        finally:
            self._swap_weights()

    def _swap_weights(self) -> None:
        for name, parameter in self.trainable.items():
            parameter.data, self.reference[name] = self.reference[name], parameter.data
        weights_changed(self.model)

    def score(self, dialogues: Sequence[Dialogue]) -> Scored:
        """One forward pass over prompts and their responses."""
        ids, mask = (tensor.to(self.device) for tensor in left_padded(
            [prompt + response for prompt, response in dialogues], self._pad_id))
        longest = max(len(response) for _, response in dialogues)
        with self.autocast(), _inputs_of(self._head) as hidden:
            output = self.model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False,
                                logits_to_keep=longest + 1)
        # Position i predicts token i + 1, and its value is the one before that token.
        distribution = (output.logits[:, :-1].float() / self._temperature).log_softmax(-1)
        log_probs = distribution.gather(-1, ids[:, -longest:].unsqueeze(-1)).squeeze(-1)
        values = self.value_head(hidden[0][:, -longest - 1:-1].float()).squeeze(-1)
        there = torch.tensor([[0.0] * (longest - len(response)) + [1.0] * len(response) for _, response in dialogues],
                             device=self.device)
        with torch.no_grad():
            entropies = -(distribution.exp() * distribution).sum(-1)
        return Scored(log_probs * there, values * there, entropies * there, there)


@contextmanager
def _inputs_of(head: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Collects what a model's head gets in each forward pass: (rows, tokens that are kept, width), normalized.

    With `output_hidden_states` a pass would hold the states of all layers up to its end. What the model does with its
    logits afterwards (to scale or cap them) stays its own.
    """
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    try:
        yield seen
    finally:
        handle.remove()
