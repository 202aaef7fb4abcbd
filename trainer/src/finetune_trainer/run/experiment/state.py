"""What is known of an experiment on this machine: the ends of its jobs, and the file with its status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from finetune_api.experiment.expansion import Run
from finetune_api.experiment.observed import ENDED, ObservedExperiment, ObservedJob
from finetune_api.experiment.plan import ExperimentPlan, plan
from finetune_api.experiment.ranking import Ranking
from finetune_api.experiment.reading import Experiment
from finetune_api.experiment.spec import FineTuneExperimentSpec
from finetune_api.experiment.status import ExperimentRun, FineTuneExperimentStatus, RunPhase
from finetune_api.experiment.summary import KnownRuns, summarize
from finetune_api.messages.layout import EXPERIMENT, MANIFEST
from pydantic import ValidationError

from finetune_trainer.clock import Clock
from finetune_trainer.evaluation.experiment_ranking import rank_jobs
from finetune_trainer.run.experiment.home import ExperimentHome
from finetune_trainer.run.experiment.job_process import JobEnd
from finetune_trainer.storage import as_output, open_storage


@dataclass
class LocalExperiment:
    """An experiment that runs on this machine.

    Attributes:
        experiment: the experiment; `file://` locations of its jobs are absolute.
        clock: the time.
        ends: the ends of jobs in this run, by name.
        earlier: the status that an earlier run of the same experiment wrote.
        published: the names of jobs whose result an earlier run has published.
    """

    experiment: Experiment
    clock: Clock
    ends: dict[str, JobEnd] = field(default_factory=dict)
    earlier: FineTuneExperimentStatus | None = None
    published: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self._home = ExperimentHome(self.experiment)

    @property
    def spec(self) -> FineTuneExperimentSpec:
        """The spec, with the one job at a time that this machine runs."""
        return self.experiment.resource.spec.model_copy(update={"parallelism": 1})

    @property
    def location(self) -> str:
        """The location of the status."""
        return self._home.location(EXPERIMENT)

    def read_earlier(self, reruns: bool) -> None:
        """Read the status that an earlier run wrote, and which of its results are still there.

        A status that cannot be read is none.

        Args:
            reruns: whether jobs are trained again whose result is published.

        Raises:
            OutputNotWritable: the output cannot be read.
        """
        content = self._home.read(EXPERIMENT)
        try:
            written = json.loads(content or b"{}").get("status")
            self.earlier = FineTuneExperimentStatus.read(json.dumps(written)) if written else None
        except (ValueError, ValidationError, AttributeError, RecursionError):
            self.earlier = None
        if self.earlier is not None and not reruns:
            succeeded = {row.job for row in self.earlier.runs if row.phase is RunPhase.SUCCEEDED}
            self.published = frozenset(run.name for run in self.experiment.runs
                                       if run.name in succeeded and _is_published(run))

    @property
    def spent_before(self) -> Decimal:
        """What earlier runs spent on jobs without a result, and on jobs that are not in the experiment any more.

        A job with a result is found in the output again, with its cost. A failed one that resumes from its checkpoint
        counts what it took up to there itself. So does one that was stopped: what it lost is known when it ends.
        """
        if self.earlier is None:
            return Decimal(0)
        removed = self.earlier.cost.removed if self.earlier.cost else None
        wanted = {run.name for run in self.experiment.runs}
        return (removed or Decimal(0)) + sum(
            (self._lost(row) for row in self.earlier.runs
             if row.phase is RunPhase.FAILED or row.job not in wanted
             or (row.phase is RunPhase.PENDING and row.job in self.ends)), Decimal(0))

    def _lost(self, row: ExperimentRun) -> Decimal:
        """What an earlier run spent on a job, without what the same job counts in this run."""
        end = self.ends.get(row.job)
        return max((row.cost or Decimal(0)) - (end.resumed_cost if end else Decimal(0)), Decimal(0))

    @property
    def rows(self) -> dict[str, ExperimentRun]:
        """What is known of the jobs that have ended, or were stopped, by name."""
        return {name: end.row for name, end in self.ends.items()}

    def decide(self) -> ExperimentPlan:
        """What happens next."""
        jobs = {name: ObservedJob(row.phase, row.cost or Decimal(0), row.max_cost, row.after)
                for name, row in self.rows.items() if row.phase in ENDED}
        return plan(self.spec, self.experiment.runs, ObservedExperiment(
            jobs, self.spent_before, published=self.published))

    def ranking(self) -> Ranking:
        """The ranking of the variants that have a result."""
        rows = {name: end.rows for name, end in self.ends.items()}
        return rank_jobs(list(self.rows.values()), rows, self.spec.rank_by, self.currency)[1]

    @property
    def currency(self) -> str:
        """Currency of the costs."""
        return next((end.currency for end in self.ends.values()), "USD")

    def status(self, decided: ExperimentPlan, running: Sequence[ExperimentRun] = ()) -> FineTuneExperimentStatus:
        """The status.

        Args:
            decided: what happens next.
            running: the job that is about to run.
        """
        known = KnownRuns(self.experiment.runs, {**self.rows, **{row.job: row for row in running}}, decided,
                          self.spec.rank_by.metric, self.ranking() if decided.finished else None, self.spent_before,
                          self.currency)
        return summarize(known, False, self.earlier, 1, self.clock.now().replace(microsecond=0))

    def write(self, status: FineTuneExperimentStatus) -> None:
        """Write the experiment with its status beside the outputs.

        Raises:
            OutputNotWritable: it cannot be written.
        """
        self._home.write_status(status)


def _is_published(run: Run) -> bool:
    """Whether there is a manifest of a job in its output; whether it fits is decided when the job is run."""
    spec = run.job.spec
    storage = open_storage(spec.output.uri, spec.output.s3)
    with as_output():
        return any(key.endswith(f"/{MANIFEST}") for key in storage.keys(f"{run.job.metadata.namespace}/{run.name}/"))
