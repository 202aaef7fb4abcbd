"""Which micro-batch and checkpointing to take on an accelerator, and what to change where nothing fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from finetune_api.estimate.architecture import Architecture
from finetune_api.estimate.memory import Machine, Memory, Portion, estimate_memory, estimate_reinforcement, machine_for
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.method import Initialization, LowRankSpec, MethodSpec, MethodType, Quantization, Technique
from finetune_api.spec.reft import PpoSpec, ReftPolicy
from finetune_api.spec.training import Toggle

USABLE = 0.92
"""Assumed: the share of an accelerator's memory that a trainer gets; driver, ECC and fragmentation take the rest (a 24
GiB L4 shows 22.5)."""

FULL_PASS = 16_384
"""Tokens that fill a forward pass on a GPU."""

WORTHWHILE_PASS = 2_048
"""Tokens below which a larger pass with checkpointing is faster than this one without."""

SHORTEST = 256

_IN_PLACE = (MethodType.FULL, MethodType.PARTIAL)


@dataclass(frozen=True)
class Plan:
    """How a job is computed.

    Attributes:
        micro_batch_size: rows in one forward pass.
        gradient_checkpointing: whether activations are computed again.
        memory: what that takes.
        fits: whether the accelerator has it; true where its memory is not known.
    """

    micro_batch_size: int
    gradient_checkpointing: bool
    memory: Memory
    fits: bool


def choose(spec: FineTuneJobSpec, model: Architecture, machine: Machine, memory_bytes: int | None, processes: int = 1,
           longest: int | None = None, typical: float | None = None) -> Plan:
    """The first plan that fits, fastest first; the smallest one where none does.

    Args:
        spec: the job's spec with its defaults resolved.
        model: the model's sizes.
        machine: what it is computed on.
        memory_bytes: memory of one accelerator; None if that is not known.
        processes: how many share each step.
        longest: tokens of the longest row; `training.maxLength` where the rows are not known.
        typical: tokens of a row on average; the longest's where that is not known.
    """
    training = spec.training
    longest = min(longest or training.max_length, training.max_length)
    typical = min(typical or longest, longest)
    plan = None
    for micro, checkpointing in _candidates(spec, machine, processes, typical if training.packing else longest):
        # A pass may hold the longest row among ordinary ones.
        tokens = round(longest + (micro - 1) * (typical if training.packing else longest))
        portion = Portion(tokens, min(tokens, longest), packed=training.packing and micro > 1,
                          alone=micro * processes >= training.batch_size)
        memory = estimate_memory(model, spec.method, portion, checkpointing, machine, processes)
        if spec.method.reft:
            memory = max(memory, _reinforcement(spec.method, spec.method.reft.ppo, model, longest, machine),
                         key=lambda one: one.total)
        fits = memory_bytes is None or memory.total <= USABLE * memory_bytes
        plan = Plan(micro, checkpointing, memory, fits)
        if fits:
            return plan
    assert plan is not None
    return plan


def _reinforcement(method: MethodSpec, ppo: PpoSpec, model: Architecture, longest: int, machine: Machine) -> Memory:
    """What the longest row as a question takes, with the longest response that is allowed to it."""
    # Left out it is a quarter more than the longest answer, which may be nearly all of a row.
    tokens = longest + (ppo.max_new_tokens or longest // 4)
    return estimate_reinforcement(model, method, tokens, ppo.max_new_tokens or longest, machine)


def _candidates(spec: FineTuneJobSpec, machine: Machine, processes: int, row: float) -> Iterator[tuple[int, bool]]:
    training = spec.training
    rows = max(1, training.batch_size // processes)
    if training.micro_batch_size:
        sizes = [training.micro_batch_size]
    else:
        passes = -(-rows // max(1, int((FULL_PASS if machine.gpu else SHORTEST) / row)))
        sizes = [-(-rows // passes)]
        while sizes[-1] > 1:
            sizes.append(-(-sizes[-1] // 2))
    wanted = training.gradient_checkpointing
    if wanted is Toggle.AUTO and not machine.gpu:
        wanted = Toggle.DISABLED
    if wanted is not Toggle.ENABLED:
        yield from ((size, False) for size in sizes
                    if wanted is Toggle.DISABLED or size == sizes[0] or size * row >= WORTHWHILE_PASS)
    if wanted is not Toggle.DISABLED:
        yield from ((size, True) for size in sizes)


def advice(spec: FineTuneJobSpec, model: Architecture, machine: Machine, memory_bytes: int,
           catalogue: Mapping[str, int], processes: int = 1, longest: int | None = None) -> str:
    """The smallest change that makes a job fit, in words; what changes no result comes first.

    Args:
        spec: the job's spec with its defaults resolved; it does not fit.
        model: the model's sizes.
        machine: what it is computed on.
        memory_bytes: memory of one accelerator.
        catalogue: memory of other accelerators by name.
        processes: how many share each step.
        longest: tokens of the longest row, where that is known.
    """
    def fits(changed: FineTuneJobSpec, on: Machine = machine, memory: int = memory_bytes) -> bool:
        return choose(changed, model, on, memory, processes, longest).fits

    for words, changed in _changes(spec):
        if fits(changed):
            return words
    roomy = sorted((memory, name) for name, memory in catalogue.items() if memory > memory_bytes and fits(
        spec, machine_for(name, spec.training.precision), memory))
    if roomy:
        memory, name = roomy[0]
        return f"choose spec.compute.accelerator: {name} ({memory / 1024**3:.0f} GiB)"
    length = min(longest or spec.training.max_length, spec.training.max_length)
    # Shorter rows by themselves, else with the change that saves most.
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
    training, method = spec.training, spec.method
    freed = spec
    if (training.micro_batch_size or 1) > 1:
        freed = _with(freed, micro_batch_size=1)
        yield "write spec.training.microBatchSize: 1", freed
    if training.gradient_checkpointing is Toggle.DISABLED and not _is_prefix(method):
        freed = _with(freed, gradient_checkpointing=Toggle.ENABLED)
        yield ("write spec.training.gradientCheckpointing: enabled" if freed.training.micro_batch_size ==
               training.micro_batch_size else "write spec.training.gradientCheckpointing: enabled and "
               "spec.training.microBatchSize: 1"), freed
    if method.reft and method.reft.policy is ReftPolicy.FULL:
        adapter = method.reft.model_copy(update={"policy": ReftPolicy.LORA, "lora": LowRankSpec()})
        lora = method.model_copy(update={"reft": adapter})
        yield "write spec.method.reft.policy: LoRA", spec.model_copy(update={"method": lora})
        qlora = lora.model_copy(update={"quantization": Quantization.NF4})
        yield ("write spec.method.reft.policy: LoRA and spec.method.quantization: nf4",
               spec.model_copy(update={"method": qlora}))
    elif method.quantization is not Quantization.NF4 and method.type not in _IN_PLACE and not _is_pissa(method):
        nf4 = method.model_copy(update={"quantization": Quantization.NF4})
        yield "write spec.method.quantization: nf4", spec.model_copy(update={"method": nf4})
        if freed is not spec:
            yield ("write spec.method.quantization: nf4, and leave microBatchSize and gradientCheckpointing out",
                   freed.model_copy(update={"method": nf4}))
    elif method.type in _IN_PLACE:
        lora = method.model_copy(update={"type": MethodType.LORA, "partial": None})
        words = f"write spec.method.type: LoRA{' without partial' if method.partial else ''}"
        yield words, spec.model_copy(update={"method": lora})
        qlora = lora.model_copy(update={"quantization": Quantization.NF4})
        yield f"{words} and spec.method.quantization: nf4", spec.model_copy(update={"method": qlora})


def _is_prefix(method: MethodSpec) -> bool:
    """Whether checkpointing can't be had: a trained prefix is lost where activations are computed again."""
    return method.additive is not None and method.additive.technique is Technique.PREFIX_TUNING


def _is_pissa(method: MethodSpec) -> bool:
    return method.lora is not None and method.lora.initialization is Initialization.PISSA


def _with(spec: FineTuneJobSpec, **training: object) -> FineTuneJobSpec:
    return spec.model_copy(update={"training": spec.training.model_copy(update=training)})
