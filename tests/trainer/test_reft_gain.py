"""The sample of ReFT, as users get it, against supervised training that goes on for as many gradient steps."""

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml
from finetune_api.rules import merge_patch

from tests.trainer.runs import Running, manifest

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "deploy" / "samples"


def _arithmetic():
    spec = importlib.util.spec_from_file_location("arithmetic", SAMPLES / "arithmetic.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["arithmetic"] = module
    spec.loader.exec_module(module)
    return module


def test_every_made_up_chain_is_right_whatever_its_grain():
    arithmetic = _arithmetic()
    rows = arithmetic.make_rows(300, seed=1)
    assert rows[:100] == arithmetic.make_rows(100, seed=1)
    assert len({row["question"] for row in rows}) == 300
    assert {len(row["chain"].splitlines()) for row in rows} == {1, 2, 4}
    for row in rows:
        value = int(row["question"][0])
        for sign, digit in zip(row["question"][1::2], row["question"][2::2], strict=True):
            value = {"+": value + int(digit), "-": value - int(digit), "*": value * int(digit)}[sign] % 7
        assert row["answer"] == str(value)
        assert row["chain"].endswith(f"={value}")


def test_the_tokenizer_writes_back_what_it_reads():
    tokenizer = _arithmetic().make_tokenizer()
    text = "3+5*2=2\n2-1=1\n#1"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id}) == 2


@pytest.mark.timeout(1800)
def test_the_sample_learns_to_reason_in_steps_that_it_can_do_and_supervised_training_does_not(tmp_path):
    arithmetic = _arithmetic()
    rows = arithmetic.make_rows(3200, seed=0)
    arithmetic.write_rows(tmp_path / "data" / "train.jsonl", rows[:3000])
    arithmetic.write_rows(tmp_path / "data" / "test.jsonl", rows[3000:])
    arithmetic.train_model(tmp_path / "model", rows[:3000], steps=1000, seed=0)
    sample = yaml.safe_load((SAMPLES / "reft.yaml").read_text())
    ppo = sample["spec"]["method"]["reft"]["ppo"]
    # Two thirds of the sample's steps do.
    reinforced = _accuracy(sample, tmp_path, "reft", {"method": {"reft": {"ppo": {"steps": 40}}}})
    steps = 40 * 2 * ppo["rollouts"] // ppo["miniBatchSize"]
    # One PPO step at a vanishing rate: the same job and judge, all gradient steps supervised.
    supervised = _accuracy(sample, tmp_path, "sft", {
        "method": {"reft": {"ppo": {"steps": 1, "rollouts": 1, "miniBatchSize": 1, "learningRate": 1e-12}}},
        "training": {"maxSteps": sample["spec"]["training"]["maxSteps"] + steps}})
    assert reinforced["before"] == supervised["before"] < 0.5
    assert reinforced["after"] > 0.6
    assert reinforced["after"] > supervised["after"] + 0.25, (reinforced, supervised)


def _accuracy(sample, folder, name, change):
    home = folder / name
    home.mkdir()
    job = merge_patch(sample, {"spec": merge_patch({
        "model": {"source": f"file://{folder}/model"}, "dataset": {"source": f"file://{folder}/data/"},
        "output": {"uri": f"file://{home}/out"}}, change)})
    job["metadata"]["name"] = "tiny"
    done = Running(job, home / "log.txt").wait(800)
    assert done.code == 0, done.output
    scores = manifest(home)["result"]["evaluation"]
    return {when: scores[when]["answerAccuracy"] for when in ("before", "after")}
