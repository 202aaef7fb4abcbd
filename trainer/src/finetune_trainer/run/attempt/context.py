"""What one attempt works with, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune_api.messages import Result, RunConfig
from finetune_api.messages.layout import job_prefix

from finetune_trainer.clock import Clock
from finetune_trainer.distributed.rank import RankInfo
from finetune_trainer.progress.limits import LimitsFile
from finetune_trainer.progress.metrics_log import MetricsLog
from finetune_trainer.progress.state import RunState
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.report.facts import RunFacts
from finetune_trainer.storage import Storage, open_storage


@dataclass(frozen=True)
class Attempt:
    """What one attempt works with.

    Attributes:
        config: the run configuration.
        limits: the budget and the deadline.
        state: receives the progress.
        metrics: the metrics log; one of the observers of the state.
        stop: whether the run was asked to stop.
        scratch: a folder of this process.
        clock: the time.
        rank: the rank of this process.
        rendezvous_seconds: how long to wait for the other processes at the start.
    """

    config: RunConfig
    limits: LimitsFile
    state: RunState
    metrics: MetricsLog
    stop: StopFlag
    scratch: Path
    clock: Clock
    rank: RankInfo
    rendezvous_seconds: float


@dataclass(frozen=True)
class JobOutput:
    """The job's folder in its output.

    Attributes:
        storage: the output.
        prefix: the folder.
    """

    storage: Storage
    prefix: str

    @classmethod
    def of(cls, config: RunConfig) -> JobOutput:
        """The folder of a job.

        Raises:
            BadConfig: the output cannot be used here.
        """
        output = config.spec.output
        return cls(open_storage(output.uri, output.s3), job_prefix(config.namespace, config.name, config.uid))


@dataclass(frozen=True)
class AttemptResult:
    """What an attempt published.

    Attributes:
        result: the result message; None in a process that only helped to train, since rank 0 publishes.
        facts: the facts of the run; None if the result was published before this attempt.
        report: the location of the report; None if there is none.
    """

    result: Result | None
    facts: RunFacts | None = None
    report: str | None = None
