"""One arm of `sft_throughput`: the rows, a trainer to run them through, and what it took.

The peers are written as their users write them; the only liberties are the same rows in the same order, and float32
base weights loaded by the project's loader, so that every arm starts from the same numbers in memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meters import MemoryPeak, StepLog
from sft_rows import Workload, in_step_order, make_rows, padding_of_layout, padding_to_longest

if TYPE_CHECKING:
    from finetune_trainer.data.rows import TokenRow

ARMS = {
    "ours": "ours",
    "ours-padded": "ours, packing off",
    "ours-masked": "ours, packed rows under a mask",
    "ours-one-pass": "ours, the step in one forward pass",
    "ours-all-positions": "ours, every position to the head",
    "ours-checkpointing": "ours, gradient checkpointing on",
    "trainer": "(a) Trainer + PEFT",
    "trainer-answers-only": "(a) with logits of answers only",
    "trainer-no-checkpointing": "(a) without checkpointing",
    "trainer-bf16": "(a) in bf16 autocast",
    "trl": "(b) TRL's defaults (bf16 autocast)",
    "trl-fp32": "(b) in float32",
}
QUANTIZATION = {"qlora": "nf4", "lora": "none"}
_RANK, _ALPHA, _LEARNING_RATE = 8, 32, 1e-4


@dataclass(frozen=True)
class _Arm:
    """What an arm trains with: the loaded base model, its tokenizer, the rows in their order, and a scratch folder."""

    name: str
    work: Workload
    model: Any
    tokenizer: Any
    rows: tuple[TokenRow, ...]
    log: StepLog
    scratch: Path


def run_arm(arm: str, work: Workload) -> dict[str, Any]:
    """Run one arm in this process.

    Returns:
        tokens and seconds of the measured steps, tokens per second, bytes resident with the model loaded and at the
        peak above that, the share of padding in its micro-batches, its losses, and a digest of the base weights.
    """
    from finetune_trainer.run.quiet import silence_libraries

    silence_libraries()
    # Everything is imported before the memory that counts as loaded is read, whoever needs it.
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch
    import trl  # noqa: F401
    from finetune_api.spec.method import Quantization
    from finetune_api.spec.training import Precision
    from finetune_trainer.hardware.device import choose_device
    from finetune_trainer.model.files.find import ModelFiles
    from finetune_trainer.model.loading.load import load_model, weights_digest
    from finetune_trainer.model.tokenizer import load_tokenizer

    device = choose_device(Precision.AUTO, wants_gpu=False)
    files = ModelFiles(work.model, "")
    tokenizer = load_tokenizer(files)
    tokenizer.padding_side = "right"
    # The project's loader also keeps bitsandbytes from repacking NF4 weights (support_avx512bf16_for_cpu = False).
    model = load_model(files, Quantization(QUANTIZATION[work.method]), device)
    rows = make_rows(work, min(model.config.get_text_config().vocab_size, len(tokenizer)))
    # Reads every weight, so that none of them is still on disk when memory is first measured.
    digest = weights_digest(model)
    log, memory = StepLog(), MemoryPeak()
    with tempfile.TemporaryDirectory(prefix="sft-throughput-") as scratch, memory.watched():
        train = _ours if arm.startswith("ours") else _trl if arm.startswith("trl") else _trainer
        padding = train(_Arm(arm, work, model, tokenizer, rows, log, Path(scratch)))
    tokens = sum(len(row) for row in in_step_order(rows, work)[work.batch:])
    seconds = log.ends[-1] - log.ends[0]
    return {
        "arm": arm, "tokens": tokens, "seconds": round(seconds, 3), "cpuSeconds": round(log.cpu[-1] - log.cpu[0], 3),
        "threads": torch.get_num_threads(), "tokensPerSecond": round(tokens / seconds, 2),
        "loadedBytes": memory.loaded, "peakBytes": memory.peak - memory.loaded, "padding": round(padding, 4),
        "losses": log.losses, "baseSha256": digest,
    }


def _ours(arm: _Arm) -> float:
    """The project's own path: a TrainingRun with a throw-away local output, as an attempt makes it."""
    from finetune_api.messages import Limits, Stage
    from finetune_api.messages.layout import METRICS
    from finetune_api.reading.loading import parse_job
    from finetune_api.resolve import resolve_defaults
    from finetune_api.values.money import Price
    from finetune_trainer.clock import SystemClock
    from finetune_trainer.data.batches.steps import Layout
    from finetune_trainer.data.rows import PreparedData
    from finetune_trainer.distributed.collectives import World
    from finetune_trainer.hardware.device import choose_device, make_deterministic
    from finetune_trainer.methods import METHODS
    from finetune_trainer.progress.limits import LimitsFile
    from finetune_trainer.progress.metrics_log import MetricsLog
    from finetune_trainer.progress.state import RunState
    from finetune_trainer.progress.stopping import StopFlag
    from finetune_trainer.storage import BackgroundUploader, open_storage
    from finetune_trainer.training import sft
    from finetune_trainer.training.checkpoints import CheckpointStore
    from finetune_trainer.training.complete_checkpoints import Identity
    from finetune_trainer.training.packing import choose_packing
    from finetune_trainer.training.training_run import TrainingRun

    spec = resolve_defaults(parse_job({
        "apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "throughput"},
        "spec": {
            "model": {"source": f"file://{arm.work.model}"},
            "dataset": {"source": "file:///made-up.jsonl", "prompt": "{{ prompt }}", "completion": "{{ answer }}"},
            "output": {"uri": f"file://{arm.scratch}/output"},
            "method": {"type": "LoRA", "quantization": QUANTIZATION[arm.work.method],
                       "lora": {"rank": _RANK, "alpha": _ALPHA}},
            "training": {"maxSteps": arm.work.steps + 1, "batchSize": arm.work.batch,
                         "maxLength": 8 * arm.work.mean_length,
                         "learningRate": _LEARNING_RATE, "scheduler": "constant", "warmup": 0, "seed": arm.work.seed,
                         "packing": arm.name != "ours-padded",
                         **({"microBatchSize": arm.work.batch} if arm.name == "ours-one-pass" else {}),
                         "gradientCheckpointing": "enabled" if arm.name == "ours-checkpointing" else "auto"},
        },
    }).spec)
    if arm.name == "ours-all-positions":
        sft.AnswersOnly = lambda causal_model: None  # type: ignore[assignment,misc]
    device, clock = choose_device(spec.training.precision, wants_gpu=False), SystemClock()
    make_deterministic(device)
    metrics = MetricsLog(arm.scratch / METRICS, clock)
    state = RunState(clock, Price(Decimal(0), "USD"), observers=(arm.log, metrics))
    state.enter(Stage.TRAINING)
    packing = choose_packing(spec, arm.model, arm.rows, World(), print)
    by_rows = packing.by_rows and arm.name != "ours-masked"
    storage = open_storage(spec.output.uri, spec.output.s3)
    with BackgroundUploader() as uploader:
        trained = METHODS[spec.method.type].train(TrainingRun(
            spec=packing.spec, by_rows=by_rows, model=arm.model, tokenizer=arm.tokenizer,
            data=PreparedData(train=arm.rows, train_answers=(), held_out=(), findings=(), counts={}), device=device,
            identity=Identity("0" * 64, "0" * 64, "0" * 64, {}),
            checkpoints=CheckpointStore(storage, "throughput", 1, uploader, state.note), uploader=uploader, state=state,
            metrics=metrics, limits=LimitsFile(None, Limits()), reserve=Decimal(0), stop=StopFlag(),
            scratch=arm.scratch, clock=clock,
        ))
        uploader.drain()
    layout = Layout(trained.micro_batch_size, packing.spec.training.packing,
                    arm.model.config.get_text_config().hidden_size, one_line=by_rows)
    return padding_of_layout(arm.rows, arm.work, layout)


def _columns(rows: Sequence[TokenRow], work: Workload) -> dict[str, list[list[int]]]:
    ordered = in_step_order(rows, work)
    return {
        "input_ids": [list(row.prompt + row.answer) for row in ordered],
        "attention_mask": [[1] * len(row) for row in ordered],
        "labels": [[-100] * len(row.prompt) + list(row.answer) for row in ordered],
    }


def _common_arguments(work: Workload, scratch: Path) -> dict[str, Any]:
    """What both peers are told: the batch (which is also both libraries' default of 8 rows), and to be quiet."""
    return {
        "output_dir": str(scratch), "max_steps": work.steps + 1, "per_device_train_batch_size": work.batch,
        "learning_rate": _LEARNING_RATE, "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential",
        "use_cpu": True, "seed": work.seed, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "disable_tqdm": True, "dataloader_pin_memory": False,
    }


def _lora_config(model: Any) -> Any:
    from finetune_trainer.model.structure.targets import target_modules
    from peft import LoraConfig

    return LoraConfig(r=_RANK, lora_alpha=_ALPHA, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
                      target_modules=target_modules(model, None, "model"))


def _callback(log: StepLog) -> Any:
    from transformers import TrainerCallback

    class EndOfStep(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            log.step_ended()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                log.losses.append(logs["loss"])

    return EndOfStep()


def _trainer(arm: _Arm) -> float:
    """(a): transformers' Trainer and PEFT as scripts of 2024 had them.

    One batch a step, padded to its longest row by DataCollatorForSeq2Seq with -100 as label padding; the model
    computes the loss from the logits of every position. For nf4 `prepare_model_for_kbit_training` switches gradient
    checkpointing on; for LoRA the scripts did so by hand, with the input gradients that it needs.
    """
    from datasets import Dataset
    from finetune_trainer.training.answers_only import AnswersOnly
    from peft import get_peft_model, prepare_model_for_kbit_training
    from torch.nn.functional import cross_entropy
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    model = arm.model
    checkpointing = arm.name != "trainer-no-checkpointing"
    if arm.work.method == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    elif checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model = get_peft_model(model, _lora_config(model))

    class AnswersTrainer(Trainer):
        narrow = AnswersOnly(model.get_base_model()) if arm.name == "trainer-answers-only" else None

        def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False,
                         num_items_in_batch: Any = None) -> Any:
            if self.narrow is None:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            with self.narrow.narrowed(inputs) as narrowed:
                wanted = narrowed.pop("shift_labels")
                logits = model(**narrowed).logits
            return cross_entropy(logits[0].float(), wanted[0], reduction="sum") / num_items_in_batch

    trainer = AnswersTrainer(
        model=model,
        args=TrainingArguments(**_common_arguments(arm.work, arm.scratch), bf16=arm.name == "trainer-bf16"),
        train_dataset=Dataset.from_dict(_columns(arm.rows, arm.work)),
        data_collator=DataCollatorForSeq2Seq(arm.tokenizer, label_pad_token_id=-100),
        callbacks=[_callback(arm.log)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return padding_to_longest(arm.rows, arm.work)


def _trl(arm: _Arm) -> float:
    """(b): TRL's SFTTrainer at its defaults: bf16 autocast, gradient checkpointing, padding, its loss without the full
    logits, maxLength 1024 (no row is that long). Only `trl-fp32` changes one of them.
    """
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    precision = {"bf16": False} if arm.name == "trl-fp32" else {}
    trainer = SFTTrainer(
        model=arm.model,
        args=SFTConfig(**_common_arguments(arm.work, arm.scratch), **precision,
                       dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=Dataset.from_dict(_columns(arm.rows, arm.work)),
        processing_class=arm.tokenizer,
        peft_config=_lora_config(arm.model),
        callbacks=[_callback(arm.log)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return padding_to_longest(arm.rows, arm.work)
