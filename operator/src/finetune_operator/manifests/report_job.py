"""The Job that compares the results of an experiment and writes its report, on a CPU. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from finetune_api.experiment.reading import Experiment
from finetune_api.experiment.status import FineTuneExperimentStatus
from finetune_api.messages.layout import EXPERIMENT
from finetune_api.values.api_model import GROUP, VERSION

from finetune_operator.manifests.child import Manifest, owned_metadata
from finetune_operator.manifests.cpu_job import CpuProgram, cpu_job, cpu_resources
from finetune_operator.manifests.pod.environment import report_environment
from finetune_operator.manifests.pod.volumes import report_volumes
from finetune_operator.names import REPORT_LABEL, experiment_labels, report_config_name
from finetune_operator.observed.experiment import ExperimentView
from finetune_operator.settings import Settings


@dataclass(frozen=True)
class ReportRequest:
    """What a report is made from.

    Attributes:
        view: the experiment.
        experiment: the same with its jobs.
        status: what the status will be, but for the comparison.
        name: of the Job.
        number: of the Job, from 1.
    """

    view: ExperimentView
    experiment: Experiment
    status: FineTuneExperimentStatus
    name: str
    number: int


def report_config_map(request: ReportRequest) -> Manifest:
    """The immutable ConfigMap with the experiment and its status."""
    view = request.view
    document: dict[str, Any] = {
        "apiVersion": f"{GROUP}/{VERSION}", "kind": view.kind,
        "metadata": {"name": view.name, "namespace": view.namespace}, "spec": view.spec,
        "status": request.status.model_dump(mode="json", exclude_none=True)}
    metadata = owned_metadata(view, report_config_name(request.name, view.uid), experiment_labels(view.name, view.uid))
    return {"apiVersion": "v1", "kind": "ConfigMap", "immutable": True, "metadata": metadata,
            "data": {EXPERIMENT: json.dumps(document, ensure_ascii=False, separators=(",", ":"))}}


def report_job(request: ReportRequest, settings: Settings) -> Manifest:
    """The Job, with the account, the Secret and the claims of the experiment's outputs.

    Settings of the check (`preflight`) hold for it too.
    """
    view, spec = request.view, request.experiment.runs[0].job.spec
    outputs = [run.job.spec.output.uri for run in request.experiment.runs]
    program = CpuProgram("experiment-report", report_config_name(request.name, view.uid),
                         report_environment(spec, settings), report_volumes(outputs, cpu_resources(settings)))
    labels = {**experiment_labels(view.name, view.uid), REPORT_LABEL: str(request.number)}
    return cpu_job(owned_metadata(view, request.name, labels), program, spec.compute, settings)
