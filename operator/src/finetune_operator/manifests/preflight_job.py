"""The Job that checks a job on a CPU before it starts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set

from finetune_api.spec.compute import Toleration
from finetune_api.spec.job import FineTuneJobSpec

from finetune_operator.manifests.child import Manifest, child_metadata
from finetune_operator.manifests.cpu_job import CpuProgram, cpu_job, cpu_resources
from finetune_operator.manifests.pod.environment import trainer_environment
from finetune_operator.manifests.pod.volumes import claims, working_volumes
from finetune_operator.names import PREFLIGHT_LABEL, preflight_run_name
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
    node_selector, tolerations = _trainers_nodes(spec, settings) if claims(spec, settings) - bound_claims else ({}, ())
    program = CpuProgram("preflight", preflight_run_name(name, job.uid),
                         trainer_environment(spec, settings, has_accelerator=False),
                         working_volumes(spec, settings, cpu_resources(settings)), node_selector, tolerations)
    metadata = child_metadata(job, name, more_labels={PREFLIGHT_LABEL: str(job.generation)})
    return cpu_job(metadata, program, spec.compute, settings)


def _trainers_nodes(spec: FineTuneJobSpec, settings: Settings) -> tuple[Mapping[str, str], tuple[Toleration, ...]]:
    """Node selector and tolerations that lead to the nodes of the job's trainers."""
    accelerator, compute = settings.accelerator(spec.compute), spec.compute
    spot = settings.spot_tolerations if compute.spot else ()
    return ({**accelerator.node_selector, **(compute.node_selector or {})},
            (*accelerator.tolerations, *spot, *(compute.tolerations or ())))
