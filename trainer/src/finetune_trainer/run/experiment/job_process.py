"""One job of an experiment, in a process of its own: its memory is given back, and its crash does not end the rest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import yaml
from finetune_api.exit_codes import ExitCode
from finetune_api.experiment.expansion import Run
from finetune_api.experiment.status import ExperimentRun, RunPhase
from finetune_api.experiment.summary import row_of
from finetune_api.messages import LocalEnd, Manifest, Outcome, Result, RowScores, RunFigures
from finetune_api.messages.layout import ROW_SCORES
from finetune_api.rules import merge_patch
from finetune_api.spec.evaluation import Metric
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.status.evaluation import headline
from pydantic import ValidationError

from finetune_trainer.clock import Clock
from finetune_trainer.errors import TrainerError
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.run.launcher import Child, launch
from finetune_trainer.storage import open_storage

Command = Callable[[Path, Path], Sequence[str]]
"""The command that runs the job in the first file, and writes its end (`LocalEnd`) into the second."""

INTERRUPTED = 130
"""What a command exits with that Ctrl-C ended before there was anything to keep."""

_PUBLISHED = {Outcome.SUCCEEDED, Outcome.STOPPED_EARLY, Outcome.ALREADY_PUBLISHED}


@dataclass(frozen=True)
class JobEnd:
    """How one job of an experiment ended.

    Attributes:
        exit_code: of its process.
        row: what the experiment's status says of it.
        rows: the scores of single held-out rows; None where there are none.
        currency: of its cost.
        resumed_cost: the part of its cost that earlier runs of the experiment have spent.
    """

    exit_code: int
    row: ExperimentRun
    rows: RowScores | None = None
    currency: str = "USD"
    resumed_cost: Decimal = Decimal(0)

    @property
    def was_stopped(self) -> bool:
        """Whether it was asked to stop, and goes on when it is run again."""
        return self.exit_code in (ExitCode.STOPPED, INTERRUPTED)


def run_in_process(run: Run, max_cost: Decimal | None, metric: Metric, command: Command, stop: StopFlag,
                   clock: Clock) -> JobEnd:
    """Run one job, and read what it published.

    Args:
        run: the job; its `file://` locations are absolute.
        max_cost: its limit of money; None for its own.
        metric: what the experiment ranks by.
        command: how to run it.
        stop: whether the experiment was asked to stop; passed on to the job.
        clock: the time.
    """
    with tempfile.TemporaryDirectory(prefix="finetune-experiment-") as folder:
        job_file, result_file = Path(folder, f"{run.name}.yaml"), Path(folder, "result.json")
        job_file.write_text(yaml.safe_dump(_document(run, max_cost), sort_keys=False, allow_unicode=True), "utf-8")
        # Never in place of this process's own group: Ctrl-C would reach the job twice, which ends it at once.
        end = launch([Child(command(job_file, result_file), dict(os.environ))], stop, clock)
        written = result_file.read_bytes() if result_file.exists() else None
    return _job_end(run, end.code, written, metric, max_cost)


def _document(run: Run, max_cost: Decimal | None) -> dict[str, object]:
    """The job as it is run: with the limit of money, and the locations that the file's folder would change."""
    spec = run.job.spec
    document = merge_patch(run.document, {"spec": {
        "model": {"source": str(spec.model.source)}, "dataset": {"source": str(spec.dataset.source)},
        "output": {"uri": str(spec.output.uri)}}})
    return merge_patch(document, {"spec": {"budget": {"maxCost": f"{max_cost:f}"}}}) if max_cost is not None \
        else document


def _job_end(run: Run, code: int, written: bytes | None, metric: Metric, max_cost: Decimal | None) -> JobEnd:
    try:
        end = LocalEnd.read(written or b"")
    except ValidationError:
        killed = f"its process ended with exit code {code} and wrote no result" + (
            "; the system may have been out of memory (SIGKILL)" if code == 137 else "")
        return JobEnd(code, row_of(run, RunPhase.FAILED, Outcome.INTERNAL, killed))
    result = end.result
    manifest, rows = _published(run.job.spec, result)
    figures = (manifest.figures if manifest else None) or end.figures
    phase = RunPhase.SUCCEEDED if code == ExitCode.OK and result.outcome in _PUBLISHED else RunPhase.FAILED
    if code == ExitCode.STOPPED:
        phase = RunPhase.PENDING
    # A job that trained nothing has found the result of an earlier run.
    resumed = end.figures.resumed_cost if end.figures else figures.cost if figures else None
    row = row_of(run, phase, result.outcome, result.message)
    return JobEnd(code, row.model_copy(update={**_scores(result, metric), **_taken(result, figures),
                                               "max_cost": max_cost}),
                  rows, figures.currency if figures else "USD", resumed or Decimal(0))


def _scores(result: Result, metric: Metric) -> dict[str, object]:
    evaluation = result.evaluation
    return {"before": headline(evaluation.before or {}, metric) if evaluation else None,
            "after": headline(evaluation.after or {}, metric) if evaluation else None}


def _taken(result: Result, figures: RunFigures | None) -> dict[str, object]:
    """What a job took, and where its result is."""
    return {
        "cost": figures.cost if figures else None, "hours": round(figures.seconds / 3600, 4) if figures else None,
        "tokens_per_second": figures.tokens_per_second if figures else None,
        "peak_bytes": result.memory.peak_bytes if result.memory else None,
        "adapter": result.adapter.uri if result.adapter else None,
    }


def _published(spec: FineTuneJobSpec, result: Result) -> tuple[Manifest | None, RowScores | None]:
    """The manifest of a result, and its scores of single rows, as far as they can be read."""
    if result.manifest is None:
        return None, None
    try:
        storage = open_storage(spec.output.uri, spec.output.s3)
        home, _, name = result.manifest.removeprefix(f"{storage.root.join('')}").rpartition("/")
        manifest = Manifest.read(storage.get_bytes(f"{home}/{name}") or b"")
        found = manifest.path_of(ROW_SCORES)
        content = storage.get_bytes(f"{home}/{found}") if found else None
        return manifest, RowScores.read(content) if content else None
    except (TrainerError, ValidationError):
        return None, None  # The result message has the scores; only their comparison row by row is missing.
