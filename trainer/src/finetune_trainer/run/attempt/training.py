"""The training step of an attempt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from finetune_api.messages import Stage
from finetune_api.values.money import cost_of

from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation.evaluate import Evaluation
from finetune_trainer.faults import reach
from finetune_trainer.methods import METHODS
from finetune_trainer.progress.state import RunState
from finetune_trainer.run.attempt.context import Attempt, JobOutput
from finetune_trainer.run.attempt.loading import Inputs, LoadedBase
from finetune_trainer.run.checks.rehearsal import rehearse
from finetune_trainer.storage import BackgroundUploader
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.complete_checkpoints import resume_source
from finetune_trainer.training.packing import choose_packing
from finetune_trainer.training.result import TrainingResult
from finetune_trainer.training.training_run import TrainingRun


@dataclass(frozen=True)
class Training:
    """The training step.

    Attributes:
        result: what the method returned.
        findings: warnings about how the rows were trained on, for the report.
        not_resumed: why the job could not resume from the job that it names, and was trained from the start; None if it
            could.
    """

    result: TrainingResult
    findings: list[str]
    not_resumed: str | None = None


def train(attempt: Attempt, output: JobOutput, inputs: Inputs, loaded: LoadedBase, before: Evaluation | None
          ) -> Training:
    """Train with the job's method, in all processes.

    Raises:
        TrainerError: as `TrainingRun`'s method raises it.
    """
    config, spec, state = attempt.config, attempt.config.spec, attempt.state
    with BackgroundUploader() as uploader, inputs.world.training(inputs.device, attempt.stop.check):
        state.enter(Stage.WARM_UP if spec.method.reft else Stage.TRAINING)
        with inputs.device.autocast():
            packing = choose_packing(spec, loaded.model, inputs.data.train, inputs.world, state.note)
        checkpoints = CheckpointStore(output.storage, output.prefix, config.attempt, uploader, state.note,
                                      resume_source(config))
        with rehearsed_on_failure(attempt, inputs):
            run = TrainingRun(
                spec=packing.spec, model=loaded.model, tokenizer=inputs.tokenizer, data=inputs.data,
                device=inputs.device, by_rows=packing.by_rows,
                identity=loaded.identity, checkpoints=checkpoints, uploader=uploader, state=state,
                metrics=attempt.metrics, limits=attempt.limits, reserve=_reserve(before, state), stop=attempt.stop,
                scratch=attempt.scratch, clock=attempt.clock, world=inputs.world, reload=loaded.reload,
                judge=inputs.judge)
            result = METHODS[spec.method.type].train(run)
        if result.stopped_early and attempt.rank.is_main:
            checkpoints.take_over(run.resume_folder)
        uploader.drain()
    if result.stopped_early:
        state.note(result.stopped_early)
    reach("trained")
    return Training(result, list(packing.findings), checkpoints.not_resumed)


@contextmanager
def rehearsed_on_failure(attempt: Attempt, inputs: Inputs) -> Iterator[None]:
    """After an unexpected exception, rehearse the job on a small copy of the model, to learn whether it can ever work.

    Preflight rehearses before the run. A run without preflight would be retried on GPUs, and report nothing that helps.

    Raises:
        BadConfig: the rehearsal fails too, so the job's method cannot train the model.
    """
    try:
        yield
    except (TrainerError, OSError, MemoryError):
        raise
    except Exception as error:
        if attempt.rank.world_size == 1 and type(error).__name__ not in ("OutOfMemoryError", "AcceleratorError"):
            rehearse(attempt.config, inputs.base, inputs.files.folder, inputs.data, inputs.tokenizer, attempt.scratch)
        raise


def _reserve(before: Evaluation | None, state: RunState) -> Decimal:
    """The money that the steps after training cost: one evaluation like the first, and as long again to publish."""
    return cost_of(timedelta(seconds=2 * before.seconds), state.price) if before else Decimal(0)
