"""The benchmarks start, and one arm of the throughput benchmark runs on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def call(script, *arguments, flags=()):
    """Run a benchmark to its end in a process of its own, as a user does."""
    return subprocess.run([sys.executable, *flags, str(FOLDER / script), *map(str, arguments)], capture_output=True,
                          text=True, timeout=120)


@pytest.mark.parametrize("script", ["sft_throughput.py", "resume_cost.py", "quickstart_seeds.py",
                                    "methods_table.py", "reft_gain.py", "dora_overhead.py", "memory_estimate.py",
                                    "architectures.py", "step_model.py"])
def test_a_benchmark_explains_its_options(script):
    done = call(script, "--help", flags=("-W", "error"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {script}")


def test_every_benchmark_is_explained_in_the_readme():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    scripts = [path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")]
    assert "operator_load.py" in scripts
    assert [name for name in scripts if f"python benchmarks/{name}" not in text] == []


def test_the_page_on_performance_has_the_table_that_the_model_of_a_step_prints():
    done = call("step_model.py")
    assert done.returncode == 0, done.stderr
    page = FOLDER.parent / "docs" / "explanation" / "performance.md"
    assert done.stdout in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_arm_of_the_throughput_benchmark_tells_what_it_measured(tiny_model_folder):
    done = call("sft_throughput.py", "--arm", "ours", "--model", tiny_model_folder, "--methods", "lora", "--mixes",
                "wide", "--batch", 4, "--mean-length", 32, "--steps", 2)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["arm"] == "ours"
    assert 200 < result["tokens"] < 312, "two steps of four rows of about 32 tokens"
    assert result["tokensPerSecond"] == pytest.approx(result["tokens"] / result["seconds"], rel=0.02)
    assert 0 < result["peakBytes"] < 2**30 < 30 * result["loadedBytes"]
    assert 0 <= result["padding"] < 0.5
    assert len(result["losses"]) == 3
    assert all(4 < loss < 8 for loss in result["losses"]), "about ln 259, as a random model guesses"


@pytest.mark.slow
def test_the_overhead_of_dora_is_measured_on_any_model(tiny_model_folder):
    done = call("dora_overhead.py", "--model", tiny_model_folder, "--quantizations", "none", "--micro-batches", 2,
                "--tokens", 64, "--repeats", 2, "--no-memory")
    assert done.returncode == 0, done.stderr
    table = [line.rpartition("  ") for line in done.stdout.splitlines() if line.startswith(("LoRA", "DoRA"))]
    assert len(table) == 4
    assert all(0 < float(ratio) < 20 for _, _, ratio in table)


def test_an_arm_without_a_model_is_refused():
    done = call("sft_throughput.py", "--arm", "ours")
    assert done.returncode == 2
    assert "--arm needs --model" in done.stderr
