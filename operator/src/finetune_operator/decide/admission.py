"""What the operator refuses before it starts a job: what catalogue and settings do not have. Pure.

Everything that can be known from the object alone is refused by the apiserver already (the CustomResourceDefinition).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from urllib.parse import urlsplit

from finetune_api.spec.compute import ComputeSpec
from finetune_api.spec.job import FineTuneJobSpec

from finetune_operator.settings import Accelerator, Settings


def problems(spec: FineTuneJobSpec, settings: Settings) -> tuple[str, ...]:
    """What keeps a spec from being run with these settings; empty where nothing does."""
    return tuple(_problems(spec, settings))


def _problems(spec: FineTuneJobSpec, settings: Settings) -> Iterator[str]:
    yield from _of_compute(spec.compute, settings)
    plugin, plugins = spec.method.reft.reward.plugin if spec.method.reft else None, settings.allowed.reward_plugins
    if plugin is not None and plugin not in plugins:
        yield _not_allowed("method.reft.reward.plugin", plugin, plugins,
                           "use another reward, or have it added to settings.allowed.rewardPlugins")
    if settings.trainer_network is not None:
        for field, port in _ports(spec):
            if not settings.trainer_network.allows(port):
                yield (f"spec.{field}: the operator's settings let no trainer reach port {port}; use another, or have "
                       "it opened there (trainerNetwork.destinations)")


def _of_compute(compute: ComputeSpec, settings: Settings) -> Iterator[str]:
    allowed = settings.allowed
    if compute.accelerator not in settings.accelerators:
        choices = ", ".join(sorted(settings.accelerators))
        yield f"spec.compute.accelerator: {compute.accelerator} is not in the catalogue; write one of {choices}"
    elif settings.accelerators[compute.accelerator].resource is None and compute.gpus_per_node > 1:
        yield f"spec.compute.gpusPerNode: {compute.accelerator} has no GPUs; leave it out"
    for field, value, choices_of in (
        ("serviceAccountName", compute.service_account_name, allowed.service_account_names),
        ("priorityClassName", compute.priority_class_name, allowed.priority_class_names),
    ):
        if value is not None and value not in choices_of:
            yield _not_allowed(f"compute.{field}", value, choices_of)
    for label in compute.node_selector or {}:
        if label not in allowed.node_labels:
            yield _not_allowed("compute.nodeSelector", label, allowed.node_labels)
    for toleration in compute.tolerations or ():
        if toleration.key not in allowed.toleration_keys:
            yield _not_allowed("compute.tolerations", toleration.key or "(every taint)", allowed.toleration_keys)


def _ports(spec: FineTuneJobSpec) -> Iterator[tuple[str, int]]:
    """The ports of the servers that a job names."""
    reference = spec.evaluation.reference
    source = spec.dataset.source
    for field, address in (
        ("dataset.source", str(source) if source.scheme == "https" else None),
        ("output.s3.endpointUrl", spec.output.s3.endpoint_url if spec.output.s3 else None),
        ("evaluation.reference.url", reference.url if reference else None),
    ):
        if address is not None:
            parts = urlsplit(address)
            with suppress(ValueError):  # No port number: the trainer tells.
                yield field, parts.port or (443 if parts.scheme == "https" else 80)


def _not_allowed(field: str, value: str, choices: tuple[str, ...], otherwise: str = "leave it out") -> str:
    advice = f"write one of {', '.join(choices)}, or {otherwise}" if choices else otherwise
    return f"spec.{field}: the operator's settings do not allow {value}; {advice}"


def price_of(spec: FineTuneJobSpec, accelerator: Accelerator) -> Decimal:
    """The price of one accelerator hour that the job is accounted with."""
    return accelerator.hourly_price if spec.budget.hourly_rate is None else spec.budget.hourly_rate


def accelerators_of(spec: FineTuneJobSpec, accelerator: Accelerator) -> int:
    """How many accelerators a job holds while it runs."""
    return spec.compute.nodes * (spec.compute.gpus_per_node if accelerator.resource else 1)


def node_words(spec: FineTuneJobSpec, accelerator: Accelerator) -> str:
    """The kind of node that a trainer wants, in words."""
    wanted = [f"{key}={value}" for key, value in {**accelerator.node_selector, **(spec.compute.node_selector or {})
                                                  }.items()]
    if accelerator.resource:
        wanted.insert(0, f"{spec.compute.gpus_per_node} {accelerator.resource}")
    return f"{spec.compute.accelerator} ({', '.join(wanted)})" if wanted else spec.compute.accelerator
