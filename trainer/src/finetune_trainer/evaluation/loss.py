"""Loss on held-out answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from finetune_trainer.data.rows import TokenRow
from finetune_trainer.evaluation.generate import TOO_LONG
from finetune_trainer.faults import run_out_of_memory
from finetune_trainer.hardware.memory import halved

_LOGIT_BUDGET = 256 * 1024**2
"""Most bytes of logits at once."""


def answer_loss(model: torch.nn.Module, rows: Sequence[TokenRow], pad_id: int, vocabulary: int, batch_size: int,
                check: Callable[[], None]) -> float:
    """Mean loss in nats per answer token, over all answer tokens of all rows.

    Rows are padded on the left, so that answers end together and logits are made for the answers alone.

    Args:
        model: called as `model(input_ids, attention_mask, position_ids, logits_to_keep)`.
        rows: the held-out rows.
        pad_id: id to pad with.
        vocabulary: number of logits per token.
        batch_size: most rows at once; fewer where their logits would not fit the budget.
        check: called before each batch; raises to stop.

    Raises:
        OutOfMemory: not even one row fits; what doesn't fit together is taken in smaller batches.
    """
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    pending = sorted(rows, key=len, reverse=True)
    with torch.inference_mode():
        while pending:
            check()
            longest = max(len(row.answer) for row in pending)
            size = max(1, min(batch_size, _LOGIT_BUDGET // (longest * vocabulary * 4)))
            batch = pending[:size]
            width = max(len(row) for row in batch)
            keep = max(len(row.answer) for row in batch)
            ids = torch.full((len(batch), width), pad_id, dtype=torch.int64)
            mask = torch.zeros((len(batch), width), dtype=torch.int64)
            labels = torch.full((len(batch), keep), -100, dtype=torch.int64)
            for number, row in enumerate(batch):
                ids[number, width - len(row):] = torch.tensor(row.prompt + row.answer)
                mask[number, width - len(row):] = 1
                labels[number, keep - len(row.answer):] = torch.tensor(row.answer)
            try:
                run_out_of_memory(len(batch), "oom-answering")
                total += _summed_loss(model, ids.to(device), mask.to(device), labels.to(device))
            except torch.OutOfMemoryError as error:
                batch_size = halved(error, len(batch), TOO_LONG)
                continue
            pending = pending[size:]
            tokens += sum(len(row.answer) for row in batch)
    return total / tokens


def _summed_loss(model: torch.nn.Module, ids: Tensor, mask: Tensor, labels: Tensor) -> float:
    """The loss of all answers together. One pass of its own: where it fails, nothing holds its logits any more."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions,
                   logits_to_keep=labels.shape[1] + 1).logits
    # Position i predicts token i + 1.
    scores = logits[:, :-1].float().reshape(-1, logits.shape[-1])
    return float(torch.nn.functional.cross_entropy(scores, labels.reshape(-1), ignore_index=-100, reduction="sum"))
