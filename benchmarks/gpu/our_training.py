"""Training as users get it: the project's loader, and a `TrainingRun` through `METHODS`, as an attempt makes it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.meters import MicroBatches, Steps, patched
from benchmarks.gpu.settings import ALPHA, LEARNING_RATE, RANK, SEED, Settings

if TYPE_CHECKING:
    from finetune_api.spec.job import FineTuneJobSpec
    from finetune_trainer.data.rows import TokenRow
    from finetune_trainer.hardware.device import Device
    from finetune_trainer.training.result import TrainingResult


@dataclass
class Base:
    """A loaded base model.

    Attributes:
        model: the frozen model.
        tokenizer: its tokenizer.
        folder: where it was loaded from.
        device: what it was loaded for.
    """

    model: Any
    tokenizer: Any
    folder: Path
    device: Device


@dataclass
class Trained:
    """What came of a run.

    Attributes:
        result: what the method returned; None where the run was stopped.
        kernels: which kernels the model had: `torch`, or Liger's with their version.
        trainers: the trainers that were made: one, and one more for each time that memory ran out.
        micro_batches: what the micro-batches were like.
    """

    result: TrainingResult | None
    kernels: str = "torch"
    trainers: list[Any] = field(default_factory=list)
    micro_batches: MicroBatches = field(default_factory=MicroBatches)

    @property
    def trainer(self) -> Any:
        """The last trainer, which trained to the end."""
        return self.trainers[-1]

    @property
    def checkpointing(self) -> Any:
        """How many layers the last trainer checkpointed, from the first on."""
        return self.trainer.checkpointed_layers

    @property
    def optimizer(self) -> Any:
        """The last trainer's optimizer, without accelerate's wrapper."""
        return getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)


def device_of(settings: Settings, on_cpu: bool = False) -> Device:
    """The device as the trainer chooses it; the CPU in a dry run."""
    from finetune_api.spec.training import Precision
    from finetune_trainer.hardware.device import choose_device

    return choose_device(Precision.AUTO, wants_gpu=False if settings.dry or on_cpu else None)


def load_base(folder: Path, quantization: str, device: Device) -> Base:
    """The base model by the project's own loader."""
    from finetune_api.spec.method import Quantization
    from finetune_trainer.model.files.find import ModelFiles
    from finetune_trainer.model.loading.load import load_model
    from finetune_trainer.model.tokenizer import load_tokenizer

    files = ModelFiles(folder, "")
    tokenizer = load_tokenizer(files)
    tokenizer.padding_side = "right"
    return Base(load_model(files, Quantization(quantization), device), tokenizer, folder, device)


def method(kind: str = "LoRA", quantization: str = "nf4", **adapter: Any) -> dict[str, Any]:
    """`spec.method` of LoRA or DoRA, with the check's rank and other settings of the adapter."""
    return {"type": kind, "quantization": quantization, kind.lower(): {"rank": RANK, "alpha": ALPHA, **adapter}}


def resolved_spec(settings: Settings, wanted: Mapping[str, Any], training: Mapping[str, Any], model: Path
                  ) -> FineTuneJobSpec:
    """The spec of a job with its defaults resolved.

    Args:
        settings: the sizes.
        wanted: `spec.method`.
        training: what else `spec.training` has.
        model: the folder of the base model.
    """
    from finetune_api.reading.loading import parse_job
    from finetune_api.resolve import resolve_defaults

    return resolve_defaults(parse_job({
        "apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "gpu-check"},
        "spec": {
            "model": {"source": f"file://{model}"},
            "dataset": {"source": "file:///made-up.jsonl", "prompt": "{{ prompt }}", "completion": "{{ answer }}"},
            "output": {"uri": "file:///nowhere"}, "method": dict(wanted),
            "training": {"batchSize": settings.batch, "maxLength": settings.max_length, "learningRate": LEARNING_RATE,
                         "scheduler": "constant", "warmup": 0, "seed": SEED, **training},
        },
    }).spec)


def train(spec: FineTuneJobSpec, base: Base, rows: tuple[TokenRow, ...], steps: Steps, scratch: Path,
          output: Path | None = None) -> Trained:
    """Train with a job's method in this process.

    Args:
        spec: the resolved spec.
        base: the base model.
        rows: the training rows.
        steps: notes the steps, and stops the run.
        scratch: a folder for what the run writes.
        output: the job's output, for a run that resumes from it; below `scratch` by default.
    """
    from finetune_api.messages import Limits, Stage
    from finetune_api.messages.layout import METRICS
    from finetune_api.values.money import Price
    from finetune_api.values.uris import Uri
    from finetune_trainer.clock import SystemClock
    from finetune_trainer.data.rows import PreparedData
    from finetune_trainer.distributed.collectives import World
    from finetune_trainer.engines.kernels import use_kernels
    from finetune_trainer.errors import StopRequested
    from finetune_trainer.hardware.device import make_deterministic
    from finetune_trainer.methods import METHODS
    from finetune_trainer.progress.limits import LimitsFile
    from finetune_trainer.progress.metrics_log import MetricsLog
    from finetune_trainer.progress.state import RunState
    from finetune_trainer.progress.stopping import StopFlag
    from finetune_trainer.storage import BackgroundUploader, open_storage
    from finetune_trainer.training import loader, sft
    from finetune_trainer.training.checkpoints import CheckpointStore
    from finetune_trainer.training.complete_checkpoints import Identity
    from finetune_trainer.training.packing import choose_packing
    from finetune_trainer.training.training_run import TrainingRun

    trained, clock = Trained(None), SystemClock()
    collate = loader.collate

    def counting(lines: Any, all_rows: Any, *rest: Any) -> Any:
        made = collate(lines, all_rows, *rest)
        trained.micro_batches.seen(made["input_ids"], made["labels"],
                                   [len(all_rows[index]) for line in lines for index in line])
        return made

    class Recorded(sft.StepTrainer):
        def __init__(self, *arguments: Any, **words: Any) -> None:
            trained.trainers.append(self)
            super().__init__(*arguments, **words)

    make_deterministic(base.device)
    scratch.mkdir(parents=True, exist_ok=True)
    metrics = MetricsLog(scratch / METRICS, clock)
    state = RunState(clock, Price(Decimal(0), "USD"), observers=(steps, metrics))
    state.enter(Stage.TRAINING)
    steps.stop = StopFlag()
    steps.began = time.monotonic()
    trained.kernels = use_kernels(base.model, spec, base.device, state.note)
    with base.device.autocast():
        packing = choose_packing(spec, base.model, rows, World(), state.note)
    storage = open_storage(Uri("file", "", str(output or scratch / "output")), None)
    with patched(loader, "collate", counting), patched(sft, "StepTrainer", Recorded), BackgroundUploader() as uploader:
        with contextlib.suppress(StopRequested):
            trained.result = METHODS[spec.method.type].train(TrainingRun(
                spec=packing.spec, by_rows=packing.by_rows, model=base.model, tokenizer=base.tokenizer,
                data=PreparedData(train=rows, train_answers=(), held_out=(), findings=(), counts={}),
                device=base.device, identity=Identity("0" * 64, "0" * 64, "0" * 64, {}),
                checkpoints=CheckpointStore(storage, "gpu-check", 1, uploader, state.note), uploader=uploader,
                state=state, metrics=metrics, limits=LimitsFile(None, Limits()), reserve=Decimal(0), stop=steps.stop,
                scratch=scratch, clock=clock))
        uploader.drain()
    return trained
