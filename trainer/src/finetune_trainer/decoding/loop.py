"""The loop that writes texts token by token: batched, padded on the left, rows leaving the batch as they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig

from finetune_trainer.data.batches.padding import left_padded
from finetune_trainer.decoding.growing_cache import can_drop_rows, grow_in_blocks

Check = Callable[[], None]

_SHRINK_SHARE = 0.75
"""The batch shrinks once fewer of its rows than this go on: each time the whole cache is copied."""


class Choice(Protocol):
    """How the next token of each row is chosen."""

    def choose(self, logits: Tensor) -> Tensor:
        """Token ids (rows,) from logits (rows, vocabulary), float32."""

    def follow(self, tokens: Sequence[int], rows: Sequence[int] | None) -> None:
        """What was chosen last, and the rows that stay in the batch where it shrinks."""


@dataclass(frozen=True)
class Written:
    """A text that was written.

    Attributes:
        ids: its tokens, with the token that ended it.
        ended: whether an end token ended it; else it was cut at the longest length.
    """

    ids: tuple[int, ...]
    ended: bool


@dataclass(frozen=True)
class Ends:
    """Where a text ends.

    Attributes:
        end_ids: the tokens that end it.
        pad_id: the id to pad with; any will do, since the mask says what is padding.
        max_new_tokens: its longest length in tokens.
    """

    end_ids: Sequence[int]
    pad_id: int
    max_new_tokens: int


def write(model: Any, prompts: Sequence[tuple[int, ...]], ends: Ends, choice: Choice, check: Check) -> list[Written]:
    """A text after each prompt, all in one batch.

    transformers' `generate` prepares the model's inputs, also for models without a KV cache and for virtual tokens
    before the text. The model's own generation settings (penalties, beams, forced or forbidden tokens, a time limit) do
    not apply, and are restored afterwards.

    Args:
        model: a causal language model in eval mode, with transformers' `generate`.
        prompts: token ids.
        ends: where a text ends.
        choice: chooses the tokens.
        check: called at every token; raises to stop.
    """
    device = next(model.parameters()).device
    ids, mask = left_padded(prompts, ends.pad_id)
    settings = GenerationConfig(max_new_tokens=ends.max_new_tokens, do_sample=False, num_beams=1, use_cache=True,
                                eos_token_id=list(ends.end_ids), pad_token_id=ends.pad_id)
    batch = _Batch(len(prompts), ends)

    def loop(causal: Any, input_ids: Tensor, logits_processor: Any, stopping_criteria: Any, generation_config: Any,
             **inputs: Any) -> Tensor:
        _write_batch(causal, input_ids, inputs, batch, choice, check)
        return input_ids

    with torch.inference_mode(), _generation_config(model, settings):
        model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings,
                       custom_generate=loop)
    return batch.written


class _Batch:
    """What the rows of a batch have written, in host memory."""

    def __init__(self, count: int, ends: Ends) -> None:
        self._ends = frozenset(ends.end_ids)
        self._most = ends.max_new_tokens
        self._ids: list[list[int]] = [[] for _ in range(count)]
        self._ended = [False] * count
        self._prompts = list(range(count))
        """The prompt of each row."""

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def written(self) -> list[Written]:
        """The texts, in the order of the prompts."""
        return [Written(tuple(ids), ended) for ids, ended in zip(self._ids, self._ended, strict=True)]

    def add(self, tokens: Sequence[int]) -> None:
        """Add a token to each row that goes on; those of the others are not used."""
        for prompt, token in zip(self._prompts, tokens, strict=True):
            if self._goes_on(prompt):
                self._ids[prompt].append(token)
                self._ended[prompt] = token in self._ends

    @property
    def unfinished(self) -> list[int]:
        """The rows that go on."""
        return [row for row, prompt in enumerate(self._prompts) if self._goes_on(prompt)]

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows stay."""
        self._prompts = [self._prompts[row] for row in rows]

    def _goes_on(self, prompt: int) -> bool:
        return not self._ended[prompt] and len(self._ids[prompt]) < self._most


def _write_batch(model: Any, ids: Tensor, inputs: dict[str, Any], batch: _Batch, choice: Choice, check: Check) -> None:
    """Write until no row goes on. The host waits for the device once a token: it needs to know which rows go on."""
    check()
    output = model(**model.prepare_inputs_for_generation(ids, is_first_iteration=True, **inputs), return_dict=True)
    grow_in_blocks(output.get("past_key_values"))
    with model._optimize_model_for_decode():
        while True:
            inputs = model._update_model_kwargs_for_generation(output, inputs)
            chosen = choice.choose(output.logits[:, -1].float())
            tokens = chosen.tolist()
            batch.add(tokens)
            rows = batch.unfinished
            if not rows:
                return
            ids = torch.cat([ids, chosen.unsqueeze(1)], dim=1)
            shrinks = len(rows) < _SHRINK_SHARE * len(batch) and _can_shrink(inputs)
            choice.follow(tokens, rows if shrinks else None)
            if shrinks:
                ids, inputs = _select(ids, inputs, torch.tensor(rows, device=ids.device))
                batch.keep(rows)
            check()
            output = model(**model.prepare_inputs_for_generation(
                ids, next_sequence_length=1 if inputs["use_cache"] else None, **inputs), return_dict=True)


def _can_shrink(inputs: dict[str, Any]) -> bool:
    """Whether rows can leave the batch; otherwise rows that have ended stay, and their tokens are not used."""
    return can_drop_rows(inputs.get("past_key_values")) and all(
        value.dim() == 2 for value in inputs.values() if isinstance(value, Tensor))


def _select(ids: Tensor, inputs: dict[str, Any], rows: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Ids and inputs of some rows. The cache is changed in place."""
    inputs["past_key_values"].batch_select_indices(rows)
    return ids[rows], {name: value[rows] if isinstance(value, Tensor) else value for name, value in inputs.items()}


@contextmanager
def _generation_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Put a configuration in the place of the model's own: transformers takes from that what a call leaves open."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    own, causal.generation_config = causal.generation_config, config
    try:
        yield
    finally:
        causal.generation_config = own
