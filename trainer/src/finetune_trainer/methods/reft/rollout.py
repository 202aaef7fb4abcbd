"""Sampling responses: batched, padded on the left, with a KV cache, rows leaving the batch as they end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
class Sampled:
    """Responses in their prompts' order.

    Attributes:
        responses: token ids of each, with the token that ended it.
        ended: whether it ended by itself rather than at the longest length.
    """

    responses: tuple[tuple[int, ...], ...]
    ended: tuple[bool, ...]

    @property
    def tokens(self) -> int:
        """Tokens sampled."""
        return sum(map(len, self.responses))


def sample(model: Any, prompts: Sequence[tuple[int, ...]], *, end_ids: Sequence[int], pad_id: int, max_new_tokens: int,
           batch_size: int, temperature: float, generator: torch.Generator, check: Callable[[], None]) -> Sampled:
    """One response to each prompt, drawn from the model's whole distribution (no top-k, no top-p).

    Args:
        model: a causal language model in eval mode.
        prompts: token ids.
        end_ids: tokens that end a response.
        pad_id: id to pad with; which one doesn't matter, the mask tells what is padding.
        max_new_tokens: longest response; shorter where a model has no positions for so many tokens.
        batch_size: prompts at once. Another size draws other responses.
        temperature: logits are divided by it.
        generator: where chance comes from, on the model's device.
        check: called at every token; raises to stop.
    """
    # Prompts of like length together: little padding.
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    room = room_for_answers(model)
    found: dict[int, tuple[tuple[int, ...], bool]] = {}
    start = 0
    while start < len(order):
        count, most = batch_of([len(prompts[index]) for index in order[start:start + batch_size]], batch_size, room,
                               max_new_tokens)
        batch = order[start:start + count]
        start += count
        drawn = _sample_batch(model, [prompts[index] for index in batch], set(end_ids), pad_id, most, temperature,
                              generator, check)
        found.update(zip(batch, drawn, strict=True))
    return Sampled(tuple(found[index][0] for index in range(len(prompts))),
                   tuple(found[index][1] for index in range(len(prompts))))


def check_sampling(model: Any) -> None:
    """Whether responses can be sampled from a model token by token.

    Args:
        model: with or without storage for its weights; without it only what the model says is asked.

    Raises:
        BadConfig: it gives back no cache.
    """
    says_so = "past_key_values" in inspect.signature(type(model).forward).parameters
    device = next(model.parameters()).device
    if says_so and device.type != "meta":
        with torch.no_grad():
            output = model(input_ids=torch.zeros((1, 1), dtype=torch.int64, device=device), use_cache=True)
        says_so = getattr(output, "past_key_values", None) is not None
    if not says_so:
        raise BadConfig(f"spec.method.type: ReFT samples with a cache that the model gives back, and a "
                        f"{type(model).__name__} keeps its state otherwise; choose LoRA, DoRA or Full, or a model with "
                        "attention")


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
def _sample_batch(model: Any, prompts: Sequence[tuple[int, ...]], ends: set[int], pad_id: int, most: int,
                  temperature: float, generator: torch.Generator, check: Callable[[], None]
                  ) -> list[tuple[tuple[int, ...], bool]]:
    run_out_of_memory(len(prompts), "oom-sampling")
    device = next(model.parameters()).device
    ids, mask = left_padded(prompts, pad_id, device)
    width = ids.shape[1]
    mask = torch.cat([mask, mask.new_ones(len(prompts), most)], dim=1)
    place = positions(mask)
    end_ids = torch.tensor(sorted(ends), device=device)
    written: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    rows = torch.arange(len(prompts), device=device)
    cache: Any = None
    step_ids, step_place = ids, place[:, :width]
    going = torch.ones(len(prompts), dtype=torch.bool, device=device)
    for length in range(most):
        check()
        output = model(input_ids=step_ids, attention_mask=mask[:, :width + length], position_ids=step_place,
                       past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        tokens = _draw(output.logits[:, -1].float() / temperature, generator)
        stops = torch.isin(tokens, end_ids)
        for row, token, stop, goes in zip(rows.tolist(), tokens.tolist(), stops.tolist(), going.tolist(), strict=True):
            if goes:
                written[row].append(token)
                ended[row] = stop
        going = going & ~stops
        left = int(going.sum())
        if not left:
            break
        if left < _COMPACT_SHARE * len(rows) and _can_shrink(cache):
            keep = going.nonzero().flatten()
            cache.batch_select_indices(keep)
            rows, mask, place, tokens, going = rows[keep], mask[keep], place[keep], tokens[keep], going[keep]
        step_ids, step_place = tokens.unsqueeze(1), place[:, width + length:width + length + 1]
    return [(tuple(row), end) for row, end in zip(written, ended, strict=True)]


def _can_shrink(cache: Any) -> bool:
    """Whether a cache holds keys and values alone. Rows of a state (Mamba, linear attention, convolutions) can't be
    chosen from (transformers 5.23): there rows that have ended go on in the batch, and nobody reads what they write.
    """
    return type(cache) is DynamicCache and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
                                               for layer in cache.layers)


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token a row by the Gumbel-max trick: a single pass over the logits, without sorting or summing them up."""
    noise = torch.empty_like(logits).exponential_(generator=generator)
    return (logits - noise.log()).argmax(-1)
