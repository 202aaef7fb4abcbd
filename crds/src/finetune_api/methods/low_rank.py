"""What LoRA, DoRA and ReFT's adapter have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.architecture import Architecture
from finetune_api.methods.module_name import ModuleName
from finetune_api.methods.trained_parameters import TrainedParameters
from finetune_api.values.api_model import ApiModel


class LowRankSpec(ApiModel):
    """What LoRA and DoRA have in common."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    """Rank of the two factors."""

    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the update: it is multiplied by alpha / rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""

    target_modules: Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=64)] | None = None
    """Linear layers that get an adapter, by the end of their name (`q_proj`). Left out: all but the head."""

    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (rank-stabilised LoRA, Kalajdzievski, 2023, arXiv:2312.03732)."""

    learning_rate_ratio: Annotated[float, Field(ge=1, le=1000)] | None = None
    """B learns this many times faster than `training.learningRate`, at which A learns (LoRA+, Hayou et al., 2024,
    arXiv:2402.12354, who advise 16). Left out: both alike. In ReFT it counts in the warm-up; PPO moves both at
    `ppo.learningRate`, which its stability hangs on."""


def low_rank_parameters(settings: LowRankSpec, model: Architecture, magnitude: bool = False, dense: bool = False
                        ) -> TrainedParameters:
    """What an adapter of low rank trains.

    Args:
        settings: the adapter's settings.
        model: the model's sizes.
        magnitude: whether each weight has a trained magnitude (DoRA).
        dense: whether its norms are computed from the whole updated weight.
    """
    wanted = settings.target_modules
    chosen = [linear for linear in model.linears if wanted is None or linear.name in {
        name.rpartition(".")[2] for name in wanted}]
    added = model.layers * sum(settings.rank * (linear.inputs + linear.outputs) + (linear.outputs if magnitude else 0)
                               for linear in chosen)
    return TrainedParameters(added, 0, frozenset(linear.name for linear in chosen), model.layers, settings.rank,
                             settings.dropout > 0, magnitude, dense)
