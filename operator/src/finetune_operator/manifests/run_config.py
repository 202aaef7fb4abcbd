"""The run configuration (run.json) that a trainer or a check gets. Pure.

A job keeps its run configuration from its first attempt on. The job's image stays what it was at the start, but an
operator of another release would resolve the spec in another way, or write fields that this image's trainer does not
know. So each attempt gets what the attempt before it got.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal

from finetune_api.messages import Accelerator as AcceleratorMessage
from finetune_api.messages import RunConfig
from finetune_api.messages.layout import RUN_FILE
from finetune_api.resolve import resolve_defaults, spec_hash
from finetune_api.spec.compute import AUTO
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus
from finetune_api.values.money import Price
from pydantic import ValidationError

from finetune_operator.manifests.attempt_request import AttemptRequest
from finetune_operator.manifests.child import Manifest
from finetune_operator.manifests.pod.resources import host_memory
from finetune_operator.names import ATTEMPT_LABEL, run_name
from finetune_operator.observed.job import JobView
from finetune_operator.settings import Accelerator, Settings


@dataclass(frozen=True)
class FrozenFacts:
    """What every attempt of a job shares, fixed when the job starts.

    Attributes:
        price_per_accelerator_hour: price of one accelerator for one hour.
        currency: of the price.
        spec_hash: digest of the resolved spec; None to compute it.
        model_revision: commit of the model that preflight saw; None if it did not look.
    """

    price_per_accelerator_hour: Decimal
    currency: str
    spec_hash: str | None = None
    model_revision: str | None = None


def frozen_facts(status: FineTuneJobStatus, catalogue: Price) -> FrozenFacts:
    """The facts that the start of a job recorded in its status.

    Args:
        status: of a job that has started.
        catalogue: the price of today, for a status without a price.
    """
    preflight = status.preflight
    price = status.cost.price(accelerators=1) if status.cost else catalogue
    return FrozenFacts(
        price_per_accelerator_hour=price.per_accelerator_hour, currency=price.currency,
        spec_hash=status.spec_hash, model_revision=preflight.model_revision if preflight else None)


def run_config(request: AttemptRequest, facts: FrozenFacts) -> RunConfig:
    """The run configuration that this release gives to an attempt."""
    spec, accelerator = request.spec, request.accelerator
    resolved = resolve_defaults(spec)
    digest = facts.spec_hash or spec_hash(resolved)
    if resolved.model.source.scheme == "hub" and facts.model_revision:
        # A branch may move between attempts, and every attempt must train the commit that preflight checked.
        model = resolved.model.model_copy(update={"revision": facts.model_revision})
        resolved = resolved.model_copy(update={"model": model})
    return RunConfig(
        namespace=request.job.namespace, name=request.job.name, uid=request.job.uid, attempt=request.number,
        spec=resolved, spec_hash=digest, image=request.image, allowed_plugins=request.settings.allowed.reward_plugins,
        accelerator=accelerator_message(
            "cpu" if accelerator.resource is None else spec.compute.accelerator, spec, accelerator,
            Price(facts.price_per_accelerator_hour, facts.currency)),
        date=request.job.created_at.astimezone(UTC).date(),
    )


def accelerator_message(name: str, spec: FineTuneJobSpec, accelerator: Accelerator, price: Price
                        ) -> AcceleratorMessage:
    """What a trainer is told of an accelerator that a job would run on."""
    return AcceleratorMessage(
        name=name, memory_bytes=int(accelerator.memory.value) if accelerator.memory else None,
        host_memory_bytes=int(host_memory(spec.compute, accelerator).value),
        hourly_rate=price.per_accelerator_hour, currency=price.currency)


def check_config(job: JobView, spec: FineTuneJobSpec, settings: Settings, price_per_accelerator_hour: Decimal
                 ) -> RunConfig:
    """The run configuration that a check judges: that of the first attempt, with the whole catalogue beside it.

    If the check chooses the accelerator, it has no memory and no price yet, and the catalogue has those that it may be.
    """
    if spec.compute.accelerator == AUTO:
        unknown = AttemptRequest(job, spec, 1, settings.trainer_image, Accelerator(), settings)
        config = run_config(unknown, FrozenFacts(Decimal(0), settings.currency))
        candidates = tuple(
            accelerator_message(name, spec, one, Price(one.hourly_price, settings.currency))
            for name, one in sorted(settings.accelerators.items()) if one.can_be_chosen)
        return config.model_copy(update={"catalogue": candidates})
    request = AttemptRequest(job, spec, 1, settings.trainer_image,
                             settings.accelerators[spec.compute.accelerator], settings)
    config = run_config(request, FrozenFacts(price_per_accelerator_hour, settings.currency))
    catalogue = tuple(
        AcceleratorMessage(name=name, memory_bytes=int(one.memory.value), hourly_rate=one.hourly_price,
                           currency=settings.currency)
        for name, one in sorted(settings.accelerators.items()) if one.memory)
    return config.model_copy(update={"catalogue": catalogue})


def earlier_run(job: JobView, config_maps: Iterable[Manifest]) -> Manifest:
    """The newest run configuration that an attempt of a job got, as it is stored; empty if there is none.

    Args:
        job: the job.
        config_maps: ConfigMaps with the job's uid as a label. Those of another kind or another owner are ignored.
    """
    found: dict[int, Manifest] = {}
    for one in config_maps:
        metadata = one["metadata"]
        number = metadata.get("labels", {}).get(ATTEMPT_LABEL, "")
        owners = {owner["uid"] for owner in metadata.get("ownerReferences", ())}
        if not number.isdecimal() or metadata["name"] != run_name(job.name, job.uid, int(number)):
            continue
        text = one.get("data", {}).get(RUN_FILE, "")
        if job.uid in owners and _belongs_to(job, text):
            found[int(number)] = json.loads(text)
    return found[max(found)] if found else {}


def _belongs_to(job: JobView, text: str) -> bool:
    try:
        config = RunConfig.read(text)
    except ValidationError:
        return False
    return (config.uid, config.spec_hash) == (job.uid, job.status.spec_hash)


def run_text(config: RunConfig, earlier: Manifest, smallest_memory: bool) -> str:
    """The text of an attempt's run.json.

    Args:
        config: what this release gives to the attempt.
        earlier: what the attempt before it got; empty for the first attempt, and if no earlier one can be read.
        smallest_memory: whether the attempt must use as little accelerator memory as possible.
    """
    current: Manifest = json.loads(config.model_dump_json(exclude_none=True))
    if not earlier:
        return _compact(current)
    # These fields describe this attempt's pod, and every release has them.
    accelerator = _updated(earlier["accelerator"], current["accelerator"], "hostMemoryBytes")
    frozen = _updated({**earlier, "accelerator": accelerator}, current, "attempt", "image")
    if "allowedPlugins" in frozen:  # The administrator may have withdrawn one since.
        frozen["allowedPlugins"] = current.get("allowedPlugins", [])
    if smallest_memory:
        training = _updated(earlier["spec"]["training"], current["spec"]["training"], "microBatchSize",
                            "gradientCheckpointing")
        frozen["spec"] = {**earlier["spec"], "training": training}
    return _compact(frozen)


def _updated(frozen: Manifest, current: Manifest, *names: str) -> Manifest:
    return {**frozen, **{name: current[name] for name in names if name in current}}


def _compact(content: Manifest) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
