"""What a method gets to train with, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from finetune_api.spec.job import FineTuneJobSpec
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.clock import Clock
from finetune_trainer.data.rows import PreparedData
from finetune_trainer.distributed.collectives import World
from finetune_trainer.hardware.device import Device
from finetune_trainer.methods.reft.state import RolloutExample
from finetune_trainer.progress.limits import LimitsFile
from finetune_trainer.progress.metrics_log import MetricsLog
from finetune_trainer.progress.state import RunState
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.rewards.rewards import Judge
from finetune_trainer.storage import BackgroundUploader
from finetune_trainer.trained_model import Tuned
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.complete import Identity


@dataclass(frozen=True)
class TrainingRun:
    """Everything that a method needs.

    Attributes:
        spec: the job's spec with its defaults resolved.
        model: the frozen base model.
        tokenizer: its tokenizer.
        data: the prepared rows.
        device: what it runs on.
        identity: what a checkpoint has to fit.
        checkpoints: the job's checkpoints.
        uploader: uploads them in the background.
        state: where to report.
        metrics: the log of steps, kept in checkpoints.
        limits: what the run may cost.
        reserve: money kept for evaluation and upload.
        stop: whether somebody asked to stop.
        scratch: a folder of this process.
        clock: the time.
        world: the processes that train together.
        reload: loads the base model once more; for methods that divide it among several processes.
        judge: judges responses, where the method has a reward.
    """

    spec: FineTuneJobSpec
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    data: PreparedData
    device: Device
    identity: Identity
    checkpoints: CheckpointStore
    uploader: BackgroundUploader
    state: RunState
    metrics: MetricsLog
    limits: LimitsFile
    reserve: Decimal
    stop: StopFlag
    scratch: Path
    clock: Clock
    world: World = field(default_factory=World)
    reload: Callable[[], PreTrainedModel] | None = None
    judge: Judge | None = None


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        tuned: the model, and what was trained in it.
        step: optimizer steps done.
        total_steps: steps that were planned.
        resumed_from_step: the checkpoint that it went on from.
        micro_batch_size: rows per forward pass at the end.
        trainable_parameters: how many numbers were trained.
        stopped_early: why it ended before the last step, or None.
        remark: what else has to be said of its result, or None.
        rollouts: sampled responses to show.
    """

    tuned: Tuned
    step: int
    total_steps: int
    resumed_from_step: int
    micro_batch_size: int
    trainable_parameters: int
    stopped_early: str | None
    remark: str | None = None
    rollouts: tuple[RolloutExample, ...] = ()
