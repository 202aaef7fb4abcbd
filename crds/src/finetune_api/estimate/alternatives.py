"""What a job could be instead: the other methods, and which alternative is the cheapest."""

from __future__ import annotations

import json

from finetune_api.methods.low_rank import LowRankSpec
from finetune_api.rule import Section
from finetune_api.spec.method import METHODS, MethodSpec, MethodType, Quantization
from finetune_api.values.money import Price


def alternative_methods(method: MethodSpec) -> tuple[MethodSpec, ...]:
    """Every method, each with the base weights as they are and, where that is possible, in nf4.

    The job's own method comes first and keeps its settings. A low-rank adapter of another method keeps the settings
    that both have, such as the rank. Every other method has its usual settings.

    Args:
        method: the job's method, as the user wrote it.
    """
    found = [method]
    for kind, definition in METHODS.items():
        for settings in _settings(method, kind):
            for quantization in (Quantization.NONE, Quantization.NF4):
                written = {"type": kind, "quantization": quantization, **settings}
                one = MethodSpec.model_validate_json(json.dumps(written))
                possible = quantization is Quantization.NONE or definition.can_quantize(one.settings)
                if possible and one.display_name not in {known.display_name for known in found}:
                    found.append(one)
    return tuple(found)


def _settings(method: MethodSpec, kind: MethodType) -> list[Section]:
    """The settings with which a method is estimated, each as the part of `spec.method` that holds it."""
    definition = METHODS[kind]
    if definition.block is None:
        return [{}]
    blocks = [*definition.usual_blocks]
    if (adapter := method.low_rank) and (other := definition.low_rank(definition.resolved(None))):
        names = adapter[1].model_fields_set & set(LowRankSpec.model_fields)
        shared: Section = adapter[1].model_dump(mode="json", by_alias=True, include=names)
        for field in reversed(other[0].split(".")[1:]):  # `reft.lora`: the adapter stands below the method's own block.
            shared = {field: shared}
        blocks = [{**block, **shared} for block in blocks]
    if kind is method.type and method.settings is not None:
        blocks.insert(0, method.settings.model_dump(mode="json", by_alias=True, exclude_unset=True))
    return [{definition.block: block} if block else {} for block in blocks]


def rank_by_cost(hours: float, price: Price) -> tuple[float, float]:
    """A sort key: alternatives of the lowest cost come first, and of the same cost those that end first.

    The cost is not rounded, so that jobs of less than a cent differ.

    Args:
        hours: hours of training.
        price: price and number of the accelerators.
    """
    return hours * float(price.per_hour), hours
