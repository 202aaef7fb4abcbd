"""The memory estimate against what torch's CPU allocator really hands out, on random models of several shapes.

    python benchmarks/memory_estimate.py
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

GOAL = 0.10


@dataclass(frozen=True)
class Case:
    """One configuration: a random Llama's shape, and how it is trained."""

    name: str
    hidden: int = 512
    intermediate: int = 1536
    layers: int = 6
    heads: int = 8
    key_value_heads: int = 2
    vocabulary: int = 8192
    method: str = "LoRA"
    quantization: str = "none"
    checkpointed: int = 0
    rows: int = 4
    length: int = 128
    answer: int = 32
    targets: tuple[str, ...] = ()
    dropout: float = 0.0
    passes: int = 1
    rank: int = 8


CASES = (
    Case("LoRA"),
    Case("LoRA, checkpointing", checkpointed=6),
    Case("LoRA, 4 × 512 tokens", length=512),
    Case("LoRA, 1 × 1024 tokens", rows=1, length=1024),
    Case("LoRA, 4 × 512, checkpointing", length=512, checkpointed=6),
    Case("LoRA, 4 × 512, 2 of 6 layers ckpt.", length=512, checkpointed=2),
    Case("LoRA, answers 3/4, vocabulary 32k", answer=96, vocabulary=32_000),
    Case("LoRA on q and v", targets=("q_proj", "v_proj")),
    Case("LoRA, dropout", dropout=0.1),
    Case("LoRA, 12 layers, no groups", layers=12, key_value_heads=8),
    Case("QLoRA", quantization="nf4"),
    Case("QLoRA, checkpointing", quantization="nf4", checkpointed=6),
    Case("QLoRA, 4 × 512, checkpointing", quantization="nf4", length=512, checkpointed=6),
    Case("LoRA int8", quantization="int8"),
    Case("DoRA", method="DoRA"),
    Case("QDoRA, checkpointing", method="DoRA", quantization="nf4", checkpointed=6),
    Case("Full, two passes a step", method="Full", passes=2),
    Case("Full, two, 4 × 512, checkpointing", method="Full", length=512, checkpointed=6, passes=2),
    Case("Full, one pass a step", method="Full"),
    Case("Full, one, checkpointing", method="Full", checkpointed=6),
    Case("Full, one, 4 × 512, checkpointing", method="Full", length=512, checkpointed=6),
    Case("Full, one, 4 × 512, 3 of 6 ckpt.", method="Full", length=512, checkpointed=3),
    Case("Full, one, 4 × 512, ckpt., 16 layers", method="Full", length=512, checkpointed=16, layers=16,
         vocabulary=2048),
    Case("LoRA rank 256, checkpointing", rank=256, checkpointed=6),
    Case("Partial, last 2 layers", method="Partial"),
    Case("Partial, last 2, 4 × 512, checkpointing", method="Partial", length=512, checkpointed=6),
)


def measure(case: Case) -> tuple[int, int]:
    """Train two steps in this process: the estimate and the allocator's peak, in bytes."""
    import torch
    from finetune_api.estimate import ForwardPass, Machine, estimate_memory, read_architecture
    from finetune_api.messages import Limits, Stage
    from finetune_api.reading.loading import parse_job
    from finetune_api.resolve import resolve_defaults
    from finetune_api.spec.method import Quantization
    from finetune_api.values.money import Price
    from finetune_trainer.clock import SystemClock
    from finetune_trainer.data.rows import PreparedData, TokenRow
    from finetune_trainer.hardware.device import choose_device, make_deterministic
    from finetune_trainer.methods import METHODS
    from finetune_trainer.model.files.find import ModelFiles
    from finetune_trainer.model.loading.load import load_model
    from finetune_trainer.model.tokenizer import load_tokenizer
    from finetune_trainer.progress.limits import LimitsFile
    from finetune_trainer.progress.state import RunState
    from finetune_trainer.progress.stopping import StopFlag
    from finetune_trainer.storage import BackgroundUploader, open_storage
    from finetune_trainer.training import sft
    from finetune_trainer.training.checkpoints import CheckpointStore
    from finetune_trainer.training.complete_checkpoints import Identity
    from finetune_trainer.training.micro_batch import MicroBatch
    from finetune_trainer.training.training_run import TrainingRun

    with tempfile.TemporaryDirectory(prefix="memory-estimate-") as name, BackgroundUploader() as uploader:
        folder = Path(name)
        config = _save_model(case, folder / "model")
        block: dict[str, Any] = {"rank": case.rank, "alpha": 32, "dropout": case.dropout}
        if case.targets:
            block["targetModules"] = list(case.targets)
        block = {"Full": {}, "Partial": {"partial": {"lastLayers": 2}}}.get(case.method, {case.method.lower(): block})
        spec = resolve_defaults(parse_job({
            "apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "memory"},
            "spec": {
                "model": {"source": f"file://{folder}/model"},
                "dataset": {"source": "file:///made-up.jsonl", "prompt": "{{ prompt }}", "completion": "{{ answer }}"},
                "output": {"uri": f"file://{folder}/output"},
                "method": {"type": case.method, "quantization": case.quantization, **block},
                "training": {"maxSteps": 2, "batchSize": case.rows * case.passes, "microBatchSize": case.rows,
                             "maxLength": case.length, "packing": False},
            },
        }).spec)
        device, clock = choose_device(spec.training.precision, wants_gpu=False), SystemClock()
        make_deterministic(device)
        files = ModelFiles(folder / "model", "")
        model = load_model(files, Quantization(case.quantization), device)
        chance = random.Random(0)
        words = [chance.randrange(3, 250) for _ in range(case.length)]
        rows = (TokenRow(tuple(words[case.answer:]), tuple(words[:case.answer])),) * case.rows * case.passes
        state = RunState(clock, Price(Decimal(0), "USD"))
        state.enter(Stage.TRAINING)
        run = TrainingRun(
            spec=spec, model=model, tokenizer=load_tokenizer(files),
            data=PreparedData(train=rows, train_answers=(), held_out=(), findings=(), counts={}), device=device,
            identity=Identity("0" * 64, "0" * 64, "0" * 64, {}),
            checkpoints=CheckpointStore(open_storage(spec.output.uri, None), "memory", 1, uploader, state.note),
            uploader=uploader, state=state, metrics=_NoMetrics(folder), limits=LimitsFile(None, Limits()),  # type: ignore[arg-type]
            reserve=Decimal(0), stop=StopFlag(), scratch=folder, clock=clock,
        )
        sft.first_micro_batch = lambda run: MicroBatch(case.rows, case.checkpointed)  # type: ignore[assignment]
        loaded = _held_bytes(model)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            METHODS[spec.method.type].train(run)
            uploader.drain()
        peak = loaded + _allocated_peak(profile)
        forward_pass = ForwardPass(case.rows * case.length, case.length, case.rows * case.answer,
                                   alone=case.passes == 1)
        memory = estimate_memory(read_architecture(config), spec.method, forward_pass, case.checkpointed,
                                 Machine(False, 4))
    return memory.total, peak


class _NoMetrics:
    """No log of steps."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"


def _save_model(case: Case, folder: Path) -> dict[str, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.models import tiny_tokenizer

    config = LlamaConfig(
        vocab_size=case.vocabulary, hidden_size=case.hidden, intermediate_size=case.intermediate,
        num_hidden_layers=case.layers, num_attention_heads=case.heads, num_key_value_heads=case.key_value_heads,
        max_position_embeddings=4096, eos_token_id=0, bos_token_id=None, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return dict(config.to_dict())


def _held_bytes(model: Any) -> int:
    """Bytes of a loaded model: parameters, buffers, and what quantization keeps beside them."""
    storages = {}
    for tensor in (*model.parameters(), *model.buffers()):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        state = getattr(tensor, "quant_state", None)
        for extra in () if state is None else (state.absmax, state.code, *(
                (state.state2.absmax, state.state2.code) if state.nested else ())):
            storages[extra.untyped_storage().data_ptr()] = extra.untyped_storage().nbytes()
        for name in ("CB", "SCB"):
            extra = getattr(tensor, name, None)
            if extra is not None:
                storages[extra.untyped_storage().data_ptr()] = extra.untyped_storage().nbytes()
    return sum(storages.values())


def _allocated_peak(profile: Any) -> int:
    """The most that the CPU allocator had handed out since the profile began, in bytes."""
    live = peak = 0
    events = []
    todo = list(profile.profiler.kineto_results.experimental_event_tree())
    while todo:
        event = todo.pop()
        todo += event.children
        if str(event.tag).endswith("Allocation"):
            events.append((event.start_time_ns, event.typed[1].alloc_size))
    for _, size in sorted(events, key=lambda one: one[0]):
        live += size
        peak = max(peak, live)
    return peak


def main() -> None:
    """Measure every case, each in a process of its own, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WORDS", help="only cases whose name contains this")
    options = parser.parse_args()
    chosen = [case for case in CASES if not options.only or options.only in case.name]
    if not chosen:
        parser.error(f"no case has {options.only} in its name")
    # Every case is forked from a process that has imported torch and the rest already, and has computed nothing.
    from finetune_trainer.run.quiet import silence_libraries

    silence_libraries()
    import finetune_trainer.methods  # noqa: F401

    print(f"{'case':38} {'estimate MiB':>13} {'peak MiB':>9} {'ratio':>6}")
    ratios = []
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for case, (estimate, peak) in zip(chosen, pool.imap(measure, chosen, chunksize=1), strict=True):
            ratios.append(estimate / peak)
            print(f"{case.name:38} {estimate / 2**20:13.1f} {peak / 2**20:9.1f} {ratios[-1]:6.2f}", flush=True)
    worst = max(abs(ratio - 1) for ratio in ratios)
    print(f"furthest off: {worst:.0%} (goal {GOAL:.0%}): {'PASS' if worst <= GOAL else 'MISS'}")


if __name__ == "__main__":
    main()
