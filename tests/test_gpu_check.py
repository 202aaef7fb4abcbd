"""The check on a GPU runs through on a CPU, and its report judges what was found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu.findings import append, forget, read
from benchmarks.gpu.goals import judge
from benchmarks.gpu.pack import find_wheel, pack
from benchmarks.gpu.reft_real import answer
from benchmarks.gpu.report import MAIN_ROWS, render
from benchmarks.gpu.settings import CHAINS, Settings
from benchmarks.gpu.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
REAL = Settings(False, Path("out"), Path("work"), 22.0)


def call(*arguments, seconds=120, **environment):
    """Run the check's command to its end in a process of its own, as `make gpu-check` does."""
    return subprocess.run([sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)], cwd=ROOT, timeout=seconds,
                          capture_output=True, text=True, env={**os.environ, **environment})


def arm(name, speed, peak, loaded=4000, stage="main"):
    return {"stage": stage, "arm": name, "title": name, "tokensPerSecond": speed, "peakMiB": peak, "loadedMiB": loaded,
            "microBatch": 2, "checkpointing": True, "padding": 0.3, "losses": [10.5, 10.4, 10.3]}


def estimate(ratio, plan=1.2):
    return {"stage": "estimate", "name": "a case", "measuredMiB": 9000, "planToMeasured": plan, "microBatch": 2,
            "estimateToMeasured": ratio, "checkpointing": True}


GOOD = [
    arm("ours", 2000, 9000), arm("trainer", 900, 15000), arm("trl", 1000, 14000), arm("unsloth", 1900, 9500),
    arm("dora", 1900, 9500, stage="dora"), estimate(1.03),
    {"stage": "jobs", "job": "QLoRA", "code": 0, "seconds": 5, "loss": [5.5, 4.9]},
    {"stage": "correctness", "name": "losses", "ok": True}, {"stage": "jobs", "ended": 0},
]
BAD = {
    "× the tokens/s of Trainer": arm("trainer", 1001, 15000),
    "memory above the weights": arm("trainer", 900, 13900),
    "not below Unsloth's tokens/s": arm("unsloth", 2001, 9500),
    "not above Unsloth's memory": arm("unsloth", 1900, 8999),
    "QDoRA's time": arm("dora", 1850, 9500, stage="dora"),
    "the estimate at most 5%": estimate(1.06),
    "whole tiny job": {"stage": "jobs", "job": "IA3", "code": 65, "seconds": 5, "loss": [None, None]},
    "what a GPU computes": {"stage": "merge", "name": "merge, LoRA", "ok": False},
    "no stage failed": {"stage": "sampler", "ended": "timed out"},
}


def test_every_goal_is_reached_where_every_figure_is_good():
    assert [goal.verdict for goal in judge(GOOD)] == ["PASS"] * len(BAD)


@pytest.mark.parametrize("words", BAD)
def test_a_goal_is_missed_by_one_bad_figure_and_the_others_are_not(words):
    missed = [goal for goal in judge([*GOOD, BAD[words]]) if not goal.reached]
    assert [words in goal.wanted for goal in missed] == [True], missed


@pytest.mark.parametrize("below", [estimate(0.99), estimate(1.02, plan=0.99)])
def test_an_estimate_below_what_was_measured_misses_its_goal(below):
    assert [goal.found for goal in judge([*GOOD, below]) if not goal.reached] != []


def test_what_was_not_measured_is_missed():
    goals = judge([])
    assert [goal.verdict for goal in goals[:-1]] == ["MISS"] * (len(goals) - 1)
    assert {goal.found for goal in goals[:-1]} == {"not measured"}


def test_a_made_up_results_file_becomes_a_report_that_says_which_goals_are_missed(tmp_path):
    # Of an arm that was measured twice, the last counts.
    lines = [*GOOD, *BAD.values(), arm("ours", 800, 16000), arm("dora", 700, 15000), arm("trainer", 900, 15000)]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = call("--report", "--out", tmp_path)
    assert done.returncode == 1, "a stage timed out"
    report = (tmp_path / "report.md").read_text()
    assert len(re.findall(r"^\| MISS \|", report, re.MULTILINE)) == len(BAD)
    assert "| IA3 | exit code 65 |" in report
    assert "| sampler | the whole stage | timed out |" in report


def test_an_arm_that_did_not_run_is_named_in_the_report():
    report = render(GOOD, REAL)
    assert "| PEFT's QDoRA in our trainer | not run |" in report


def test_reft_is_said_to_gain_only_beyond_its_error():
    points = [{"step": 1, "reward": 0.2, "KL, nats": None}, {"step": 2, "reward": 0.3, "KL, nats": 0.1}]
    words = {gain: answer({"warm-up": 0.3, "SFT": 0.3, "ReFT": 0.3 + gain}, 400, points) for gain in (-0.1, 0.03, 0.1)}
    assert [text.split(" against")[0] for text in words.values()] == [
        "ReFT loses", "ReFT neither gains nor loses", "ReFT gains"]
    assert "reward 0.2 to 0.3" in words[0.1]
    assert "KL" not in words[0.1]


def test_an_unknown_stage_is_refused():
    done = call("faster")
    assert done.returncode == 2
    assert "no such stage: faster" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_stage_runs_through_on_a_cpu(tmp_path):
    out = tmp_path / "out"
    done = call("--dry", "--out", out, seconds=1700, GPU_CHECK_WORK=str(tmp_path / "work"))
    found = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    log = (out / "log.txt").read_text()
    failed = [(one, log) for one in found if "failed" in one or one.get("ended", 0) != 0]
    assert failed == []
    assert done.returncode == 0, done.stderr
    for stage in STAGES:
        here = [one for one in found if one["stage"] == stage.name]
        assert {"ended": 0}.items() <= here[-1].items()
        assert len(here) > 1, f"{stage.name} found nothing"
    report = (out / "report.md").read_text()
    assert "A dry run on a CPU" in report
    measured = [title for name, title in MAIN_ROWS.items() if name != "unsloth"]
    for title in (*measured, "ours, packing off", "QLoRA, as chosen", "QDoRA, merged", "resume", "merge, DoRA"):
        assert re.search(rf"^\| {re.escape(title)} \| (?!not run)", report, re.MULTILINE), title
    assert [one["name"] for one in found if one.get("ok") is False] == []
    for chains in CHAINS:
        assert {one["reftArm"] for one in found if one.get("chains") == chains and "reftArm" in one} == {
            "base model", "warm-up", "SFT", "ReFT"}
    assert (out / "reft-curves.html").read_text().count("<svg class=\"plot\"") >= 2 * 8
    assert f"{out}/report.md" in done.stdout


@pytest.mark.slow
def test_a_stage_runs_in_an_interpreter_of_its_own_as_on_a_gpu(tmp_path):
    done = call("--here", "machine", GPU_CHECK_DRY="1", GPU_CHECK_OUT=str(tmp_path))
    assert done.returncode == 0, done.stderr
    (versions, card) = (json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines())
    assert versions["name"] == "versions"
    assert "torch" in versions
    assert card == {"stage": "machine", "name": "card", "gpu": "none: a dry run", "totalGiB": 0}


def test_a_stage_that_runs_again_replaces_what_it_found_before_and_nothing_else(tmp_path):
    for stage in ("jobs", "merge", "jobs"):
        append(tmp_path, {"stage": stage, "name": "a finding"})
    forget(tmp_path, "jobs")
    assert read(tmp_path) == [{"stage": "merge", "name": "a finding"}]


def _wheel(folder, name, files):
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for path in files:
            wheel.writestr(path, path)


def test_wheels_are_packed_as_they_stand_in_site_packages_without_what_no_check_needs(tmp_path):
    _wheel(tmp_path, "bitsandbytes-0.50.2-py3-none-any.whl", [
        "bitsandbytes/__init__.py", "bitsandbytes/libbitsandbytes_cuda130.so",
        "bitsandbytes/libbitsandbytes_cuda128.so", "bitsandbytes-0.50.2.dist-info/METADATA",
        "bitsandbytes-0.50.2.dist-info/RECORD"])
    _wheel(tmp_path, "Typing.Inspection-1.0-py3-none-any.whl", [
        "typing_inspection-1.0.data/purelib/typing_inspection.py", "typing_inspection-1.0.data/scripts/tool"])
    archive = tmp_path / "all.tar.xz"
    size = pack([find_wheel(tmp_path, "bitsandbytes==0.50.2"), find_wheel(tmp_path, "typing-inspection==1.0")], archive)
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["bitsandbytes/__init__.py", "bitsandbytes/libbitsandbytes_cuda130.so",
                                  "bitsandbytes-0.50.2.dist-info/METADATA", "typing_inspection.py"]
        assert size == sum(member.size for member in tar)


def test_a_wheel_that_is_missing_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"peft==0\.21\.2: 0 wheels"):
        find_wheel(tmp_path, "peft==0.21.2")
