"""Sampling responses, in batches of prompts of like length."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune_trainer.decoding.loop import Ends, Written, write
from finetune_trainer.errors import BadConfig
from finetune_trainer.faults import run_out_of_memory
from finetune_trainer.model.structure.positions import batch_of, room_for_answers


@dataclass(frozen=True)
class SamplingSettings:
    """How responses are sampled.

    Attributes:
        end_ids: tokens that end a response.
        pad_id: id to pad with; any will do, since the mask says what is padding.
        max_new_tokens: longest response in tokens; shorter where a model has no positions for so many tokens.
        temperature: logits are divided by it.
    """

    end_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int
    temperature: float


@dataclass(frozen=True)
class Rollout:
    """Responses in their prompts' order.

    Attributes:
        responses: token ids of each, with the token that ended it.
        ended: whether each ended with an end token; else it was cut at the longest length.
    """

    responses: tuple[tuple[int, ...], ...]
    ended: tuple[bool, ...]

    @property
    def tokens(self) -> int:
        """Tokens sampled."""
        return sum(map(len, self.responses))


def sample(model: Any, prompts: Sequence[tuple[int, ...]], settings: SamplingSettings, batch_size: int,
           generator: torch.Generator, check: Callable[[], None]) -> Rollout:
    """Draw one response to each prompt from the model's whole distribution (no top-k, no top-p).

    Args:
        model: a causal language model in eval mode.
        prompts: token ids.
        settings: how responses are sampled.
        batch_size: prompts at once. Another size draws other responses.
        generator: the source of randomness, on the model's device.
        check: called at every token; raises to stop.
    """
    # Prompts of like length together: little padding.
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    room = room_for_answers(model)
    found: dict[int, Written] = {}
    choice = _Drawn(settings.temperature, generator)
    start = 0
    while start < len(order):
        count, most = batch_of([len(prompts[index]) for index in order[start:start + batch_size]], batch_size, room,
                               settings.max_new_tokens)
        batch = order[start:start + count]
        start += count
        run_out_of_memory(len(batch), "oom-sampling")
        drawn = write(model, [prompts[index] for index in batch], Ends(settings.end_ids, settings.pad_id, most), choice,
                      check)
        found.update(zip(batch, drawn, strict=True))
    responses = [found[index] for index in range(len(prompts))]
    return Rollout(tuple(response.ids for response in responses), tuple(response.ended for response in responses))


class _Drawn:
    """Each token is drawn from the whole distribution."""

    def __init__(self, temperature: float, generator: torch.Generator) -> None:
        self._temperature = temperature
        self._generator = generator

    def choose(self, logits: Tensor) -> Tensor:
        """By the Gumbel-max trick: one pass over the logits, without sorting them or summing them up."""
        noise = torch.empty_like(logits).exponential_(generator=self._generator)
        return (logits / self._temperature - noise.log()).argmax(-1)

    def follow(self, tokens: Sequence[int], rows: Sequence[int] | None) -> None:
        pass


def check_sampling(model: Any) -> None:
    """Check that responses can be sampled from a model token by token.

    Args:
        model: with or without storage for its weights; without it, only the signature of its forward is checked.

    Raises:
        BadConfig: it returns no cache.
    """
    says_so = "past_key_values" in inspect.signature(type(model).forward).parameters
    device = next(model.parameters()).device
    if says_so and device.type != "meta":
        with torch.no_grad():
            output = model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=device), use_cache=True)
        says_so = getattr(output, "past_key_values", None) is not None
    if not says_so:
        raise BadConfig(f"spec.method.type: ReFT samples with a cache of keys and values, and {type(model).__name__} "
                        "returns none; choose another method, or a model with attention")
