"""What the operator refuses before it starts a job: what its catalogue and its settings do not permit. Pure.

The apiserver already refuses everything that the object alone shows (the CustomResourceDefinition).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

from finetune_api.spec.compute import AUTO, ComputeSpec
from finetune_api.spec.job import FineTuneJobSpec

from finetune_operator.settings import Settings, TrainerNetwork


def spec_problems(spec: FineTuneJobSpec, settings: Settings) -> tuple[str, ...]:
    """Why a job cannot run with these settings, one sentence for each field; empty if it can."""
    problems = [*_compute_problems(spec.compute, settings), *_plugin_problems(spec, settings.allowed.reward_plugins)]
    if settings.trainer_network is not None:
        problems += _port_problems(spec, settings.trainer_network)
    return tuple(problems)


def _compute_problems(compute: ComputeSpec, settings: Settings) -> Iterator[str]:
    allowed, choices = settings.allowed, ", ".join(sorted(settings.accelerators))
    if compute.accelerator == AUTO:
        if not any(one.can_be_chosen for one in settings.accelerators.values()):
            yield (f"spec.compute.accelerator: {AUTO} chooses among the GPUs of the catalogue whose memory is known, "
                   f"and there is none; write one of {choices}")
    elif compute.accelerator not in settings.accelerators:
        yield f"spec.compute.accelerator: {compute.accelerator} is not in the catalogue; write one of {choices}, {AUTO}"
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


def _plugin_problems(spec: FineTuneJobSpec, allowed: tuple[str, ...]) -> Iterator[str]:
    plugin = spec.method.reft.reward.plugin if spec.method.reft else None
    if plugin is not None and plugin not in allowed:
        yield _not_allowed("method.reft.reward.plugin", plugin, allowed,
                           "use another reward, or have it added to settings.allowed.rewardPlugins")


def _port_problems(spec: FineTuneJobSpec, network: TrainerNetwork) -> Iterator[str]:
    for field, port in _server_ports(spec):
        if not network.allows(port):
            yield (f"spec.{field}: its port is {port}, and the operator's settings let no trainer reach it; use "
                   "another port, or have it opened there (trainerNetwork.destinations)")


def _server_ports(spec: FineTuneJobSpec) -> Iterator[tuple[str, int]]:
    """The fields of a job that name a server, with its port."""
    reference = spec.evaluation.reference
    source = spec.dataset.source
    for field, address in (
        ("dataset.source", str(source) if source.scheme == "https" else None),
        ("output.s3.endpointUrl", spec.output.s3.endpoint_url if spec.output.s3 else None),
        ("evaluation.reference.url", reference.url if reference else None),
    ):
        if address is not None:
            parts = urlsplit(address)
            with suppress(ValueError):  # It is no port number: the trainer reports that.
                yield field, parts.port or (443 if parts.scheme == "https" else 80)


def _not_allowed(field: str, value: str, choices: tuple[str, ...], otherwise: str = "leave it out") -> str:
    cure = f"write one of {', '.join(choices)}, or {otherwise}" if choices else otherwise
    return f"spec.{field}: the operator's settings do not allow {value}; {cure}"
