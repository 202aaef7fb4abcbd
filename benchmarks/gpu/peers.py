"""The peers, as their users write them: transformers' Trainer with PEFT as in 2024, and TRL at its defaults.

The liberties are the same rows in the same steps, and base weights loaded by the project's loader.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.arms import EPOCH_STEPS, SECONDS
from benchmarks.gpu.findings import Check, release_memory
from benchmarks.gpu.meters import MicroBatches, Steps, allocated_bytes, reserved_memory, reset_peak
from benchmarks.gpu.our_training import Base, device_of, load_base
from benchmarks.gpu.rows import columns, in_step_order, random_rows
from benchmarks.gpu.settings import ALPHA, LEARNING_RATE, MIB, RANK, SEED, Settings

PEERS = {
    # name: (title, rows a pass that its own defaults or its users' habits want, largest first)
    "trainer": ("Trainer + PEFT as in 2024", (2, 1)),
    "trl": ("TRL's SFTTrainer at its defaults", (8, 4, 2, 1)),
}


def common_arguments(settings: Settings, scratch: Path, micro_batch: int) -> dict[str, Any]:
    """What every peer is told: the batch, the learning rate, and to be quiet."""
    return {
        "output_dir": str(scratch), "max_steps": settings.steps, "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": settings.batch // micro_batch, "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant", "train_sampling_strategy": "sequential", "seed": SEED, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        **({"use_cpu": True, "bf16": False} if settings.dry else {"bf16": True}),
    }


def step_callback(steps: Steps, lengths: list[int], batch: int) -> Any:
    """A callback that notes each logged step, and stops when the time is up.

    Args:
        steps: where steps are noted.
        lengths: tokens of the rows in their order.
        batch: rows of a step.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                step = state.global_step
                if steps.step_done(logs["loss"], sum(lengths[(step - 1) * batch:step * batch])):
                    control.should_training_stop = True

    return Watch()


def count_micro_batches(trainer: Any) -> MicroBatches:
    """Note every micro-batch that a trainer's collator makes."""
    micro_batches, collate = MicroBatches(), trainer.data_collator

    def counting(features: Any) -> Any:
        made = collate(features)
        micro_batches.seen(made["input_ids"], made["labels"], [len(one["input_ids"]) for one in features])
        return made

    trainer.data_collator = counting
    return micro_batches


def lora_config(model: Any) -> Any:
    """PEFT's configuration of the adapter that every arm trains."""
    from finetune_trainer.model.structure.targets import target_modules
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
                      target_modules=target_modules(model, None, "model"))


def measure_peers(check: Check) -> None:
    """Every peer, with as many rows a pass as fit into the memory."""
    import torch

    for name, (_, sizes) in PEERS.items():
        with check.attempt(name):
            for micro_batch in (size for size in sizes if size <= check.settings.batch):
                try:
                    check.say(**_measure(check.settings, name, micro_batch))
                    break
                except torch.OutOfMemoryError as error:
                    error.__traceback__ = None
                    check.say(name=name, note=f"{micro_batch} rows a pass: out of memory at "
                                              f"{check.settings.cap_gib:g} GiB")
                finally:
                    release_memory()


def _measure(settings: Settings, name: str, micro_batch: int) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback

    torch.use_deterministic_algorithms(False)
    base = load_base(settings.large_nf4, "nf4", device_of(settings))
    rows = in_step_order(random_rows(settings, settings.batch * EPOCH_STEPS), settings, settings.steps)
    steps = Steps(SECONDS)
    reset_peak()
    loaded = allocated_bytes()
    with tempfile.TemporaryDirectory(dir=settings.work) as scratch:
        data = {"train_dataset": Dataset.from_dict(columns(rows)),
                "callbacks": [step_callback(steps, [len(row) for row in rows], settings.batch)]}
        arguments = common_arguments(settings, Path(scratch), micro_batch)
        trainer = (_trainer_of_2024 if name == "trainer" else _trl)(settings, base, arguments, data)
        trainer.remove_callback(PrinterCallback)
        micro_batches = count_micro_batches(trainer)
        steps.began = time.monotonic()
        trainer.train()
    return {"arm": name, "title": PEERS[name][0], "microBatch": micro_batch, "checkpointing": True,
            "loadedMiB": round(loaded / MIB), **steps.summary(), **micro_batches.summary(), **reserved_memory()}


def _trainer_of_2024(settings: Settings, base: Base, arguments: dict[str, Any], data: dict[str, Any]) -> Any:
    """A QLoRA script as people wrote it: padding, logits of every position, checkpointing, a paged 8-bit optimizer."""
    from peft import get_peft_model, prepare_model_for_kbit_training
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model = get_peft_model(prepare_model_for_kbit_training(base.model), lora_config(base.model))
    optimizer = {} if settings.dry else {"optim": "paged_adamw_8bit"}
    return Trainer(model=model, data_collator=DataCollatorForSeq2Seq(base.tokenizer, label_pad_token_id=-100),
                   args=TrainingArguments(**arguments, gradient_checkpointing=True, **optimizer), **data)


def _trl(settings: Settings, base: Base, arguments: dict[str, Any], data: dict[str, Any]) -> Any:
    """TRL at its own defaults; its max_length is raised to ours, else it would cut rows that the others train on."""
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(model=base.model, processing_class=base.tokenizer, peft_config=lora_config(base.model),
                      args=SFTConfig(**arguments, max_length=settings.max_length,
                                     dataset_kwargs={"skip_prepare_dataset": True}), **data)
