"""Sampling responses: batched, padded on the left, with a KV cache, rows leaving the batch as they end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from finetune_trainer.errors import BadConfig
from finetune_trainer.faults import run_out_of_memory
from finetune_trainer.model.structure.positions import batch_of, room_for_answers

_COMPACT_SHARE = 0.75
"""The batch shrinks once fewer of its rows than this go on: each time the whole cache is copied."""


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
    found: dict[int, tuple[tuple[int, ...], bool]] = {}
    start = 0
    while start < len(order):
        count, most = batch_of([len(prompts[index]) for index in order[start:start + batch_size]], batch_size, room,
                               settings.max_new_tokens)
        batch = order[start:start + count]
        start += count
        drawn = _sample_batch(model, [prompts[index] for index in batch], replace(settings, max_new_tokens=most),
                              generator, check)
        found.update(zip(batch, drawn, strict=True))
    return Rollout(tuple(found[index][0] for index in range(len(prompts))),
                   tuple(found[index][1] for index in range(len(prompts))))


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


def left_padded(rows: Sequence[tuple[int, ...]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, (rows, longest) of int64, every row ending at the right edge."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def positions(mask: Tensor) -> Tensor:
    """Position ids: padding on the left doesn't count."""
    return (mask.cumsum(1) - 1).clamp(min=0)


@torch.inference_mode()
def _sample_batch(model: Any, prompts: Sequence[tuple[int, ...]], settings: SamplingSettings,
                  generator: torch.Generator, check: Callable[[], None]) -> list[tuple[tuple[int, ...], bool]]:
    """Ids of each response, and whether an end token ended it. `unfinished` marks the rows that go on."""
    run_out_of_memory(len(prompts), "oom-sampling")
    device = next(model.parameters()).device
    ids, mask = left_padded(prompts, settings.pad_id, device)
    width = ids.shape[1]
    mask = torch.cat([mask, mask.new_ones(len(prompts), settings.max_new_tokens)], dim=1)
    position_ids = positions(mask)
    end_ids = torch.tensor(sorted(set(settings.end_ids)), device=device)
    written: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    rows = torch.arange(len(prompts), device=device)
    cache: Any = None
    step_ids, step_positions = ids, position_ids[:, :width]
    unfinished = torch.ones(len(prompts), dtype=torch.bool, device=device)
    for length in range(settings.max_new_tokens):
        check()
        output = model(input_ids=step_ids, attention_mask=mask[:, :width + length], position_ids=step_positions,
                       past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        tokens = _draw(output.logits[:, -1].float() / settings.temperature, generator)
        stops = torch.isin(tokens, end_ids)
        for row, token, stop, goes in zip(rows.tolist(), tokens.tolist(), stops.tolist(), unfinished.tolist(),
                                         strict=True):
            if goes:
                written[row].append(token)
                ended[row] = stop
        unfinished = unfinished & ~stops
        left = int(unfinished.sum())
        if not left:
            break
        if left < _COMPACT_SHARE * len(rows) and _can_shrink(cache):
            keep = unfinished.nonzero().flatten()
            cache.batch_select_indices(keep)
            rows, mask, position_ids = rows[keep], mask[keep], position_ids[keep]
            tokens, unfinished = tokens[keep], unfinished[keep]
        step_ids = tokens.unsqueeze(1)
        step_positions = position_ids[:, width + length:width + length + 1]
    return [(tuple(row), end) for row, end in zip(written, ended, strict=True)]


def _can_shrink(cache: Any) -> bool:
    """Whether rows can be removed from a cache: it holds keys and values only.

    transformers 5.23 can't select rows of other states (Mamba, linear attention, convolutions). There, rows that have
    ended stay in the batch, and the tokens drawn for them are not used.
    """
    return type(cache) is DynamicCache and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
                                               for layer in cache.layers)


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token a row by the Gumbel-max trick: one pass over the logits, without sorting them or summing them up."""
    noise = torch.empty_like(logits).exponential_(generator=generator)
    return (logits - noise.log()).argmax(-1)
