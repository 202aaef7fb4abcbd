"""The Job of an attempt. Pure."""

from __future__ import annotations

import math

from finetune_operator.manifests.attempt_request import AttemptRequest
from finetune_operator.manifests.child import Manifest, child_metadata
from finetune_operator.manifests.job import batch_job
from finetune_operator.manifests.pod.environment import rendezvous_variables, trainer_environment
from finetune_operator.manifests.pod.labels import pod_labels
from finetune_operator.manifests.pod.resources import trainer_resources
from finetune_operator.manifests.pod.template import LIMITS_FOLDER, RUN_FOLDER, PodRequest, pod_template
from finetune_operator.manifests.pod.volumes import config_volume, working_volumes
from finetune_operator.manifests.service import RENDEZVOUS_PORT
from finetune_operator.names import attempt_name, labels, limits_name, run_name
from finetune_operator.observed.job import JobView
from finetune_operator.settings import Settings

UPLOAD_BYTES_PER_SECOND = 50e6
"""Assumed speed of the upload to the output."""


def attempt_job(request: AttemptRequest) -> Manifest:
    """The Job of an attempt. The operator creates it once and never applies it again."""
    job, number, compute = request.job, request.number, request.spec.compute
    settings, accelerator = request.settings, request.accelerator
    resources = trainer_resources(compute, accelerator)
    environment = trainer_environment(request.spec, settings, has_accelerator=accelerator.resource is not None)
    if request.rendezvous is not None:
        environment += rendezvous_variables(compute.nodes, f"{request.rendezvous}:{RENDEZVOUS_PORT}")
    pod = PodRequest(
        labels=pod_labels(labels(job.name, job.uid, number)),
        image=request.image,
        arguments=("run", "--config", RUN_FOLDER, "--limits", LIMITS_FOLDER, "--port", str(settings.trainer_port)),
        environment=environment,
        resources=resources,
        volumes=(config_volume("run", run_name(job.name, job.uid, number), RUN_FOLDER),
                 config_volume("limits", limits_name(job.name, job.uid, number), LIMITS_FOLDER),
                 *working_volumes(request.spec, settings, resources)),
        node_selector={**accelerator.node_selector, **(compute.node_selector or {})},
        tolerations=(*accelerator.tolerations, *(settings.spot_tolerations if compute.spot else ()),
                     *(compute.tolerations or ())),
        grace_seconds=_grace_seconds(job, settings),
        service_account_name=compute.service_account_name,
        priority_class_name=compute.priority_class_name,
        port=settings.trainer_port,
        deadline=request.deadline,
        admin_templates=(settings.pod_template, accelerator.pod_template),
    )
    metadata = child_metadata(job, attempt_name(job.name, number), number)
    return batch_job(metadata, pod_template(pod, settings), compute.nodes, compute.queue_name)


def _grace_seconds(job: JobView, settings: Settings) -> int:
    """Seconds to upload a checkpoint of the size that preflight estimated; at least the setting."""
    preflight = job.status.preflight
    upload = (preflight.checkpoint_bytes or 0) / UPLOAD_BYTES_PER_SECOND if preflight else 0
    return math.ceil(max(settings.termination_grace.total_seconds(), upload))
