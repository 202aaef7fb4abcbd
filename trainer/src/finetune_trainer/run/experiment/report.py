"""The report of an experiment: reads what its jobs have published, compares, and writes the page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.experiment.reading import Experiment, parse_experiment
from finetune_api.experiment.reported import ReportedExperiment
from finetune_api.experiment.status import FineTuneExperimentStatus
from finetune_api.experiment.summary import has_result
from finetune_api.messages.layout import EXPERIMENT, REPORT
from finetune_api.reading.loading import InvalidJob
from finetune_api.reasons import Outcome
from pydantic import ValidationError

from finetune_trainer.clock import Clock
from finetune_trainer.errors import BadConfig
from finetune_trainer.evaluation.experiment_ranking import job_gains, rank_jobs
from finetune_trainer.publish.results import read_result
from finetune_trainer.report.experiment.facts import ExperimentFacts, JobResult
from finetune_trainer.report.experiment.page import render_experiment
from finetune_trainer.run.experiment.home import ExperimentHome
from finetune_trainer.storage import open_storage

_WRITTEN = ("apiVersion", "kind", "spec")
_NAMED = ("name", "namespace")
"""Of the metadata; an apiserver adds more."""


@dataclass(frozen=True)
class WrittenReport:
    """A report that is written.

    Attributes:
        status: the status with the ranking and the location of the report.
        facts: what the page shows.
        missing: a sentence for each part of a result that could not be read.
    """

    status: FineTuneExperimentStatus
    facts: ExperimentFacts
    missing: tuple[str, ...] = ()

    @property
    def reported(self) -> ReportedExperiment:
        """The same for the operator."""
        return ReportedExperiment(
            outcome=Outcome.SUCCEEDED, message="; ".join(self.missing) or "the report is complete",
            is_incomplete=bool(self.missing), report=self.status.report, winner=self.status.winner,
            conclusion=self.status.conclusion, ranking=self.status.ranking)


def write_report(experiment: Experiment, status: FineTuneExperimentStatus, clock: Clock) -> WrittenReport:
    """Compare what the jobs of an experiment have published, and write the page.

    Args:
        experiment: the experiment; `file://` locations of its jobs are absolute.
        status: what is known of its jobs; its ranking is made anew.
        clock: the time.

    Raises:
        OutputNotWritable: the page cannot be written.
    """
    results, missing = _results(experiment, status)
    spec, currency = experiment.resource.spec, status.cost.currency if status.cost else "USD"
    rows = {name: one.rows for name, one in results.items()}
    comparison, ranking = rank_jobs(status.runs, rows, spec.rank_by, currency)
    home = ExperimentHome(experiment)
    status = status.model_copy(update={
        "ranking": ranking.variants, "winner": ranking.winner, "conclusion": ranking.conclusion,
        "report": home.location(REPORT)})
    facts = ExperimentFacts(experiment.resource, status, comparison, results, clock.now(),
                            job_gains(status.runs, rows, spec.rank_by.metric))
    home.write(REPORT, render_experiment(facts))
    return WrittenReport(status, facts, tuple(missing))


def _results(experiment: Experiment, status: FineTuneExperimentStatus) -> tuple[dict[str, JobResult], list[str]]:
    """What the jobs with a result have published, by name, and what of it cannot be read."""
    rows = {row.job: row for row in status.runs if has_result(row)}
    results: dict[str, JobResult] = {}
    missing: list[str] = []
    for run in experiment.runs:
        row, spec = rows.get(run.name), run.job.spec
        if row is None:
            continue
        if row.adapter is None:
            results[run.name] = JobResult(spec.method.display_name)
            continue
        results[run.name], faults = read_result(open_storage(spec.output.uri, spec.output.s3), row.adapter,
                                                spec.method.display_name)
        missing += [f"{run.variant}: {fault}" for fault in faults]
    return results, missing


def read_finished(folder: Path) -> tuple[Experiment, FineTuneExperimentStatus]:
    """The experiment with its status in a folder, in `experiment.json`: as `finetune run` wrote it, or as an apiserver
    shows it.

    Raises:
        BadConfig: the file is missing or invalid.
    """
    path = folder / EXPERIMENT
    try:
        document: Any = json.loads(path.read_bytes())
        written = {key: document[key] for key in _WRITTEN if key in document}
        named = {key: value for key, value in document["metadata"].items() if key in _NAMED}
        experiment = parse_experiment({**written, "metadata": named}, str(path))
        return experiment, FineTuneExperimentStatus.read(json.dumps(document["status"]))
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from error
    except InvalidJob as error:
        raise BadConfig(str(error)) from error
    except ValidationError as error:
        fault = error.errors()[0]
        raise BadConfig(f"{path}: status.{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
    except (KeyError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise BadConfig(f"{path} is no FineTuneExperiment with a status, as JSON") from error


def report_finished(folder: Path, clock: Clock) -> WrittenReport:
    """Write report and status of the experiment in a folder to its output, for `finetune-trainer experiment-report`.

    Raises:
        TrainerError: the file is not valid, or the output cannot be written.
    """
    experiment, status = read_finished(folder)
    written = write_report(experiment, status, clock)
    ExperimentHome(experiment).write_status(written.status)
    return written
