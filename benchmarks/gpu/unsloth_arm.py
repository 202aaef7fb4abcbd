"""Unsloth on the arms' rows, by its own notebook's calls; then our `engine: unsloth` as a whole tiny job.

A stage by itself: Unsloth changes transformers, PEFT and TRL when it is imported, and wants to be first.
"""

from __future__ import annotations

import os
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Check
from benchmarks.gpu.settings import ALPHA, RANK, SEED

ROWS_A_PASS = 2
"""As in Unsloth's notebooks."""

_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def run(check: Check) -> None:
    """Measure Unsloth, and run our engine."""
    if find_spec("unsloth") is None:
        check.say(name="unsloth", note="Unsloth is not installed here")
        return
    began = time.monotonic()
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(check.settings.work / "unsloth-compiled"))
    import unsloth  # First of all: it replaces parts of the others.

    check.say(name="import", seconds=round(time.monotonic() - began, 1), unsloth=unsloth.__version__)
    from benchmarks.gpu.meters import cap_memory, uncap_memory

    cap_memory(check.settings)
    with check.attempt("unsloth"):
        check.say(**_measure(check))
    uncap_memory(check.settings)
    for quantization in ("none", "nf4"):
        with check.attempt(f"engine: unsloth, {quantization}"):
            _our_engine(check, quantization)


def _measure(check: Check) -> dict[str, Any]:
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from benchmarks.gpu import meters, peers, rows
    from benchmarks.gpu.arms import EPOCH_STEPS

    settings = check.settings
    loading = time.monotonic()
    model, tokenizer = _load(check)
    loading = time.monotonic() - loading
    chosen = rows.in_step_order(rows.random_rows(settings, settings.batch * EPOCH_STEPS), settings, EPOCH_STEPS)
    steps = meters.Steps(25.0)
    meters.reset_peak()
    loaded = meters.allocated_bytes()
    with tempfile.TemporaryDirectory(dir=settings.work) as scratch:
        arguments = peers.common_arguments(settings, Path(scratch), ROWS_A_PASS) | {"max_steps": EPOCH_STEPS}
        trainer = SFTTrainer(
            model=model, processing_class=tokenizer, train_dataset=Dataset.from_dict(rows.columns(chosen)),
            args=SFTConfig(**arguments, **({} if settings.dry else {"optim": "adamw_8bit"}),
                           max_length=settings.max_length, dataset_kwargs={"skip_prepare_dataset": True}),
            callbacks=[peers.step_callback(steps, [len(row) for row in chosen], settings.batch)])
        trainer.remove_callback(PrinterCallback)
        micro_batches = peers.count_micro_batches(trainer)
        steps.began = time.monotonic()
        trainer.train()
    return {"arm": "unsloth", "title": "Unsloth as in its notebooks", "microBatch": ROWS_A_PASS,
            "checkpointing": "unsloth", "loadedMiB": round(loaded / 2**20), "loadingSeconds": round(loading, 1),
            **steps.summary(), **micro_batches.summary(), **meters.reserved_memory(),
            # The first two steps compile.
            "tokensPerSecond": steps.tokens_per_second(2) or steps.tokens_per_second()}


def _load(check: Check) -> tuple[Any, Any]:
    import torch
    from unsloth import FastLanguageModel

    settings = check.settings
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=str(settings.large_bf16 if settings.dry else settings.large_nf4),
        max_seq_length=settings.max_length, dtype=torch.float32 if settings.dry else torch.bfloat16,
        load_in_4bit=not settings.dry, use_exact_model_name=True, fix_tokenizer=False)
    return FastLanguageModel.get_peft_model(
        model, r=RANK, lora_alpha=ALPHA, lora_dropout=0, bias="none", target_modules=_TARGETS,
        use_gradient_checkpointing="unsloth", random_state=SEED, max_seq_length=settings.max_length), tokenizer


def _our_engine(check: Check, quantization: str) -> None:
    from benchmarks.gpu.jobs import Job, run_job_here

    with tempfile.TemporaryDirectory(dir=check.settings.work) as folder:
        check.say(**run_job_here(Job(f"engine: unsloth, {quantization}", {
            "engine": "unsloth", "method": {"type": "LoRA", "lora": {"rank": 8, "alpha": 16},
                                            "quantization": quantization}}, hidden=256), Path(folder) / "job"))
