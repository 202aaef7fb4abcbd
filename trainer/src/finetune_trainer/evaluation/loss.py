"""The loss on held-out answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from finetune_trainer.data.batches.padding import IGNORED, left_padded, padded, positions
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.evaluation.generate import TOO_LONG
from finetune_trainer.faults import run_out_of_memory
from finetune_trainer.hardware.memory import halved

_LOGIT_BUDGET = 256 * 1024**2
"""Bytes that the logits of one batch can take at most."""


def answer_losses(model: torch.nn.Module, rows: Sequence[TokenRow], pad_id: int, vocabulary: int, batch_size: int,
                  check: Callable[[], None]) -> list[float]:
    """The loss of each row in nats: the sum over the tokens of its answer, in the order of the rows.

    Rows are padded on the left: answers end together, and logits are computed for the answers only.

    Args:
        model: called as `model(input_ids, attention_mask, position_ids, logits_to_keep)`.
        rows: the held-out rows.
        pad_id: the id to pad with.
        vocabulary: the number of logits per token.
        batch_size: the most rows in one batch. A batch has fewer where its logits exceed the budget.
        check: called before each batch; raises to stop.

    Raises:
        OutOfMemory: a single row does not fit. A batch that does not fit is halved.
    """
    device = next(model.parameters()).device
    losses = [0.0] * len(rows)
    pending = sorted(range(len(rows)), key=lambda index: len(rows[index]), reverse=True)
    with torch.inference_mode():
        while pending:
            check()
            longest = max(len(rows[index].answer) for index in pending)
            indices = pending[:max(1, min(batch_size, _LOGIT_BUDGET // (longest * vocabulary * 4)))]
            batch = [rows[index] for index in indices]
            ids, mask = left_padded([row.prompt + row.answer for row in batch], pad_id)
            labels = padded([row.answer for row in batch], IGNORED, "left")
            try:
                run_out_of_memory(len(batch), "oom-answering")
                found = _summed_losses(model, ids.to(device), mask.to(device), labels.to(device))
            except torch.OutOfMemoryError as error:
                batch_size = halved(error, len(batch), TOO_LONG)
                continue
            pending = pending[len(batch):]
            for index, loss in zip(indices, found, strict=True):
                losses[index] = loss
    return losses


def mean_loss(losses: Sequence[float], rows: Sequence[TokenRow]) -> float:
    """The mean loss in nats per answer token, over all answer tokens of all rows."""
    return sum(losses) / sum(len(row.answer) for row in rows)


def _summed_losses(model: torch.nn.Module, ids: Tensor, mask: Tensor, labels: Tensor) -> list[float]:
    """The loss of each answer. A function of its own: if it fails, no variable holds its logits any more."""
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask),
                   logits_to_keep=labels.shape[1] + 1).logits
    # Position i predicts token i + 1.
    scores = logits[:, :-1].float().reshape(-1, logits.shape[-1])
    losses = torch.nn.functional.cross_entropy(scores, labels.reshape(-1), ignore_index=IGNORED, reduction="none")
    summed: list[float] = losses.reshape(labels.shape).sum(1).tolist()
    return summed
