"""What `finetune estimate` estimates for: this machine, or an accelerator of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import click
from finetune_api import ExitCode, FineTuneJobSpec
from finetune_api.estimate import EstimateTarget
from finetune_api.estimate.catalogue import CPU_PRICE, CURRENCY, KNOWN_ACCELERATORS
from finetune_api.values.money import Price
from finetune_api.values.quantities import parse_quantity

from finetune_cli.errors import CommandFailed
from finetune_cli.this_machine import ThisMachine, this_machine

CPU = "cpu"
_VENDOR = "nvidia-"


@dataclass(frozen=True)
class TargetOptions:
    """What the command line says of the target.

    Attributes:
        accelerator: a name of the catalogue, with or without `nvidia-`, or `cpu`; None for this machine.
        memory: memory of one accelerator, such as `24Gi`.
        price: price of one accelerator for one hour.
    """

    accelerator: str | None
    memory: str | None
    price: float | None


@dataclass(frozen=True)
class ChosenTarget:
    """What to estimate for.

    Attributes:
        target: accelerator, memory and price, as the estimate takes them.
        machine: this machine, where the job would run on it.
    """

    target: EstimateTarget
    machine: ThisMachine | None


def choose_target(spec: FineTuneJobSpec, options: TargetOptions) -> ChosenTarget:
    """This machine, unless the command line names an accelerator or its memory.

    Raises:
        CommandFailed: the accelerator isn't in the catalogue, and its memory isn't given.
        click.BadParameter: the memory is no quantity.
    """
    if options.accelerator is None and options.memory is None:
        machine = this_machine()
        name, memory = (machine.gpu.name, machine.gpu.memory_bytes) if machine.gpu else (CPU, None)
        # As finetune run counts: a GPU that names no price costs what an L4 costs, and a CPU nothing.
        usual = KNOWN_ACCELERATORS["nvidia-l4"].hourly_price if machine.gpu else Decimal(0)
        return ChosenTarget(EstimateTarget(name, memory, _price(spec, options, name, usual)), machine)
    name = _full_name(options.accelerator or spec.compute.accelerator)
    known = KNOWN_ACCELERATORS.get(name)
    if known is None and name != CPU and options.memory is None:
        where = "--accelerator" if options.accelerator else "spec.compute.accelerator"
        raise CommandFailed(f"{where}: {name} is not in the catalogue of this command: add --memory, or write one of "
                            f"{', '.join(sorted(KNOWN_ACCELERATORS))}, {CPU}", ExitCode.BAD_CONFIG)
    usual = known.hourly_price if known else CPU_PRICE if name == CPU else Decimal(0)
    memory = _bytes(options.memory) if options.memory else known.memory_bytes if known else None
    return ChosenTarget(EstimateTarget(name, memory, _price(spec, options, name, usual)), None)


def _full_name(name: str) -> str:
    """The catalogue's name of an accelerator: `l4` is `nvidia-l4`."""
    lower = name.lower()
    return next((known for known in (lower, _VENDOR + lower) if known in KNOWN_ACCELERATORS), name)


def _bytes(memory: str) -> int:
    try:
        return int(parse_quantity(memory).value)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--memory'") from error


def _price(spec: FineTuneJobSpec, options: TargetOptions, name: str, usual: Decimal) -> Price:
    written = Decimal(str(options.price)) if options.price is not None else spec.budget.hourly_rate
    return Price(usual if written is None else written, CURRENCY, spec.compute.processes(name))
