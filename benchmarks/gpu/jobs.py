"""Every method as a whole job on a tiny model, as `finetune run` runs it: load, train, evaluate, merge, publish."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Check

_AT_ONCE = 6
_DRY = ("QLoRA", "QDoRA, merged", "ReFT LoRA")
"""Jobs of a dry run; the tests run all of them anyway."""

QLORA = {"type": "LoRA", "lora": {"rank": 4, "alpha": 8}, "quantization": "nf4"}
QDORA = {"type": "DoRA", "lora": None, "dora": {"rank": 4, "alpha": 8}, "quantization": "nf4"}


@dataclass(frozen=True)
class Job:
    """A whole tiny job.

    Attributes:
        name: its name in the report.
        sections: what it changes in the spec.
        reft: whether it is the sample of ReFT, with its arithmetic.
        hidden: the model's width.
    """

    name: str
    sections: Mapping[str, Any] = field(default_factory=dict)
    reft: bool = False
    hidden: int = 128


def all_jobs() -> list[Job]:
    """Every method of the tests' tables, and what only a GPU does."""
    from tests.trainer.runs import METHODS, MORE_METHODS, NO_LORA

    merged = {"exports": ["adapter", "merged"]}
    return [
        *(Job(name, {"method": method}) for name, method in {**METHODS, **MORE_METHODS}.items()),
        Job("QLoRA, merged, guided", {"method": QLORA, "output": merged,
                                      "evaluation": {"maxNewTokens": 24, "constrained": True}}),
        Job("QDoRA, merged", {"method": QDORA, "output": merged}),
        Job("LoRA, packing off, checkpointing", {"training": {"packing": False, "gradientCheckpointing": "enabled"}}),
        Job("LoRA, float32", {"training": {"precision": "float32"}}),
        Job("Full, checkpointing", {"method": {"type": "Full", **NO_LORA},
                                    "training": {"gradientCheckpointing": "enabled"}}),
        Job("ReFT LoRA", reft=True),
        Job("ReFT LoRA nf4", {"method": {"quantization": "nf4"}}, reft=True),
        Job("ReFT Full", {"method": {"reft": {"policy": "Full", "lora": None,
                                              "ppo": {"learningRate": 1e-4, "valueLearningRate": None}}}}, reft=True),
    ]


def run(check: Check) -> None:
    """Run the jobs, several at once: nothing is timed here."""
    dry = check.settings.dry
    jobs = [job for job in all_jobs() if not dry or job.name in _DRY]
    context = multiprocessing.get_context("fork" if dry else "spawn")
    with tempfile.TemporaryDirectory(prefix="gpu-check-jobs-") as folder, \
            context.Pool(1 if dry else _AT_ONCE) as pool:
        tasks = [(job, f"{folder}/{number}") for number, job in enumerate(jobs)]
        for finding in pool.imap_unordered(_in_this_process, tasks, chunksize=1):
            check.say(**finding)


def _in_this_process(task: tuple[Job, str]) -> dict[str, Any]:
    os.environ["OMP_NUM_THREADS"] = "2"
    try:
        return run_job_here(task[0], Path(task[1]))
    finally:
        # A job takes SIGTERM for a request to stop, and would keep the pool from ending.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_job_here(job: Job, folder: Path) -> dict[str, Any]:
    """Run a job in this process: its exit code, its losses before and after, and what it said if it failed."""
    from finetune_api import parse_job
    from finetune_trainer.run.local import LocalOptions, run_job
    from rich.console import Console

    folder.mkdir(parents=True)
    said, began = io.StringIO(), time.monotonic()
    try:
        document = _reft_job(job, folder) if job.reft else _tiny_job(job, folder)
        code: Any = int(run_job(parse_job(document), Console(file=said, width=160), LocalOptions(debug=True)))
    except (Exception, SystemExit) as error:
        code = f"{type(error).__name__}: {error}"[:500]
        said.write(traceback.format_exc())
    return {"job": job.name, "code": code, "seconds": round(time.monotonic() - began, 1), "loss": _losses(folder),
            "said": "" if code == 0 else said.getvalue()[-2500:]}


def _tiny_job(job: Job, folder: Path) -> dict[str, Any]:
    from tests.models import save_tiny_model, tiny_job, write_rows

    save_tiny_model(folder / "model", hidden=job.hidden, biases=job.name == "BitFit")
    write_rows(folder / "rows.jsonl", 40)
    document = tiny_job(folder, **job.sections)
    document["metadata"]["name"] = "gpu-check"
    return document


def _reft_job(job: Job, folder: Path) -> dict[str, Any]:
    """The sample of ReFT with few steps."""
    import yaml
    from finetune_api.rules import merge_patch

    from benchmarks.gpu.arithmetic_sample import SAMPLES, arithmetic

    sample = arithmetic()
    rows = sample.make_rows(200, 0)
    sample.write_rows(folder / "data" / "train.jsonl", rows[:160])
    sample.write_rows(folder / "data" / "test.jsonl", rows[160:])
    sample.train_model(folder / "model", rows[:160], steps=20, seed=0)
    document = merge_patch(yaml.safe_load((SAMPLES / "reft.yaml").read_text(encoding="utf-8")), {"spec": {
        "model": {"source": f"file://{folder}/model"}, "dataset": {"source": f"file://{folder}/data/"},
        "output": {"uri": f"file://{folder}/out"}, "training": {"maxSteps": 3, "batchSize": 16},
        "evaluation": {"samples": 20},
        "method": {"reft": {"ppo": {"steps": 2, "rollouts": 32, "miniBatchSize": 16}}}}})
    return merge_patch(document, {"spec": dict(job.sections)})


def _losses(folder: Path) -> list[float | None]:
    """Losses on held-out rows before and after; None where there is none."""
    manifest = next((folder / "out").glob("default/*/*/manifest.json"), None)
    scores = json.loads(manifest.read_text(encoding="utf-8"))["result"].get("evaluation") or {} if manifest else {}
    return [(scores.get(when) or {}).get("loss") for when in ("before", "after")]
