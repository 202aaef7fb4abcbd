"""Whether a model keeps rows apart that share a line; asked of the model itself, before anything is trained.

transformers masks attention between rows by their positions, which begin again at every row. Layers that carry a state
from token to token (Mamba, linear attention, convolutions) do not look at positions, nor do families that bias
attention by distance (ALiBi) or build their own masks: there each row would learn from the one before it.
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
    """The spec to train with, without packing where the model can't have it, and what the report says of that.

    All processes come to the same: packing is off where one of them sees a difference. So do all attempts, since the
    answer follows from base and rows. In training only: every process has to call it.
    """
    if not spec.training.packing or not world.any(rows_mix(model, rows)):
        return spec, []
    words = (f"spec.training.packing: rows that share a line change each other in {type(model).__name__}, so each row "
             "gets a line of its own; the result is that of the rows alone")
    tell(words)
    return spec.model_copy(update={"training": spec.training.model_copy(update={"packing": False})}), [words]


def rows_mix(model: PreTrainedModel, rows: Sequence[TokenRow]) -> bool:
    """Whether the ends of some rows get other logits behind each other in one line than each of them alone.

    What rounding does is measured beside it, by the same rows padded in one batch: in bfloat16, with int8 outliers or
    where a router is undecided, no two passes are the same. Judged is the median over the first tokens of each row but
    the first, on which what stands before them tells most.
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
    """A row's last tokens: its beginning is often every row's."""
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
