"""Which accelerator `compute.accelerator: auto` means: of those that the job fits on, the one with the lowest cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.estimate import rank_by_cost
from finetune_api.messages import Accelerator, JobEstimate, RunConfig
from finetune_api.spec.compute import AUTO
from finetune_api.status import AcceleratorChoice
from finetune_api.values.quantities import hours_in_words

from finetune_trainer.errors import BadConfig, OutOfMemory
from finetune_trainer.run.checks.job_estimate import estimate_training


def choose_accelerator(config: RunConfig, model_config: Mapping[str, Any], lengths: Sequence[int]
                       ) -> tuple[RunConfig, AcceleratorChoice | None]:
    """The run configuration on the accelerator that costs least, and the choice; unchanged if the job names one.

    Args:
        config: the run configuration.
        model_config: the content of the model's config.json.
        lengths: the tokens of each training row.

    Raises:
        OutOfMemory: the job fits on no accelerator of the catalogue.
        BadConfig: the model's architecture is unknown, so that nothing can be estimated.
    """
    if config.accelerator.name != AUTO:
        return config, None
    fitting: list[tuple[Accelerator, JobEstimate]] = []
    too_small: dict[str, str] = {}
    for accelerator in config.catalogue:
        try:
            estimate = estimate_training(_on(config, accelerator), model_config, lengths)
        except (OutOfMemory, BadConfig) as error:
            too_small[accelerator.name] = str(error)
            continue
        if estimate is None:
            raise BadConfig(f"spec.compute.accelerator is {AUTO}; the model's architecture is unknown here, so its "
                            f"cost cannot be estimated: write one of {_names(config)}")
        fitting.append((accelerator, estimate))
    if not fitting:
        largest = max(config.catalogue, key=lambda one: one.memory_bytes or 0, default=None)
        why = too_small[largest.name] if largest else "it is empty"
        raise OutOfMemory(f"spec.compute.accelerator is {AUTO}, and the job fits on no accelerator of the catalogue "
                          f"({_names(config)}): {why}")
    processes = config.spec.compute.processes(AUTO)
    fitting.sort(key=lambda one: (*rank_by_cost(one[1].hours, one[0].price(processes)), one[0].hourly_rate))
    return _on(config, fitting[0][0]), _choice(fitting, too_small)


def _on(config: RunConfig, accelerator: Accelerator) -> RunConfig:
    return config.model_copy(update={"accelerator": accelerator, "spec": config.spec.on_accelerator(accelerator.name)})


def _names(config: RunConfig) -> str:
    return ", ".join(one.name for one in config.catalogue)


def _choice(fitting: Sequence[tuple[Accelerator, JobEstimate]], too_small: Mapping[str, str]) -> AcceleratorChoice:
    (best, estimate), *others = fitting
    words = [f"{best.name} has the lowest estimated cost: {estimate.cost} {best.currency} in "
             f"{hours_in_words(estimate.hours)} h"]
    if others:
        other, cost = others[0][0], others[0][1]
        words.append(f"next best is {other.name}: {cost.cost} {other.currency} in {hours_in_words(cost.hours)} h")
    if too_small:
        words.append(f"the job does not fit on {', '.join(too_small)}")
    return AcceleratorChoice(name=best.name, reason="; ".join(words)[:512],
                             next_best=others[0][0].name if others else None)
