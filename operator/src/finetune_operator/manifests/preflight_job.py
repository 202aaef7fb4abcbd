"""The Job that checks a job on a CPU before it starts. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set

from finetune_api.spec.compute import Toleration
from finetune_api.spec.job import FineTuneJobSpec

from finetune_operator.manifests.child import Manifest, child_metadata
from finetune_operator.manifests.job import batch_job
from finetune_operator.manifests.pod.admin_template import template_for_check
from finetune_operator.manifests.pod.environment import trainer_environment
from finetune_operator.manifests.pod.labels import pod_labels
from finetune_operator.manifests.pod.resources import PodResources
from finetune_operator.manifests.pod.template import RUN_FOLDER, PodRequest, pod_template
from finetune_operator.manifests.pod.volumes import claims, config_volume, working_volumes
from finetune_operator.names import PREFLIGHT_LABEL, labels, preflight_run_name
from finetune_operator.observed.job import JobView
from finetune_operator.settings import Settings


def preflight_job(job: JobView, spec: FineTuneJobSpec, settings: Settings, name: str,
                  bound_claims: Set[str] = frozenset()) -> Manifest:
    """A Job with the account, Secrets and claims of the trainer, but with CPUs only, on any node.

    Args:
        job: the job.
        spec: its spec.
        settings: the administrator's.
        name: of the Job.
        bound_claims: claims that have a volume. If the check mounts another claim, it runs on a node that the trainer
            could use, because the first pod that uses a claim may decide in which zone its volume is created
            (WaitForFirstConsumer).
    """
    own = settings.preflight
    resources = PodResources(cpu=own.cpu, memory=own.memory, disk=own.ephemeral_storage)
    node_selector, tolerations = _trainers_nodes(spec, settings) if claims(spec, settings) - bound_claims else ({}, ())
    admin_template = template_for_check(settings.pod_template) if own.pod_template is None else own.pod_template
    pod = PodRequest(
        labels=pod_labels({**labels(job.name, job.uid), PREFLIGHT_LABEL: str(job.generation)}),
        image=settings.trainer_image,
        arguments=("preflight", "--config", RUN_FOLDER),
        environment=trainer_environment(spec, settings, has_accelerator=False),
        resources=resources,
        volumes=(config_volume("run", preflight_run_name(name, job.uid), RUN_FOLDER),
                 *working_volumes(spec, settings, resources)),
        node_selector=node_selector,
        tolerations=tolerations,
        grace_seconds=math.ceil(settings.termination_grace.total_seconds()),
        service_account_name=spec.compute.service_account_name,
        priority_class_name=spec.compute.priority_class_name,
        deadline=own.timeout,
        admin_templates=(admin_template,),
    )
    metadata = child_metadata(job, name, more_labels={PREFLIGHT_LABEL: str(job.generation)})
    return batch_job(metadata, pod_template(pod, settings), 1, own.queue_name)


def _trainers_nodes(spec: FineTuneJobSpec, settings: Settings) -> tuple[Mapping[str, str], tuple[Toleration, ...]]:
    """Node selector and tolerations that lead to the nodes of the job's trainers."""
    accelerator, compute = settings.accelerator(spec.compute), spec.compute
    spot = settings.spot_tolerations if compute.spot else ()
    return ({**accelerator.node_selector, **(compute.node_selector or {})},
            (*accelerator.tolerations, *spot, *(compute.tolerations or ())))
