"""A training run in this process, on a model that a test has loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

from finetune_api.messages import Limits, Stage
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.values.money import Price
from finetune_trainer.clock import SystemClock
from finetune_trainer.data.rows import PreparedData
from finetune_trainer.hardware.device import Device
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.tokenizer import load_tokenizer
from finetune_trainer.progress.limits import LimitsFile
from finetune_trainer.progress.metrics_log import MetricsLog
from finetune_trainer.progress.state import RunState
from finetune_trainer.progress.stopping import StopFlag
from finetune_trainer.storage import BackgroundUploader, open_storage
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.complete_checkpoints import Identity
from finetune_trainer.training.training_run import TrainingRun
from transformers import PreTrainedModel


@contextmanager
def training_run(spec: FineTuneJobSpec, model: PreTrainedModel, data: PreparedData, device: Device, folder: Path,
                 name: str | None = None, by_rows: bool = False) -> Iterator[TrainingRun]:
    """A run on a model that is loaded.

    Args:
        spec: the job's spec with its defaults resolved.
        model: the base model.
        data: the rows.
        device: the device of the model.
        folder: has the tokenizer, in `model`.
        name: the job's name: a run of the same name resumes. Left out, the run starts anew.
        by_rows: whether attention keeps the rows of a line apart without a mask.
    """
    clock = SystemClock()
    state = RunState(clock, Price(Decimal(0), "USD"))
    state.enter(Stage.TRAINING)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, BackgroundUploader() as uploader:
        yield TrainingRun(
            spec=spec, model=model, tokenizer=load_tokenizer(ModelFiles(folder / "model", "")), data=data,
            device=device, by_rows=by_rows, identity=Identity("0" * 64, "0" * 64, "0" * 64, {}),
            checkpoints=CheckpointStore(open_storage(spec.output.uri, None), name or Path(scratch).name, 1, uploader,
                                        state.note),
            uploader=uploader, state=state, metrics=MetricsLog(Path(scratch) / "metrics.jsonl", clock),
            limits=LimitsFile(None, Limits()), reserve=Decimal(0), stop=StopFlag(), scratch=Path(scratch), clock=clock)
