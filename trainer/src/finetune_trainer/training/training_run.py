"""What a method trains with."""

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
from finetune_trainer.progress.limits import LimitsFile
from finetune_trainer.progress.metrics_log import MetricsLog
from finetune_trainer.progress.state import RunState
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.rewards.rewards import Judge
from finetune_trainer.storage import BackgroundUploader
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.complete_checkpoints import Identity


@dataclass(frozen=True)
class TrainingRun:
    """Everything that a method trains with.

    Attributes:
        spec: the job's spec with its defaults resolved.
        model: the frozen base model.
        tokenizer: the tokenizer of the model.
        data: the prepared rows.
        device: the device that the model is on.
        identity: the digests that a checkpoint must have.
        checkpoints: the checkpoints of the job.
        uploader: uploads the checkpoints in the background.
        state: receives the progress.
        metrics: the metrics log; each checkpoint holds a copy.
        limits: the budget and the deadline.
        reserve: the money that evaluation and upload will cost after training.
        stop: whether the run was asked to stop.
        scratch: a folder of this process.
        clock: the time.
        world: the processes that train together.
        reload: loads the base model once more; for methods that shard it.
        judge: scores responses, if the method has a reward.
        by_rows: whether packed rows are kept apart by attention by rows; otherwise a mask does it.
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
    by_rows: bool = False

    @property
    def resume_folder(self) -> Path:
        """The folder with the files of the checkpoint that the run resumes from, once they are fetched."""
        return self.scratch / "resume"
