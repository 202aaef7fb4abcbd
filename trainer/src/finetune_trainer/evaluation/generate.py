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

from finetune_trainer.faults import run_out_of_memory
from finetune_trainer.hardware.memory import halved
from finetune_trainer.model.structure.positions import batch_of, room_for_answers

Check = Callable[[], None]

TOO_LONG = ("the accelerator's memory doesn't suffice to answer a single held-out row: write a smaller "
            "spec.training.maxLength or spec.evaluation.maxNewTokens, or quantization: nf4")


@dataclass(frozen=True)
class Generated:
    """What a model answered.

    Attributes:
        answers: token ids of each answer, without the end-of-turn token.
        tokens: how many were generated, end-of-turn tokens included.
        finished: how many answers ended by themselves before the limit.
    """

    answers: tuple[tuple[int, ...], ...]
    tokens: int
    finished: int


class _Heartbeat(StoppingCriteria):
    """Calls `check` at every token, so that a request to stop is heard in the middle of a long answer."""

    def __init__(self, check: Check) -> None:
        self._check = check

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        self._check()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def generate(model: Any, prompts: Sequence[tuple[int, ...]], *, end_ids: Sequence[int], pad_id: int,
             max_new_tokens: int, batch_size: int, check: Check,
             processor: Callable[[int], LogitsProcessor] | None = None,
             report: Callable[[int], None] | None = None) -> Generated:
    """One greedy answer to each prompt, in the prompts' order: the likeliest token each time, whatever else the model's
    own generation settings ask for (penalties, beams, forced or forbidden tokens, a time limit).

    Args:
        model: a causal language model with transformers' `generate`; its generation settings come back afterwards.
        prompts: token ids.
        end_ids: tokens that end an answer.
        pad_id: id to pad with, on the left.
        max_new_tokens: longest answer; shorter where a model has no positions for so many tokens.
        batch_size: prompts at once.
        check: called at every token; raises to stop.
        processor: makes a logits processor for a batch of that many rows.
        report: called after each batch with the number of prompts answered.

    Raises:
        OutOfMemory: not even one prompt's answer fits; what doesn't fit together is answered in smaller batches.
    """
    device = next(model.parameters()).device
    # Prompts of like length together: little padding.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    ends = set(end_ids)
    room = room_for_answers(model)
    tokens = finished = 0
    start = 0
    while start < len(order):
        count, most = batch_of([len(prompts[index]) for index in order[start:start + batch_size]], batch_size, room,
                               max_new_tokens)
        batch = order[start:start + count]
        width = max(len(prompts[index]) for index in batch)
        ids = torch.full((len(batch), width), pad_id, dtype=torch.int64)
        mask = torch.zeros((len(batch), width), dtype=torch.int64)
        for number, index in enumerate(batch):
            ids[number, width - len(prompts[index]):] = torch.tensor(prompts[index])
            mask[number, width - len(prompts[index]):] = 1
        try:
            run_out_of_memory(len(batch), "oom-answering")
            greedy = GenerationConfig(max_new_tokens=most, do_sample=False, num_beams=1, use_cache=True,
                                      eos_token_id=list(end_ids), pad_token_id=pad_id)
            with torch.inference_mode(), _settings(model, greedy):
                output = model.generate(
                    input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=greedy,
                    stopping_criteria=StoppingCriteriaList([_Heartbeat(check)]),
                    logits_processor=LogitsProcessorList([processor(len(batch))] if processor else []),
                )
        except torch.OutOfMemoryError as error:
            batch_size = halved(error, len(batch), TOO_LONG)
            continue
        for index, row in zip(batch, output[:, width:].tolist(), strict=True):
            length = next((place for place, token in enumerate(row) if token in ends), None)
            answers[index] = tuple(row if length is None else row[:length])
            tokens += len(row) if length is None else length + 1
            finished += length is not None
        start += len(batch)
        if report:
            report(start)
    return Generated(tuple(answers), tokens, finished)


@contextmanager
def _settings(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """Generation settings in place of the model's own, from which transformers takes all that a call leaves open."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    own, causal.generation_config = causal.generation_config, settings
    try:
        yield
    finally:
        causal.generation_config = own
