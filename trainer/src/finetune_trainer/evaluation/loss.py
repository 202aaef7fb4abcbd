"""The loss on held-out answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from finetune_trainer.data.batches.padding import IGNORED, left_padded, padded
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.evaluation.generate import TOO_LONG
from finetune_trainer.faults import run_out_of_memory
from finetune_trainer.hardware.memory import halved

_LOGIT_BUDGET = 256 * 1024**2
"""Bytes that the logits of one batch can take at most."""


def answer_loss(model: torch.nn.Module, rows: Sequence[TokenRow], pad_id: int, vocabulary: int, batch_size: int,
                check: Callable[[], None]) -> float:
    """The mean loss in nats per answer token, over all answer tokens of all rows.

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
    total, tokens = 0.0, 0
    pending = sorted(rows, key=len, reverse=True)
    with torch.inference_mode():
        while pending:
            check()
            longest = max(len(row.answer) for row in pending)
            batch = pending[:max(1, min(batch_size, _LOGIT_BUDGET // (longest * vocabulary * 4)))]
            ids, mask = left_padded([row.prompt + row.answer for row in batch], pad_id)
            labels = padded([row.answer for row in batch], IGNORED, "left")
            try:
                run_out_of_memory(len(batch), "oom-answering")
                total += _summed_loss(model, ids.to(device), mask.to(device), labels.to(device))
            except torch.OutOfMemoryError as error:
                batch_size = halved(error, len(batch), TOO_LONG)
                continue
            pending = pending[len(batch):]
            tokens += sum(len(row.answer) for row in batch)
    return total / tokens


def _summed_loss(model: torch.nn.Module, ids: Tensor, mask: Tensor, labels: Tensor) -> float:
    """The loss of all answers together. A function of its own: if it fails, no variable holds its logits any more."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions,
                   logits_to_keep=labels.shape[1] + 1).logits
    # Position i predicts token i + 1.
    scores = logits[:, :-1].float().reshape(-1, logits.shape[-1])
    return float(torch.nn.functional.cross_entropy(scores, labels.reshape(-1), ignore_index=IGNORED, reduction="sum"))
