"""Tests whether a model keeps rows apart that share one line. The test runs on the loaded model, before training.

transformers separates rows by their positions, which start again with each row. Some layers ignore positions: layers
that carry a state from token to token (Mamba, linear attention, convolutions), and families that bias attention by
distance (ALiBi) or build their own masks. In such a model each row would influence the rows after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from finetune_api.spec.job import FineTuneJobSpec
from transformers import PreTrainedModel

from finetune_trainer.data.batches.collate import collate
from finetune_trainer.data.batches.steps import Line
from finetune_trainer.data.rows import TokenRow
from finetune_trainer.distributed.collectives import World

_ROWS, _TOKENS, _JUDGED = 4, 24, 2
_LEAST_ERROR = {torch.float32: 1e-3}
_ROUNDING = 3e-2
_TIMES_NOISE = 4.0


def packing_if_possible(spec: FineTuneJobSpec, model: PreTrainedModel, rows: Sequence[TokenRow], world: World,
                        tell: Callable[[str], None]) -> tuple[FineTuneJobSpec, list[str]]:
    """The spec to train with, without packing if the model mixes packed rows, and the sentences for the report.

    All ranks get the same result: packing is off if one of them sees a difference. All attempts get the same result,
    because it depends only on the base model and the rows. Every rank must call this function.
    """
    if not spec.training.packing or not world.any(rows_mix(model, rows)):
        return spec, []
    words = (f"spec.training.packing: packing is off: {type(model).__name__} lets rows in one line influence each "
             "other. Each row is trained in its own line, as with packing: false")
    tell(words)
    return spec.model_copy(update={"training": spec.training.model_copy(update={"packing": False})}), [words]


def rows_mix(model: PreTrainedModel, rows: Sequence[TokenRow]) -> bool:
    """Whether rows get different logits when they share one line than when each is alone. Uses the ends of some rows.

    The same rows padded in one batch show the error of rounding: in bfloat16, with int8 outliers, or with a router
    between two experts, no two passes give equal logits. The result is the median error over the first tokens of each
    row except the first row: the row before has most influence on these tokens.
    """
    few = [_end(rows[index % len(rows)]) for index in range(_ROWS)]
    everyone = tuple(range(_ROWS))
    was_training = model.training
    model.eval()
    try:
        alone = [_logits(model, few, [(index,)])[0] for index in everyone]
        padded = _logits(model, few, [(index,) for index in everyone]).unbind()
        packed = _logits(model, few, [everyone])[0].split([len(row) for row in few])
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
def _logits(model: PreTrainedModel, rows: Sequence[TokenRow], lines: Sequence[Line]) -> torch.Tensor:
    """(lines, width, vocabulary), float32; inputs as in training."""
    inputs = collate(lines, rows, 0)
    device = next(model.parameters()).device
    logits: torch.Tensor = model(input_ids=inputs["input_ids"].to(device),
                                 position_ids=inputs["position_ids"].to(device), use_cache=False).logits
    return logits.float()


def _difference(alone: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """The median relative error of logits, over the judged tokens."""
    errors = [(one[:_JUDGED] - two[:_JUDGED]).norm(dim=-1) / (one[:_JUDGED] - one[:_JUDGED].mean(-1, True)).norm(dim=-1)
              for one, two in zip(alone[1:], other[1:], strict=True)]
    return float(torch.cat(errors).median())
