"""Answers, generated greedily in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune_trainer.decoding.loop import Check, Choice, Ends, write
from finetune_trainer.faults import run_out_of_memory
from finetune_trainer.hardware.memory import halved
from finetune_trainer.model.structure.positions import batch_of, room_for_answers

MakeChoice = Callable[[int], Choice]
"""Makes the choice of tokens for a batch of that many rows."""

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


class _Likeliest:
    """Each token is the likeliest one."""

    def choose(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def follow(self, tokens: Sequence[int], rows: Sequence[int] | None) -> None:
        pass


def generate(model: Any, prompts: Sequence[tuple[int, ...]], settings: GenerationSettings, check: Check,
             choice: MakeChoice | None = None, report: Callable[[int], None] | None = None) -> GeneratedAnswers:
    """One greedy answer to each prompt, in the prompts' order.

    Each token is the likeliest one that is allowed, whatever generation settings the model brings along.

    Args:
        model: a causal language model with transformers' `generate`. Its generation settings are restored afterwards.
        prompts: token ids.
        settings: end tokens, lengths and batch size.
        check: called at every token; raises to stop.
        choice: chooses the tokens; None for the likeliest.
        report: called after each batch with the number of prompts that are answered.

    Raises:
        OutOfMemory: the answer to a single prompt does not fit. A batch that does not fit is halved.
    """
    # Prompts of similar length together: little padding.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    room = room_for_answers(model)
    batch_size = settings.batch_size
    tokens = finished = start = 0
    while start < len(order):
        lengths = [len(prompts[index]) for index in order[start:start + batch_size]]
        count, most = batch_of(lengths, batch_size, room, settings.max_new_tokens)
        batch = order[start:start + count]
        try:
            run_out_of_memory(len(batch), "oom-answering")
            written = write(model, [prompts[index] for index in batch], Ends(settings.end_ids, settings.pad_id, most),
                            choice(len(batch)) if choice else _Likeliest(), check)
        except torch.OutOfMemoryError as error:
            batch_size = halved(error, len(batch), TOO_LONG)
            continue
        for index, answer in zip(batch, written, strict=True):
            answers[index] = answer.ids[:-1] if answer.ended else answer.ids
            tokens += len(answer.ids)
            finished += answer.ended
        start += len(batch)
        if report:
            report(start)
    return GeneratedAnswers(tuple(answers), tokens, finished)
