"""The stored FineTuneExperiment, with whatever this version can read of it, and its jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from finetune_api.experiment.expansion import InvalidExperiment
from finetune_api.experiment.reading import Experiment, parse_experiment
from finetune_api.experiment.resource import EXPERIMENT_KIND
from finetune_api.experiment.status import ExperimentRun, FineTuneExperimentStatus, RunPhase
from finetune_api.reading.loading import InvalidJob
from finetune_api.values.api_model import GROUP, VERSION

from finetune_operator.observed.attempt import AttemptView
from finetune_operator.observed.job import JobView
from finetune_operator.observed.readable import read_readable


@dataclass(frozen=True)
class ExperimentView:
    """A FineTuneExperiment as it is stored.

    Attributes:
        deleting: whether its deletion has been requested.
        spec: as plain data.
        status: the status that the operator wrote last.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    deleting: bool
    spec: Mapping[str, Any]
    status: FineTuneExperimentStatus

    @property
    def kind(self) -> str:
        """Kind of the resource."""
        return EXPERIMENT_KIND


@dataclass(frozen=True)
class ExperimentObservation:
    """What is known about one experiment.

    Attributes:
        view: the experiment.
        experiment: the same with its jobs, all of them valid; or everything that is wrong with it.
        jobs: the FineTuneJobs that it owns, by name.
        reports: the Jobs that write its report.
    """

    view: ExperimentView
    experiment: Experiment | InvalidJob
    jobs: Mapping[str, JobView]
    reports: tuple[AttemptView, ...] = ()


def view_experiment(raw: Mapping[str, Any]) -> ExperimentView:
    """Read a stored FineTuneExperiment. It never raises: unreadable fields of the status are left out."""
    metadata = raw["metadata"]
    return ExperimentView(
        namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"],
        generation=metadata.get("generation", 1), resource_version=metadata["resourceVersion"],
        deleting="deletionTimestamp" in metadata, spec=raw.get("spec") or {},
        status=_read_status(raw.get("status") or {}))


def _read_status(raw: Mapping[str, Any]) -> FineTuneExperimentStatus:
    """The stored status. A row of another release does not hide the other rows, and with them what was spent."""
    status, rows = read_readable(FineTuneExperimentStatus, raw), raw.get("runs")
    if status.runs or not isinstance(rows, list):
        return status
    return status.model_copy(update={"runs": tuple(row for one in rows if (row := _read_row(one)) is not None)})


def _read_row(raw: Any) -> ExperimentRun | None:
    """A row of the status, as far as it can be read; None if it names no job.

    A job in a phase that this release does not know counts as one that has failed. The row is only needed if the job is
    gone, and then it is not bought again.
    """
    for one in (raw, {**raw, "phase": RunPhase.FAILED}) if isinstance(raw, Mapping) else ():
        with suppress(ValueError, RecursionError):
            return ExperimentRun.read(json.dumps(one))
    return None


def read_experiment(view: ExperimentView) -> Experiment | InvalidJob:
    """An experiment with its jobs, or everything that is wrong with it. It never raises."""
    document = {"apiVersion": f"{GROUP}/{VERSION}", "kind": EXPERIMENT_KIND, "spec": view.spec,
                "metadata": {"name": view.name, "namespace": view.namespace}}
    try:
        return parse_experiment(document, view.name)
    except InvalidJob as invalid:
        return invalid
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        return InvalidExperiment([], f"the operator cannot read the experiment ({type(error).__name__}: {error})"[:500])
