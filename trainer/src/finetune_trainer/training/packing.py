"""Decides how rows that share one line are kept apart: by attention by rows, by a mask, or not at all.

The loaded model is asked before training, with the same kind of batch as in training. Under a mask, transformers
separates rows by their positions, which start again with each row. Some layers ignore both positions and edges: layers
that carry a state from token to token (Mamba, linear attention, convolutions), and families that bias attention by
distance (ALiBi) or build their own masks. In such a model each row would influence the rows after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import Engine
from transformers import PreTrainedModel

from finetune_trainer.data.batches.collate import collate
from finetune_trainer.data.batches.steps import Line
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.distributed.collectives import World
from finetune_trainer.errors import first_line
from finetune_trainer.model.attention_by_rows import attending_by_rows, model_refused

_ROWS, _TOKENS, _JUDGED = 4, 24, 2
_LEAST_ERROR = {torch.float32: 1e-3}
_ROUNDING = 3e-2
_TIMES_NOISE = 4.0


@dataclass(frozen=True)
class Packing:
    """How a run packs rows.

    Attributes:
        spec: the spec to train with: without packing if the model mixes packed rows.
        by_rows: whether attention by rows keeps them apart.
        findings: sentences for the report.
    """

    spec: FineTuneJobSpec
    by_rows: bool = False
    findings: tuple[str, ...] = ()


def choose_packing(spec: FineTuneJobSpec, model: PreTrainedModel, rows: Sequence[TokenRow], world: World,
                   tell: Callable[[str], None]) -> Packing:
    """How to pack: with attention by rows if the model can, else under a mask, else not.

    All ranks get the same result: the last that one of them needs. All attempts on the same kind of GPU get the same
    result, because it depends only on the base model and the rows. Every rank must call this function.
    """
    if not spec.training.packing:
        return Packing(spec)
    # Unsloth has attention of its own, and gets one line at a time (`layout_of`), as in the test below.
    unsloth = spec.engine is Engine.UNSLOTH
    reason = "is Unsloth's" if unsloth else by_rows_refused(model, rows)
    if not world.any(reason is not None):
        return Packing(spec, by_rows=True)
    name = type(model).__name__
    if not world.any(rows_mix(model, rows)):
        if unsloth:
            return Packing(spec)
        tell(f"spec.training.packing: a mask keeps packed rows apart, which costs time and memory: {name} "
             f"{reason or 'does not attend by rows in another process'}")
        return Packing(spec)
    words = (f"spec.training.packing: packing is off: {name} lets rows in one line influence each "
             "other. Each row is trained in its own line, as with packing: false")
    tell(words)
    return Packing(spec.model_copy(update={"training": spec.training.model_copy(update={"packing": False})}),
                   findings=(words,))


def by_rows_refused(model: PreTrainedModel, rows: Sequence[TokenRow]) -> str | None:
    """Why a model cannot attend by rows, as the end of a sentence about the model; None if it can."""
    reason = model_refused(model)
    if reason is None:
        try:
            _dry_run(model, rows)
            reason = "mixes rows of one line" if rows_mix(model, rows, by_rows=True) else None
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # A call that is refused (NotImplementedError), or the kernel itself.
            reason = first_line(error)
    return reason


@torch.no_grad()
def _dry_run(model: PreTrainedModel, rows: Sequence[TokenRow]) -> None:
    """A forward pass as in training, with dropout; it leaves random states as they were."""
    device = next(model.parameters()).device
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            _logits(model, [_end(rows[0])], [(0,)], by_rows=True)
    finally:
        model.train(was_training)


def rows_mix(model: PreTrainedModel, rows: Sequence[TokenRow], by_rows: bool = False) -> bool:
    """Whether rows get different logits when they share one line than when each is alone. Uses the ends of some rows.

    The same rows padded in one batch show the error of rounding: in bfloat16, with int8 outliers, or with a router
    between two experts, no two passes give equal logits. The result is the median error over the first tokens of each
    row except the first row: the row before has most influence on these tokens.

    Args:
        model: the model.
        rows: the rows of the data set.
        by_rows: whether attention by rows keeps the rows of a line apart, or a mask.
    """
    few = [_end(rows[index % len(rows)]) for index in range(_ROWS)]
    everyone = tuple(range(_ROWS))
    was_training = model.training
    model.eval()
    try:
        alone = [_logits(model, few, [(index,)])[0] for index in everyone]
        padded = _logits(model, few, [(index,) for index in everyone]).unbind()
        packed = _logits(model, few, [everyone], by_rows)[0].split([len(row) for row in few])
    finally:
        model.train(was_training)
    noise, error = _difference(alone, padded), _difference(alone, packed)
    dtype = next(model.parameters()).dtype
    return not error <= max(_TIMES_NOISE * noise, _LEAST_ERROR.get(dtype, _ROUNDING))


def _end(row: TokenRow) -> TokenRow:
    """The last tokens of a row: all rows often start in the same way."""
    ids = (row.prompt + row.answer)[-_TOKENS:]
    return TokenRow(ids[:-1], ids[-1:])


@torch.no_grad()
def _logits(model: PreTrainedModel, rows: Sequence[TokenRow], lines: Sequence[Line], by_rows: bool = False
            ) -> torch.Tensor:
    """(lines, width, vocabulary), float32; inputs as in training."""
    inputs = collate(lines, rows, 0, by_rows)
    device = next(model.parameters()).device
    inputs = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
              if name != "labels"}
    with attending_by_rows(model) if by_rows else nullcontext():
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits.float()


def _difference(alone: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """The median relative error of logits, over the judged tokens."""
    errors = [(one[:_JUDGED] - two[:_JUDGED]).norm(dim=-1) / (one[:_JUDGED] - one[:_JUDGED].mean(-1, True)).norm(dim=-1)
              for one, two in zip(alone[1:], other[1:], strict=True)]
    return float(torch.cat(errors).median())
