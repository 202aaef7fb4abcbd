"""What to change in a job that does not fit on its accelerator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from finetune_api.architecture import Architecture
from finetune_api.estimate.memory import machine_for
from finetune_api.estimate.plan import SHORTEST, Accelerators, RowLengths, choose_plan
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import MethodSpec, MethodType, Quantization
from finetune_api.spec.training import Toggle


def advise_change(spec: FineTuneJobSpec, model: Architecture, accelerators: Accelerators, catalogue: Mapping[str, int],
                  rows: RowLengths = RowLengths()) -> str:  # noqa: B008 - frozen
    """The smallest change that makes a job fit, in words; changes that leave the result as it is come first.

    Args:
        spec: the job's spec with its defaults resolved; it does not fit.
        model: the model's sizes.
        accelerators: what the job trains on, with their memory.
        catalogue: memory in bytes of other accelerators by name.
        rows: lengths of the rows, as far as they are known.
    """
    longest_only = RowLengths(rows.longest)

    def fits(changed: FineTuneJobSpec, on: Accelerators = accelerators) -> bool:
        return choose_plan(changed, model, on, longest_only).fits

    for words, changed in _changes(spec):
        if fits(changed):
            return words
    for memory, name in sorted((memory, name) for name, memory in catalogue.items()):
        larger = replace(accelerators, machine=machine_for(name, spec.training.precision), memory_bytes=memory)
        if memory > (accelerators.memory_bytes or 0) and fits(spec, larger):
            return f"choose spec.compute.accelerator: {name} ({memory / 1024**3:.0f} GiB)"
    length = min(rows.longest or spec.training.max_length, spec.training.max_length)
    # First shorter rows alone, then shorter rows with the change that saves most.
    for words, start in (("", spec), *list(_changes(spec))[-1:]):
        for shorter in _shorter(length):
            if fits(_with(start, max_length=shorter)):
                return f"{words}{', and ' if words else 'write '}spec.training.maxLength: {shorter}"
    return ("no change of micro-batch, checkpointing, quantization or length is enough: choose a smaller model, or an "
            "accelerator with more memory")


def _shorter(length: int) -> Iterator[int]:
    while length > SHORTEST:
        length = max(SHORTEST, length // 2)
        yield length


def _changes(spec: FineTuneJobSpec) -> Iterator[tuple[str, FineTuneJobSpec]]:
    """Changes in words and as a spec, those that change the result least first."""
    memory_changes = list(_memory_changes(spec))
    yield from memory_changes
    method = spec.method
    if frozen := _frozen_base(method):
        words, adapted = frozen
        yield words, spec.model_copy(update={"method": adapted})
        nf4 = adapted.model_copy(update={"quantization": Quantization.NF4})
        yield f"{words} and spec.method.quantization: nf4", spec.model_copy(update={"method": nf4})
    elif method.quantization is not Quantization.NF4 and method.definition.can_quantize(method.settings):
        nf4 = method.model_copy(update={"quantization": Quantization.NF4})
        yield "write spec.method.quantization: nf4", spec.model_copy(update={"method": nf4})
        if memory_changes:
            yield ("write spec.method.quantization: nf4, and leave microBatchSize and gradientCheckpointing out",
                   memory_changes[-1][1].model_copy(update={"method": nf4}))


def _frozen_base(method: MethodSpec) -> tuple[str, MethodSpec] | None:
    """An adapter instead of the base weights, in words and as a method; None where the base is frozen already."""
    definition = method.definition
    if adapted := definition.with_frozen_base(method.settings):
        words, settings = adapted
        return f"write spec.method.{words}", method.with_settings(settings)
    if definition.quantizable:
        return None
    words = "write spec.method.type: LoRA" + (f" without {definition.block}" if method.settings else "")
    return words, method.with_settings(None).model_copy(update={"type": MethodType.LORA})


def _memory_changes(spec: FineTuneJobSpec) -> Iterator[tuple[str, FineTuneJobSpec]]:
    """Changes that leave the result as it is, each with those before it."""
    training = spec.training
    small_batch = "spec.training.microBatchSize: 1"
    checkpointing = "spec.training.gradientCheckpointing: enabled"
    changed, shrinks = spec, (training.micro_batch_size or 1) > 1
    if shrinks:
        changed = _with(changed, micro_batch_size=1)
        yield f"write {small_batch}", changed
    if training.gradient_checkpointing is Toggle.DISABLED and \
            spec.method.definition.allows_checkpointing(spec.method.settings):
        changed = _with(changed, gradient_checkpointing=Toggle.ENABLED)
        yield f"write {checkpointing} and {small_batch}" if shrinks else f"write {checkpointing}", changed


def _with(spec: FineTuneJobSpec, **training: object) -> FineTuneJobSpec:
    return spec.model_copy(update={"training": spec.training.model_copy(update=training)})
