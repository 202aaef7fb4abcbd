"""A job that stops after a share of its steps, and the jobs that train the rest: together they are one whole run."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from finetune_api.rules import merge_patch
from finetune_trainer.data.batches.steps import stop_step

from tests.models import tiny_job
from tests.trainer.runs import LORA, MORE_METHODS, Run, Running, workshop
from tests.trainer.test_reft_run import DATA, REFT, TRAINING

SUPERVISED: dict[str, dict[str, Any]] = {
    "LoRA": {"method": LORA, "training": {"scheduler": "cosine", "warmup": 0.2}},
    "Full": {"method": MORE_METHODS["Full"], "training": {"learningRate": 0.001}}}
REINFORCED: dict[str, Any] = {"method": REFT, "dataset": DATA, "training": TRAINING}


def start(folder: Path, name: str, policy: dict[str, Any], sections: dict[str, Any], fault: str = "") -> Run:
    job = tiny_job(folder, **merge_patch(sections, {"runPolicy": policy}))
    job["metadata"]["name"] = name
    return Running(job, folder / f"{name}.txt", fault=fault).wait()


def manifest(folder: Path, name: str) -> dict[str, Any]:
    (path,) = folder.glob(f"out/default/{name}/*/manifest.json")
    return json.loads(path.read_text())


def steps(folder: Path, name: str) -> list[int]:
    """The steps of the log that a job published: its own, and those before its checkpoint."""
    (path,) = folder.glob(f"out/default/{name}/*/results/*/metrics.jsonl")
    return [line["step"] for line in map(json.loads, path.read_text().splitlines()) if "step" in line]


def train_in_parts(folder: Path, shares: list[float], sections: dict[str, Any]) -> list[dict[str, Any]]:
    """Train up to each share, then to the end, each job from the checkpoint of the one before: their results."""
    found, policy = [], {}
    for number, share in enumerate([*shares, None]):
        done = start(folder, f"part-{number}", {**policy, "stopAfter": share}, sections)
        assert done.code == 0, done.output
        found.append(manifest(folder, f"part-{number}")["result"])
        policy = {"resumeFrom": f"part-{number}"}
    return found


@pytest.mark.parametrize(("total", "share", "step"), [
    (100, 0.25, 25), (6, 0.34, 2), (3, 0.01, 1), (3, 0.99, 2), (2, 0.5, 1), (1, 0.5, 1)])
def test_a_share_is_at_least_a_step_and_never_the_whole(total, share, step):
    assert stop_step(total, share) == step


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_run_in_parts_is_the_uninterrupted_run_to_the_bit(tmp_path, name):
    sections, folder = SUPERVISED[name], workshop(tmp_path)
    assert start(folder, "straight", {}, sections).code == 0
    first, second, last = train_in_parts(folder, [0.34, 0.67], sections)
    assert [(one["outcome"], one["resumedFromStep"], one["step"], one["totalSteps"]) for one in (first, second, last)
            ] == [("StoppedEarly", 0, 2, 6), ("StoppedEarly", 2, 4, 6), ("Succeeded", 4, 6, 6)]
    assert "training stopped after step 2 of 6, because runPolicy.stopAfter is 0.34" in first["message"]
    whole = manifest(folder, "straight")["result"]
    assert last["adapter"]["sha256"] == whole["adapter"]["sha256"]
    assert last["evaluation"] == whole["evaluation"]
    assert steps(folder, "part-2") == steps(folder, "straight") == [1, 2, 3, 4, 5, 6]
    assert list(folder.glob("out/default/part-1/*/checkpoints/1/*/checkpoint.json")), "they are another job's"
    one, other = (next(folder.glob(f"out/default/{part}/*/checkpoints/baseline.json")) for part in ("part-0", "part-1"))
    assert one.read_bytes() == other.read_bytes(), "the base is evaluated once; the file has the seconds it took"


def test_reft_stops_in_the_warm_up_at_its_end_and_in_ppo_and_goes_on_to_the_same_bytes(tmp_path):
    folder = workshop(tmp_path)
    assert start(folder, "straight", {}, REINFORCED).code == 0
    results = train_in_parts(folder, [0.34, 0.5, 0.67], REINFORCED)
    assert [(one["outcome"], one["resumedFromStep"], one["step"], one["totalSteps"]) for one in results] == [
        ("StoppedEarly", 0, 2, 6), ("StoppedEarly", 2, 3, 6), ("StoppedEarly", 3, 4, 6), ("Succeeded", 4, 6, 6)]
    assert "stopped after step 2 of 6" in results[0]["message"], "PPO is the rest"
    assert "because runPolicy.stopAfter is 0.5" in results[1]["message"]
    assert results[-1]["adapter"]["sha256"] == manifest(folder, "straight")["result"]["adapter"]["sha256"]


def test_two_parts_up_to_the_same_step_are_one_chain(tmp_path):
    folder = workshop(tmp_path)
    results = train_in_parts(folder, [0.1, 0.2], {"training": {"maxSteps": 3}})
    assert [(one["outcome"], one["resumedFromStep"], one["step"]) for one in results] == [
        ("StoppedEarly", 0, 1), ("StoppedEarly", 1, 1), ("Succeeded", 1, 3)]


def test_a_part_of_a_run_of_one_step_is_no_whole_run_for_the_gate_and_keeps_its_checkpoint(tmp_path):
    folder = workshop(tmp_path)
    gate: dict[str, Any] = {"training": {"maxSteps": 1}, "evaluation": {"gate": {"metric": "loss", "minimumGain": 100}}}
    part, whole = train_in_parts(folder, [0.5], gate)
    assert [(one["outcome"], one["resumedFromStep"], one["step"]) for one in (part, whole)] == [
        ("Succeeded", 0, 1), ("QualityGate", 1, 1)]


def test_a_part_that_is_killed_before_it_is_published_trains_no_step_more(tmp_path):
    folder = workshop(tmp_path)
    sections: dict[str, Any] = {"evaluation": {"gate": {"metric": "loss", "minimumGain": 100.0}}}
    died = start(folder, "part", {"stopAfter": 0.34}, sections, fault="kill:trained")
    assert died.code == -signal.SIGKILL, died.output
    done = start(folder, "part", {"stopAfter": 0.34}, sections)
    assert done.code == 0, done.output
    result = manifest(folder, "part")["result"]
    assert (result["step"], result["resumedFromStep"], result["checkpointStep"]) == (2, 2, 2)
    assert (result["outcome"], "gate" in result["message"]) == ("StoppedEarly", False), "the gate judges whole runs"
    whole = start(folder, "whole", {"resumeFrom": "part"}, sections)
    assert whole.code == 0, whole.output
    assert manifest(folder, "whole")["result"]["outcome"] == "QualityGate"


def test_a_job_without_a_checkpoint_of_its_own_name_fails_or_trains_from_the_start_as_it_asks(tmp_path):
    folder, own = workshop(tmp_path), "again/0f3a-11"
    refused = start(folder, "again", {"resumeFrom": own}, {})
    assert refused.code == 66, refused.output
    assert "onMissingCheckpoint: TrainFromStart" in " ".join(refused.output.split())
    done = start(folder, "again", {"resumeFrom": own, "onMissingCheckpoint": "TrainFromStart"}, {})
    assert done.code == 0, done.output
    result = manifest(folder, "again")["result"]
    assert (result["outcome"], result["step"], result["resumedFromStep"]) == ("Succeeded", 6, 0)
    assert result["message"].endswith(f"no checkpoint of the job {own} fits (this output has no checkpoint of that "
                                      "job), so training began at its start")
