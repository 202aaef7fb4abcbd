"""The Job that checks a job on a CPU, and its run configuration, as plain data. Pure."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from finetune_api.messages import Accelerator as AcceleratorMessage
from finetune_api.spec.compute import ComputeSpec
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.spec.policy import BudgetSpec

from finetune_operator.decide import admission
from finetune_operator.manifests import frozen_run, trainer_job
from finetune_operator.manifests.pod_template import template_for_check
from finetune_operator.names import ATTEMPT_LABEL, PREFLIGHT_LABEL, preflight_run_name
from finetune_operator.observed.objects import JobView
from finetune_operator.settings import Accelerator, Settings

_LIMITS = "limits"


def preflight_map(job: JobView, spec: FineTuneJobSpec, settings: Settings, name: str) -> trainer_job.Object:
    """The immutable ConfigMap with the run configuration that is checked: the one that the first attempt would get."""
    accelerator = settings.accelerators[spec.compute.accelerator]
    config = trainer_job.run_config(job, spec, 1, settings.trainer_image, job.status.model_copy(update={
        "cost": None, "preflight": None, "spec_hash": None}), settings)
    config = config.model_copy(update={
        "accelerator": config.accelerator.model_copy(update={
            "hourly_rate": admission.price_of(spec, accelerator), "currency": settings.currency}),
        "catalogue": tuple(AcceleratorMessage(name=name, memory_bytes=int(one.memory.value),
                                              hourly_rate=one.hourly_price, currency=settings.currency)
                           for name, one in sorted(settings.accelerators.items()) if one.memory),
    })
    made = trainer_job.run_map(job, 1, frozen_run.run_text(config, {}, smallest=False))
    made["metadata"]["name"] = preflight_run_name(name, job.uid)
    _relabel(made, job.generation)
    return made


def preflight_job(job: JobView, spec: FineTuneJobSpec, settings: Settings, name: str, bound: Set[str] = frozenset()
                  ) -> trainer_job.Object:
    """A trainer's Job with its account, its Secrets and its claims, but without accelerator and limits, on any node.

    Args:
        job: the job.
        spec: its spec.
        settings: the administrator's.
        name: of the Job.
        bound: claims that are known to have a volume. Where another one is mounted, the check goes where the trainer's
            nodes are: who uses a claim first may decide in which zone its volume is made (WaitForFirstConsumer).
    """
    wanted, trainers = spec.compute, settings.accelerators[spec.compute.accelerator]
    compute = ComputeSpec(accelerator=wanted.accelerator, queue_name=settings.preflight.queue_name,
                          service_account_name=wanted.service_account_name,
                          priority_class_name=wanted.priority_class_name)
    where: dict[str, Any] = {"tolerations": ()}
    if not trainer_job.claims(spec, settings) <= bound:
        compute = compute.model_copy(update={name: getattr(wanted, name) for name in (
            "node_selector", "tolerations", "spot")})
        where = {"tolerations": trainers.tolerations, "node_selector": trainers.node_selector}
    plain = spec.model_copy(update={"compute": compute, "budget": BudgetSpec()})
    own = settings.preflight.pod_template
    cpu = Accelerator(resource=None, cpu=settings.preflight.cpu, host_memory=settings.preflight.memory,
                      ephemeral_storage=settings.preflight.ephemeral_storage,
                      pod_template=template_for_check(settings.pod_template) if own is None else own, **where)
    made = trainer_job.attempt_job(job, plain, 1, settings.trainer_image, cpu,
                                 settings.model_copy(update={"pod_template": {}}))
    made["metadata"]["name"] = name
    template, body = made["spec"]["template"], made["spec"]
    trainer_job.limit_time(body, settings.preflight.timeout)
    pod = template["spec"]
    pod["volumes"] = [one for one in pod["volumes"] if one["name"] != _LIMITS]
    next(one for one in pod["volumes"] if one["name"] == "run")["configMap"]["name"] = preflight_run_name(
        name, job.uid)
    trainer = next(one for one in pod["containers"] if one["name"] == "trainer")
    trainer["args"] = ["preflight", "--config", trainer_job.RUN_FOLDER]
    trainer["volumeMounts"] = [one for one in trainer["volumeMounts"] if one["name"] != _LIMITS]
    trainer.pop("ports")
    _relabel(made, job.generation)
    _relabel(template, job.generation)
    return made


def _relabel(made: trainer_job.Object, generation: int) -> None:
    """It is no attempt, and must not be counted as one."""
    labels = made["metadata"]["labels"]
    labels.pop(ATTEMPT_LABEL, None)
    labels[PREFLIGHT_LABEL] = str(generation)
