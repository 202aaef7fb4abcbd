"""The job of a rehearsal: the same method with small sizes, which fit a small copy of the model."""

from __future__ import annotations

from fnmatch import fnmatchcase

from finetune_api.methods.reft import ReftPolicy
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import DoraSpec, LoraSpec, MethodSpec, MethodType, PartialSpec
from transformers import PreTrainedModel

ROWS = 2
"""Rows per forward pass; a step has twice as many."""

MAX_RANK, VIRTUAL_TOKENS, BOTTLENECK_SIZE = 4, 4, 8


def small_job(spec: FineTuneJobSpec, model: PreTrainedModel) -> FineTuneJobSpec:
    """The job with small sizes. A field that names layers is changed if the small copy may lack them.

    Args:
        spec: the job's spec with its defaults resolved.
        model: the small copy of its model.
    """
    training = spec.training.model_copy(update={
        "epochs": None, "max_steps": 1, "batch_size": 2 * ROWS, "micro_batch_size": ROWS, "checkpoint_every": 1})
    return spec.model_copy(update={"training": training, "method": _small_method(spec.method, model)})


def _small_method(method: MethodSpec, model: PreTrainedModel) -> MethodSpec:
    if method.partial is not None:
        return method.model_copy(update={"partial": _small_partial(method.partial, model)})
    if (additive := method.additive) is not None:
        return method.model_copy(update={"additive": additive.model_copy(update={
            "virtual_tokens": additive.virtual_tokens and VIRTUAL_TOKENS,
            "bottleneck_size": additive.bottleneck_size and BOTTLENECK_SIZE,
            "target_modules": _without_numbers(additive.target_modules)})})
    if method.low_rank is None:
        return method if method.reft is None else MethodSpec(type=MethodType.FULL)
    _, settings = method.low_rank
    small = settings.model_copy(update={"rank": min(settings.rank, MAX_RANK),
                                        "target_modules": _without_numbers(settings.target_modules)})
    if method.reft is None:
        return method.model_copy(update={"lora" if method.lora else "dora": small})
    # PPO trains the same parameters as the warm-up.
    if method.reft.policy is ReftPolicy.DORA:
        return MethodSpec(type=MethodType.DORA, quantization=method.quantization,
                          dora=DoraSpec(**small.model_dump()))
    return MethodSpec(type=MethodType.LORA, quantization=method.quantization, lora=LoraSpec(**small.model_dump()))


def _without_numbers(targets: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Names of layers without the layer numbers, since the copy has fewer layers."""
    return targets and tuple(dict.fromkeys(target.rpartition(".")[2] for target in targets))


def _small_partial(partial: PartialSpec, model: PreTrainedModel) -> PartialSpec:
    names = [name for name, _ in model.named_parameters()]
    if partial.parameters is not None and all(any(fnmatchcase(name, pattern) for name in names)
                                              for pattern in partial.parameters):
        return partial
    return PartialSpec(last_layers=1)
