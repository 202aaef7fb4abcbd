"""Answers, generated greedily in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from finetune_trainer.data.batches.padding import left_padded
from finetune_trainer.faults import run_out_of_memory
from finetune_trainer.hardware.memory import halved
from finetune_trainer.model.structure.positions import batch_of, room_for_answers

Check = Callable[[], None]
MakeProcessor = Callable[[int], LogitsProcessor]
"""Makes a logits processor for a batch of that many rows."""

TOO_LONG = ("the accelerator's memory does not suffice to answer a single held-out row: write a smaller "
            "spec.training.maxLength or spec.evaluation.maxNewTokens, or quantization: nf4")


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are generated.

    Attributes:
        end_ids: the tokens that end an answer.
        pad_id: the id to pad with, on the left.
        max_new_tokens: the longest answer in tokens; less where the model has no positions for so many tokens.
        batch_size: prompts in one batch.
    """

    end_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int
    batch_size: int


@dataclass(frozen=True)
class GeneratedAnswers:
    """What a model answered.

    Attributes:
        answers: token ids of each answer, without the end-of-turn token.
        tokens: how many tokens were generated, end-of-turn tokens included.
        finished: how many answers ended before the limit.
    """

    answers: tuple[tuple[int, ...], ...]
    tokens: int
    finished: int


class _CheckEveryToken(StoppingCriteria):
    """Calls `check` at every token, so that a request to stop takes effect within a long answer."""

    def __init__(self, check: Check) -> None:
        self._check = check

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        self._check()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def generate(model: Any, prompts: Sequence[tuple[int, ...]], settings: GenerationSettings, check: Check,
             processor: MakeProcessor | None = None, report: Callable[[int], None] | None = None) -> GeneratedAnswers:
    """One greedy answer to each prompt, in the prompts' order.

    Each token is the likeliest one. The model's own generation settings (penalties, beams, forced or forbidden tokens,
    a time limit) do not apply.

    Args:
        model: a causal language model with transformers' `generate`. Its generation settings are restored afterwards.
        prompts: token ids.
        settings: end tokens, lengths and batch size.
        check: called at every token; raises to stop.
        processor: makes the logits processors; None for free answers.
        report: called after each batch with the number of prompts that are answered.

    Raises:
        OutOfMemory: the answer to a single prompt does not fit. A batch that does not fit is halved.
    """
    # Prompts of similar length together: little padding.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    ends = set(settings.end_ids)
    room = room_for_answers(model)
    batch_size = settings.batch_size
    tokens = finished = start = 0
    while start < len(order):
        lengths = [len(prompts[index]) for index in order[start:start + batch_size]]
        count, most = batch_of(lengths, batch_size, room, settings.max_new_tokens)
        batch = order[start:start + count]
        greedy = GenerationConfig(max_new_tokens=most, do_sample=False, num_beams=1, use_cache=True,
                                  eos_token_id=list(settings.end_ids), pad_token_id=settings.pad_id)
        try:
            run_out_of_memory(len(batch), "oom-answering")
            new_tokens = _generate_batch(model, [prompts[index] for index in batch], greedy, check, processor)
        except torch.OutOfMemoryError as error:
            batch_size = halved(error, len(batch), TOO_LONG)
            continue
        for index, row in zip(batch, new_tokens, strict=True):
            length = next((position for position, token in enumerate(row) if token in ends), None)
            answers[index] = tuple(row if length is None else row[:length])
            tokens += len(row) if length is None else length + 1
            finished += length is not None
        start += len(batch)
        if report:
            report(start)
    return GeneratedAnswers(tuple(answers), tokens, finished)


def _generate_batch(model: Any, prompts: Sequence[tuple[int, ...]], greedy: GenerationConfig, check: Check,
                    processor: MakeProcessor | None) -> list[list[int]]:
    """The tokens that follow each prompt, padded on the right to the longest answer of the batch."""
    device = next(model.parameters()).device
    ids, mask = left_padded(prompts, int(greedy.pad_token_id))
    with torch.inference_mode(), _generation_config(model, greedy):
        output = model.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=greedy,
            stopping_criteria=StoppingCriteriaList([_CheckEveryToken(check)]),
            logits_processor=LogitsProcessorList([processor(len(prompts))] if processor else []),
        )
    new_tokens: list[list[int]] = output[:, ids.shape[1]:].tolist()
    return new_tokens


@contextmanager
def _generation_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Put a configuration in the place of the model's own: transformers takes from that what a call leaves open."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    own, causal.generation_config = causal.generation_config, config
    try:
        yield
    finally:
        causal.generation_config = own
