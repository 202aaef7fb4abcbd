"""A Job of the trainer's image with CPUs only: of a check and of a report. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune_api.spec.compute import ComputeSpec, Toleration

from finetune_operator.manifests.child import Manifest
from finetune_operator.manifests.job import batch_job
from finetune_operator.manifests.pod.admin_template import template_for_check
from finetune_operator.manifests.pod.labels import pod_labels
from finetune_operator.manifests.pod.resources import PodResources
from finetune_operator.manifests.pod.template import RUN_FOLDER, PodRequest, pod_template
from finetune_operator.manifests.pod.volumes import Volume, config_volume
from finetune_operator.settings import Settings


@dataclass(frozen=True)
class CpuProgram:
    """What such a pod runs.

    Attributes:
        command: of the trainer's image.
        config_map: name of the ConfigMap that the command reads.
        environment: variables of the container.
        volumes: of the pod, beside the ConfigMap.
        node_selector: labels of its nodes.
        tolerations: taints of its nodes that it tolerates.
    """

    command: str
    config_map: str
    environment: Sequence[Manifest]
    volumes: tuple[Volume, ...]
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()


def cpu_resources(settings: Settings) -> PodResources:
    """What such a pod requests: the settings of the check hold for all."""
    own = settings.preflight
    return PodResources(cpu=own.cpu, memory=own.memory, disk=own.ephemeral_storage)


def cpu_job(metadata: Manifest, program: CpuProgram, compute: ComputeSpec, settings: Settings) -> Manifest:
    """A Job with one pod.

    Args:
        metadata: of the Job; its pod has the same labels.
        program: what the pod runs.
        compute: section of the job whose account and priority the pod has.
        settings: the administrator's.
    """
    own = settings.preflight
    pod = PodRequest(
        labels=pod_labels(metadata["labels"]),
        image=settings.trainer_image,
        arguments=(program.command, "--config", RUN_FOLDER),
        environment=program.environment,
        resources=cpu_resources(settings),
        volumes=(config_volume("run", program.config_map, RUN_FOLDER), *program.volumes),
        node_selector=program.node_selector,
        tolerations=program.tolerations,
        grace_seconds=math.ceil(settings.termination_grace.total_seconds()),
        service_account_name=compute.service_account_name,
        priority_class_name=compute.priority_class_name,
        deadline=own.timeout,
        admin_templates=(template_for_check(settings.pod_template) if own.pod_template is None else own.pod_template,),
    )
    return batch_job(metadata, pod_template(pod, settings), 1, own.queue_name)
