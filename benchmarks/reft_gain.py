"""What ReFT gains over supervised training alone, over several seeds; and how fast responses are sampled.

Both arms start from the same base and learn with the same kind of adapter. The SFT arm is trained on the data's own
chains for as many gradient steps as warm-up and PPO have together, at several learning rates, of which the best counts.

    python benchmarks/reft_gain.py --seeds 0 1 2 3
    python benchmarks/reft_gain.py --policy Full --seeds 0
    python benchmarks/reft_gain.py --speed
    python benchmarks/reft_gain.py --model SmolLM2.gguf --data svamp-train-text-cot.jsonl --seeds 1     # hours on a CPU
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import yaml
from finetune_api.rules import merge_patch
from quickstart_job import SAMPLES
from reft_jobs import SVAMP, result_of, run_to_manifest, supervised_only

sys.path.insert(0, str(SAMPLES))
from arithmetic import make_rows, train_model, write_rows

SFT_RATES = (0.0005, 0.001, 0.002)
FULL_RATE = 5e-4
"""Of PPO on all weights of the tiny model: far above the paper's 3e-7, which is for billions."""


def main() -> None:
    """Run every seed's arms and print a line for each seed, and the spread."""
    parser = argparse.ArgumentParser(description="ReFT against supervised training alone.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="seeds (default: 0 1 2 3)")
    parser.add_argument("--steps", type=int, help="PPO steps (default: those of deploy/samples/reft.yaml)")
    parser.add_argument("--policy", choices=("LoRA", "Full"), default="LoRA", help="what learns (default: %(default)s)")
    parser.add_argument("--grains", type=int, nargs="+", default=[1, 2, 3, 4],
                        help="operations a line in the data's chains (default: 1 2 3 4)")
    parser.add_argument("--modulus", type=int, default=7, help="what is reckoned modulo (default: 7)")
    parser.add_argument("--base-steps", type=int, default=2000, help="steps that make the base (default: %(default)s)")
    parser.add_argument("--sft-rates", type=float, nargs="+", default=SFT_RATES, help="learning rates of the SFT arm")
    parser.add_argument("--model", type=Path, help="a GGUF file or folder instead of the tiny model; needs --data")
    parser.add_argument("--data", type=Path, help="jsonl with question, answer_cot and answer_value, as mwp_ReFT's")
    parser.add_argument("--spec", type=json.loads, default={}, metavar="JSON", help="merged into every job's spec")
    parser.add_argument("--speed", action="store_true", help="only compare the sampler with transformers' generate")
    options = parser.parse_args()
    if options.speed:
        return _speed()
    found = []
    print(f"{'seed':<6}{'base':>8}{'SFT':>8}{'(rate)':>10}{'ReFT':>8}{'gain':>8}{'ReFT s':>8}{'SFT s':>7}", flush=True)
    for seed in options.seeds:
        with tempfile.TemporaryDirectory(prefix="reft-gain-") as folder:
            found.append(_seed(Path(folder), seed, options))
    for name, column in (("base", 0), ("SFT", 1), ("ReFT", 2)):
        values = [row[column] for row in found]
        spread = f", standard deviation {stdev(values):.3f}" if len(values) > 1 else ""
        print(f"{name}: {min(values):.3f} to {max(values):.3f}, mean {mean(values):.3f}{spread}")
    print(f"least gain of ReFT over SFT: {min(row[2] - row[1] for row in found):+.3f}")
    return None


def _seed(folder: Path, seed: int, options: argparse.Namespace) -> tuple[float, float, float]:
    job = _job(folder, seed, options)
    ppo, training = job["spec"]["method"]["reft"]["ppo"], job["spec"]["training"]
    began = time.monotonic()
    base, reft = _run(folder / "reft", job)
    reft_seconds = time.monotonic() - began
    steps = training["maxSteps"] + ppo["steps"] * 2 * ppo["rollouts"] // ppo["miniBatchSize"]
    scores, seconds = {}, 0.0
    for rate in options.sft_rates:
        began = time.monotonic()
        scores[rate] = _run(folder / f"sft-{rate}", supervised_only(job, steps, rate))[1]
        seconds = time.monotonic() - began
    best = max(scores, key=lambda rate: scores[rate])
    print(f"{seed:<6}{base:>8.3f}{scores[best]:>8.3f}{best:>10g}{reft:>8.3f}{reft - scores[best]:>+8.3f}"
          f"{reft_seconds:>8.0f}{seconds:>7.0f}", flush=True)
    return base, scores[best], reft


def _job(folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load((SAMPLES / "reft.yaml").read_text(encoding="utf-8"))
    spec: dict[str, Any] = {"training": {"seed": seed}, "evaluation": {"samples": 500}}
    if options.model:
        dataset, reward = SVAMP["text"]
        spec |= {"model": {"source": f"file://{options.model.resolve()}"},
                 "dataset": {"source": f"file://{options.data.resolve()}", "split": None, "evaluationSplit": None,
                             "evaluationFraction": 0.2, **dataset},
                 "method": {"quantization": "nf4", "reft": {
                     "reward": reward,
                     "ppo": {"learningRate": None, "valueLearningRate": None, "klCoefficient": None,
                             "maxNewTokens": 160}}}}
    else:
        rows = make_rows(3500, seed, options.modulus, options.grains)
        write_rows(folder / "data" / "train.jsonl", rows[:3000])
        write_rows(folder / "data" / "test.jsonl", rows[3000:])
        with contextlib.redirect_stderr(io.StringIO()):
            train_model(folder / "model", rows[:3000], steps=options.base_steps, seed=seed)
        spec |= {"model": {"source": f"file://{folder}/model"}, "dataset": {"source": f"file://{folder}/data/"}}
    if options.policy == "Full":
        full = {"policy": "Full", "lora": None, "ppo": {"learningRate": FULL_RATE, "valueLearningRate": None}}
        spec = dict(merge_patch(spec, {"method": {"reft": full}}))
    if options.steps:
        spec.setdefault("method", {}).setdefault("reft", {}).setdefault("ppo", {})["steps"] = options.steps
    return merge_patch(merge_patch(job, {"spec": spec}), {"spec": options.spec})


def _run(output: Path, job: dict[str, Any]) -> tuple[float, float]:
    """A job's held-out accuracy before and after."""
    scores = result_of(run_to_manifest(output, job))["evaluation"]
    return scores["before"]["answerAccuracy"], scores["after"]["answerAccuracy"]


def _speed() -> None:
    """Our sampler against `generate(do_sample=True)` on the same prompts: tokens up to each response's end a second."""
    import torch
    from finetune_trainer.data.batches.padding import left_padded
    from finetune_trainer.methods.reft.rollout import SamplingSettings, sample
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="reft-speed-") as folder, contextlib.redirect_stderr(io.StringIO()):
        rows = make_rows(1000, 0)
        train_model(Path(folder), rows, steps=300, seed=0)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [tuple(tokenizer(f"{row['question']}\n")["input_ids"]) for row in random.Random(0).sample(rows, 128)]
    ours, theirs = [], []
    for turn in range(7):
        began = time.perf_counter()
        drawn = sample(model, prompts, SamplingSettings((0,), 1, 64, 1.0), 128, torch.Generator().manual_seed(turn),
                       check=lambda: None)
        ours.append(drawn.tokens / (time.perf_counter() - began))
        ids, mask = left_padded(prompts, 1)
        torch.manual_seed(turn)
        began = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(input_ids=ids, attention_mask=mask, do_sample=True, max_new_tokens=64,
                                    eos_token_id=0, pad_token_id=1)
        seconds = time.perf_counter() - began
        written = [row.index(0) + 1 if 0 in row else len(row) for row in output[:, ids.shape[1]:].tolist()]
        theirs.append(sum(written) / seconds)
    # The first turn warms up.
    print(f"128 prompts, responses of {drawn.tokens / 128:.1f} tokens on average; medians of {len(ours) - 1} turns")
    print(f"ours                        {median(ours[1:]):>9,.0f} tokens/s")
    print(f"transformers, its defaults  {median(theirs[1:]):>9,.0f} tokens/s")
    print(f"ratio                       {median(ours[1:]) / median(theirs[1:]):>9.2f}")


if __name__ == "__main__":
    main()
