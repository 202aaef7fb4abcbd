"""ReFT against supervised training on a real model: SmolLM2-135M (or another) on SVAMP, programs and words.

Three arms of each kind of chains, from the same base, with the same adapter, judge and held-out rows: the warm-up
alone; ReFT, which goes on with PPO; and supervised training that goes on for as many optimizer steps.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Check
from benchmarks.gpu.reft_curves import curve, ppo_steps, write_page
from benchmarks.gpu.runner import SECONDS
from benchmarks.gpu.settings import Settings
from benchmarks.reft_jobs import SVAMP, result_of, run_to_manifest, supervised_only

_SFT_RATE = 1e-3
_PPO_SHARE = 0.6
"""Of the time of one kind of chains, for the ReFT job until its training ends."""


@dataclass(frozen=True)
class _Sizes:
    """How long everything is.

    Attributes:
        warm_up: supervised steps of the warm-up, and rows of a step.
        held_out: rows for the accuracy.
        rollouts: responses of a PPO step, and of a mini-batch.
        more: what else the specs have.
    """

    warm_up: tuple[int, int]
    held_out: int
    rollouts: tuple[int, int]
    more: Mapping[str, Any]


_REAL = _Sizes((120, 32), 400, (128, 64), {})
"""PPO as a job has it that writes no settings."""

_DRY = _Sizes((3, 4), 6, (8, 4), {"method": {"reft": {"ppo": {"maxNewTokens": 12}}},
                                  "evaluation": {"maxNewTokens": 12}})


def run(check: Check) -> None:
    """Run all arms of all kinds of chains, and draw PPO's curves."""
    settings = check.settings
    if not settings.dry and not (settings.model and settings.data):
        check.say(name="reft-real", note="needs --model and --data")
        return
    began, seconds = time.monotonic(), float(os.environ.get(SECONDS, "480"))
    drawn: dict[str, Sequence[Mapping[str, Any]]] = {}
    for number, chains in enumerate(settings.chains):
        left = seconds - (time.monotonic() - began)
        with check.attempt(f"{chains} chains"), tempfile.TemporaryDirectory(dir=settings.work) as folder:
            drawn[f"{chains} chains"] = _arms(check, chains, Path(folder), left / (len(settings.chains) - number))
        write_page(settings.out / "reft-curves.html", drawn)


def _arms(check: Check, chains: str, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """The arms of one kind of chains, ReFT first; ReFT's steps."""
    settings, sizes = check.settings, _DRY if check.settings.dry else _REAL
    deadline = time.monotonic() + seconds
    job = _job(settings, sizes, chains, folder)
    manifest, reft = _run(check, chains, "ReFT", folder, _within(job, seconds * _PPO_SHARE))
    steps = _metrics(manifest)
    name = f"reft-{chains}-metrics.jsonl"
    shutil.copy(next(manifest.parent.rglob("metrics.jsonl")), settings.out / name)
    updates = len(ppo_steps(steps)) * _updates_a_step(job)
    _say_arm(check, chains, "base model", reft["evaluation"]["before"]["answerAccuracy"], 0, 0.0)
    _say_arm(check, chains, "ReFT", _after(reft), sizes.warm_up[0] + updates, reft["seconds"])
    check.say(name=f"PPO on {chains} chains", chains=chains, file=name, curve=curve(steps))
    found = {"ReFT": _after(reft)}
    for arm, wanted in (("SFT", sizes.warm_up[0] + updates), ("warm-up", sizes.warm_up[0])):
        left = max(20.0, deadline - time.monotonic())
        supervised = _without_baseline(supervised_only(job, wanted, _SFT_RATE))
        _, result = _run(check, chains, arm, folder, _within(supervised, left * 0.8))
        found[arm] = _after(result)
        _say_arm(check, chains, arm, found[arm], wanted, result["seconds"])
    check.say(name=f"answer, {chains} chains", chains=chains, answer=answer(found, sizes.held_out, curve(steps)))
    return steps


def answer(accuracy: Mapping[str, float], questions: int, points: Sequence[Mapping[str, Any]]) -> str:
    """Whether ReFT gains, in words, with what moved during PPO.

    Args:
        accuracy: held-out accuracy of "warm-up", "SFT" and "ReFT".
        questions: held-out questions.
        points: the curve of PPO.
    """
    error = math.sqrt(sum(one * (1 - one) for one in (accuracy["ReFT"], accuracy["SFT"])) / questions)
    gain = accuracy["ReFT"] - accuracy["SFT"]
    words = "gains" if gain > 2 * error else "loses" if gain < -2 * error else "neither gains nor loses"
    text = (f"ReFT {words} against SFT of as many optimizer steps: {gain:+.3f} (standard error {error:.3f}), and "
            f"{accuracy['ReFT'] - accuracy['warm-up']:+.3f} against its warm-up.")
    if points:
        first, last = points[0], points[-1]
        moved = "; ".join(f"{name} {first[name]} to {last[name]}" for name in first
                          if name != "step" and None not in (first[name], last[name]))
        text += f" From the first to the last tenth of PPO: {moved}."
    return text


def _run(check: Check, chains: str, arm: str, folder: Path, job: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Run an arm; its manifest, and its result with the seconds that it took."""
    began = time.monotonic()
    manifest = run_to_manifest(folder / arm, job)
    print(f"{chains} chains, {arm}: {manifest}", flush=True)
    return manifest, {**result_of(manifest), "seconds": round(time.monotonic() - began, 1)}


def _say_arm(check: Check, chains: str, arm: str, accuracy: float, steps: int, seconds: float) -> None:
    check.say(chains=chains, reftArm=arm, accuracy=accuracy, optimizerSteps=steps, seconds=seconds)


def _after(result: Mapping[str, Any]) -> float:
    accuracy: float = result["evaluation"]["after"]["answerAccuracy"]
    return accuracy


def _metrics(manifest: Path) -> list[dict[str, Any]]:
    path = next(manifest.parent.rglob("metrics.jsonl"))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "step" in line]


def _updates_a_step(job: Mapping[str, Any]) -> int:
    """Optimizer steps of one PPO step; two passes over the roll-outs by default."""
    ppo = job["spec"]["method"]["reft"]["ppo"]
    return int(ppo.get("epochs", 2) * ppo["rollouts"] // ppo["miniBatchSize"])


def _within(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The job with an end of its training; what was trained until then is evaluated and published."""
    from finetune_api.rules import merge_patch

    return merge_patch(job, {"spec": {"budget": {"maxDuration": f"{max(10, int(seconds))}s"}}})


def _without_baseline(job: dict[str, Any]) -> dict[str, Any]:
    from finetune_api.rules import merge_patch

    return merge_patch(job, {"spec": {"evaluation": {"baseline": False}}})


def _job(settings: Settings, sizes: _Sizes, chains: str, folder: Path) -> dict[str, Any]:
    """The ReFT job of one kind of chains."""
    from finetune_api.rules import merge_patch

    model, data = (_made_up(folder, chains) if settings.dry else (settings.model, settings.data))
    dataset, reward = SVAMP[chains]
    rollouts, mini_batch = sizes.rollouts
    steps = 2 if settings.dry else max(1, settings.rollouts // len(settings.chains) // rollouts)
    (warm_up, batch) = sizes.warm_up
    job: dict[str, Any] = {
        "apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": f"reft-{chains}"},
        "spec": {
            "model": {"source": f"file://{model}"},
            "dataset": {"source": f"file://{data}/svamp-train-{chains}-cot.jsonl", "evaluationFraction": 0.2,
                        **dataset},
            "output": {"uri": f"file://{folder}/output"},
            "method": {"type": "ReFT", "reft": {"reward": reward, "ppo": {
                "steps": steps, "rollouts": rollouts, "miniBatchSize": mini_batch}}},
            "training": {"maxSteps": warm_up, "batchSize": batch, "learningRate": _SFT_RATE, "seed": 1},
            "evaluation": {"samples": sizes.held_out, "metrics": ["loss", "answerAccuracy"]},
        },
    }
    return merge_patch(job, {"spec": dict(sizes.more)})


def _made_up(folder: Path, chains: str) -> tuple[Path, Path]:
    """A tiny random model, and rows in SVAMP's form: what a dry run has."""
    from tests.models import save_tiny_model

    chance = random.Random(0)
    save_tiny_model(folder / "model", hidden=32)
    with (folder / f"svamp-train-{chains}-cot.jsonl").open("w", encoding="utf-8") as file:
        for number in range(40):
            a, b = chance.randrange(10), chance.randrange(10)
            chain = f"def solution():\n    return {a} + {b}" if chains == "program" else f"{a} + {b} = {a + b}"
            file.write(json.dumps({"item_id": f"made_up_{number}", "question": f"Case {number}: {a} and {b}?",
                                   "answer_cot": chain, "answer_value": f"{a + b}.0"}) + "\n")
    return folder / "model", folder
