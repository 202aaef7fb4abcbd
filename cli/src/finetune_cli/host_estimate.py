"""The estimate of one job for one target: on a CPU with everything that the process holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from finetune_api import FineTuneJobSpec
from finetune_api.estimate import (
    PROCESS_ON_CPU,
    Architecture,
    Estimate,
    RowLengths,
    TrainingRows,
    estimate_job,
    mapped_weights_bytes,
)
from finetune_api.estimate.catalogue import KNOWN_ACCELERATORS
from finetune_api.estimate.plan import USABLE
from finetune_api.spec.method import Quantization
from finetune_api.values.quantities import Quantity

from finetune_cli import trainer
from finetune_cli.estimate_target import CPU, ChosenTarget
from finetune_cli.this_machine import ThisMachine


@dataclass(frozen=True)
class HostEstimate:
    """An estimate with everything that a process on a CPU holds beside what torch computes with.

    Attributes:
        found: the job's estimate.
        terms: bytes by what they are for; on a GPU those of `found` alone.
        fits: whether the machine has the memory; true where its memory is not known.
        change: the change that makes the job fit, in words; None where it fits.
    """

    found: Estimate
    terms: Mapping[str, int]
    fits: bool
    change: str | None

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.terms.values())


@dataclass(frozen=True)
class RowOptions:
    """What the command line says of the rows.

    Attributes:
        rows: rows to learn from; None for those of the data set.
        row_tokens: tokens of a row on average; None for `training.maxLength`.
    """

    rows: int | None = None
    row_tokens: int | None = None

    def tokens(self, spec: FineTuneJobSpec) -> int | None:
        """Tokens to train on; None where the number of rows is not known."""
        training = spec.training
        each = min(self.row_tokens or training.max_length, training.max_length)
        if training.max_steps:
            return training.max_steps * training.batch_size * each
        known = self.rows or trainer.rows_to_learn_from(spec) or spec.dataset.max_samples
        if known is None:
            return None
        return round(min(known, spec.dataset.max_samples or known) * (training.epochs or 1.0)) * each

    def known(self, spec: FineTuneJobSpec) -> TrainingRows:
        """The rows of a job, as far as they are known."""
        return TrainingRows(self.tokens(spec), RowLengths(typical=self.row_tokens))


def estimate_on_host(spec: FineTuneJobSpec, model: Architecture, chosen: ChosenTarget, rows: TrainingRows
                     ) -> HostEstimate:
    """The estimate for a target; on a CPU with what the process holds beside the model.

    Args:
        spec: the job's spec with its defaults resolved.
        model: the model's sizes.
        chosen: what it trains on.
        rows: the rows, as far as they are known.
    """
    machine, target = chosen.machine, chosen.target
    spec = _with_processors(spec, machine)
    catalogue = {} if machine else {name: known.memory_bytes for name, known in KNOWN_ACCELERATORS.items()}
    found = estimate_job(spec, model, target, catalogue, rows)
    terms = dict(found.plan.memory.terms())
    if target.name != CPU:
        return HostEstimate(found, terms, found.plan.fits, found.change)
    # Quantized weights are a copy beside the file that they were read from. Its pages are given up first.
    needed = PROCESS_ON_CPU + sum(terms.values())
    file = 0 if spec.method.quantization is Quantization.NONE else mapped_weights_bytes(model)
    terms = {"process": PROCESS_ON_CPU, "file": file, **terms}
    if machine is None or needed <= machine.memory_bytes:
        return HostEstimate(found, terms, True, None)
    # Of memory that estimate_job is given it takes the usable share only; here all of it is usable.
    left = max(1, math.floor((machine.memory_bytes - PROCESS_ON_CPU) / USABLE))
    return HostEstimate(found, terms, False,
                        estimate_job(spec, model, replace(target, memory_bytes=left), catalogue, rows).change)


def _with_processors(spec: FineTuneJobSpec, machine: ThisMachine | None) -> FineTuneJobSpec:
    """The spec with this machine's processors, by which the speed of a CPU is estimated."""
    if machine is None or machine.gpu:
        return spec
    compute = spec.compute.model_copy(update={"cpu": Quantity(str(machine.processors))})
    return spec.model_copy(update={"compute": compute})
