"""Whole runs of ReFT through `finetune run` on a random model: form, resume, stopping, limits and bad input."""

import json
import signal
from pathlib import Path

import pytest
import torch
from finetune_api.rules import merge_patch

from tests.models import tiny_job
from tests.s3 import free_ports
from tests.trainer.runs import (
    Running,
    assert_the_next_run_is_the_same_to_the_bit,
    manifest,
    published,
    run,
    workshop,
)

ROOT = Path(__file__).parents[2]
PPO = {"steps": 3, "rollouts": 8, "miniBatchSize": 4, "maxNewTokens": 6, "learningRate": 0.01, "rampSteps": 1,
       "checkpointEvery": 1}
REWARD = {"type": "plugin", "plugin": "by-letters"}
REFT = {"type": "ReFT", "lora": None,
        "reft": {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}, "reward": REWARD, "ppo": PPO}}
FINAL_ANSWER: dict[str, dict] = {"method": {"reft": {"reward": {"type": "finalAnswer", "plugin": None}}}}
DATA = {"completion": "it is {{ label.level }}\n#### {{ label.level }}", "answerFormat": None}
TRAINING = {"maxSteps": 3, "checkpointEvery": 1}
VARIANTS: dict[str, dict] = {
    "LoRA": {}, "DoRA": {"reft": {"policy": "DoRA"}}, "LoRA nf4": {"quantization": "nf4"},
    "DoRA nf4": {"quantization": "nf4", "reft": {"policy": "DoRA"}},
    "Full": {"reft": {"policy": "Full", "lora": None}},
}


def _run(folder, fault="", **sections):
    sections = merge_patch({"method": REFT, "dataset": DATA, "training": TRAINING}, sections)
    return run(folder, fault=fault, **sections)


def test_both_stages_are_run_seen_published_and_load_in_plain_peft(tmp_path):
    folder = workshop(tmp_path)
    done = _run(folder)
    assert done.code == 0, done.output
    assert done.output.index("warming up") < done.output.index("\nPPO\n") < done.output.index("evaluating after")
    result = manifest(folder)["result"]
    assert (result["outcome"], result["step"], result["totalSteps"]) == ("Succeeded", 6, 6)
    assert set(result["evaluation"]["after"]) >= {"answerAccuracy", "loss"}
    lines = [json.loads(line) for line in (published(folder) / "metrics.jsonl").read_text().splitlines()]
    stages = [line["stage"] for line in lines if "stage" in line]
    assert stages[stages.index("warming up"):][:2] == ["warming up", "PPO"]
    steps = [line for line in lines if "step" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all(("reward" in line) is (line["step"] > 3) for line in steps)
    first = steps[3]
    assert first["kl"] == 0, "the first roll-outs come from the warm-up itself"
    assert first["explainedVariance"] == pytest.approx(0, abs=1e-5), "values start from one number, not from noise"
    assert {"accuracy", "clipFraction", "explainedVariance", "entropy", "responseTokens", "rolloutSeconds",
            "updateSeconds"} <= set(steps[-1])
    report = (published(folder) / "report.html").read_text()
    assert "Sampled responses" in report
    assert "Mean reward over steps" in report

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    ids = torch.tensor([[5, 80, 90, 100, 7, 8]])
    with torch.inference_mode():
        plain = base.eval()(ids).logits
        adapted = PeftModel.from_pretrained(base, published(folder) / "adapter").eval()(ids).logits
    assert (adapted - plain).abs().max() > 1e-3, "the adapter changes nothing"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_that_is_killed_in_either_stage_ends_in_the_same_adapter(tmp_path, name):
    method = VARIANTS[name]
    straight = workshop(tmp_path / "straight")
    assert _run(straight, method=method).code == 0
    wanted = manifest(straight)["result"]["adapter"]["sha256"]
    killed = workshop(tmp_path / "killed")
    for moment in ("checkpointed-2", "checkpointed-3", "step-5", "checkpointed-5"):
        died = _run(killed, fault=f"kill:{moment}", method=method)
        assert died.code == -signal.SIGKILL, (moment, died.output)
    done = _run(killed, method=method)
    assert done.code == 0, done.output
    assert "resuming from step 5 of 6" in done.output
    assert manifest(killed)["result"]["adapter"]["sha256"] == wanted
    steps = [json.loads(line) for line in (published(killed) / "metrics.jsonl").read_text().splitlines()]
    assert sorted({line["step"] for line in steps if "step" in line}) == [1, 2, 3, 4, 5, 6]
    assert [line["kl"] for line in steps if line.get("step") == 6][-1] != 0, "PPO moved nothing"


def test_policy_full_moves_every_weight_and_publishes_a_whole_model(tmp_path):
    folder = workshop(tmp_path)
    done = _run(folder, method=VARIANTS["Full"])
    assert done.code == 0, done.output

    from transformers import AutoModelForCausalLM

    start, end = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict()
                  for path in (folder / "model", published(folder) / "model"))
    assert start.keys() == end.keys()
    still = [name for name in start if torch.equal(start[name], end[name])]
    assert still == []
    steps = [json.loads(line) for line in (published(folder) / "metrics.jsonl").read_text().splitlines()]
    kl = [line["kl"] for line in steps if "kl" in line]
    assert kl[0] == 0, "the reference is the warm-up's model"
    assert kl[-1] != 0, "and stays so while the policy moves"


def test_memory_trouble_while_sampling_halves_what_is_sampled_at_once(tmp_path):
    folder = workshop(tmp_path)
    done = _run(folder, fault="oom-sampling:3")
    assert done.code == 0, done.output
    assert "out of accelerator memory: going on with 4 responses at once" in done.output
    assert "out of accelerator memory: going on with 2 responses at once" in done.output
    assert done.output.count("responses at once") == 2, "what was found out is kept"
    last = _run(workshop(tmp_path / "last"), fault="oom-sampling:0")
    assert last.code == 71, last.output
    assert "write a smaller spec.method.reft.ppo.maxNewTokens" in last.output


def test_sigterm_in_ppo_checkpoints_ends_with_75_and_the_next_run_is_the_same_to_the_bit(tmp_path):
    # Fewer than collapse is looked for in: a model that knows nothing is near guessing.
    ppo = {"steps": 19, "checkpointEvery": 100}
    sections = {"method": merge_patch(REFT, {"reft": {"ppo": ppo}}), "dataset": DATA, "training": TRAINING}
    stopped = workshop(tmp_path / "stopped")
    (port,) = free_ports(1)
    running = Running(tiny_job(stopped, **sections), stopped / "log.txt", port)
    message = running.until(port, lambda message: "rollouts" in message.get("progress", {}))
    assert message["stage"] == "PPO"
    assert {"reward", "accuracy", "kl"} <= set(message["progress"]["rollouts"])
    running.process.terminate()
    ended = running.wait(60)
    assert ended.code == 75, ended.output
    assert "the checkpoint of that step is in the output" in ended.output
    assert_the_next_run_is_the_same_to_the_bit(stopped, tmp_path / "straight", **sections)


def test_memory_trouble_in_ppo_halves_what_is_learnt_from_at_once(tmp_path):
    """Two of four responses at once give the same gradient, up to rounding."""
    plain, tight = workshop(tmp_path / "plain"), workshop(tmp_path / "tight")
    sections = {"training": {**TRAINING, "microBatchSize": 4}, "method": {"reft": {"lora": {"dropout": 0}}}}
    assert _run(plain, **sections).code == 0
    done = _run(tight, fault="oom:2", **sections)
    assert done.code == 0, done.output
    assert "4, 2 per forward pass" in (published(tight) / "adapter" / "README.md").read_text()
    assert "4, 4 per forward pass" in (published(plain) / "adapter" / "README.md").read_text()
    one, other = (manifest(folder)["result"]["evaluation"]["after"]["loss"] for folder in (plain, tight))
    assert one == pytest.approx(other, abs=1e-2)


def test_memory_trouble_while_scoring_takes_fewer_responses_at_once(tmp_path):
    done = _run(workshop(tmp_path), fault="oom-scoring:2")
    assert done.code == 0, done.output


def test_a_reward_that_never_comes_ends_ppo_early_and_says_what_to_do(tmp_path):
    folder = workshop(tmp_path)
    done = _run(folder, **merge_patch(FINAL_ANSWER, {"method": {"reft": {
        "ppo": {"steps": 40, "maxNewTokens": 1, "checkpointEvery": 50}}}}))
    assert done.code == 0, done.output
    result = manifest(folder)["result"]
    assert (result["outcome"], result["step"]) == ("StoppedEarly", 23)
    assert "not one sampled response was right in 20 steps. ReFT can only strengthen what the warm-up" in \
        result["message"]


def test_programs_are_run_as_chains_of_thought(tmp_path):
    folder = workshop(tmp_path)
    done = _run(folder, dataset={"completion": "def solution():\n    return {{ label.level }}"},
                method={"reft": {"reward": {"type": "program", "plugin": None, "answer": "{{ label.level }}"}}})
    assert done.code == 0, done.output
    assert "its own completion is not right" not in done.output
    assert manifest(folder)["run"]["spec"]["method"]["reft"]["ppo"]["klCoefficient"] == 0.01


def test_a_limit_that_is_reached_in_the_warm_up_publishes_the_warm_up(tmp_path):
    folder = workshop(tmp_path)
    done = _run(folder, budget={"maxDuration": "1ms"})
    assert done.code == 0, done.output
    assert manifest(folder)["result"]["step"] == 1


@pytest.mark.parametrize(("sections", "code", "message"), [
    ({**FINAL_ANSWER, "dataset": {"completion": "{{ label.level }}"}}, 64,
     "reward.trigger: '####' occurs in no row's completion"),
    ({**FINAL_ANSWER, "dataset": {"completion": "#### {{ label.level }}"}}, 65,
     "its completion has no chain of thought before '####'"),
    ({"method": {"reft": {"reward": {"type": "json", "plugin": None}}}}, 65,
     "reward.answer gives no right answer"),
    ({"method": {"reft": {"reward": {"plugin": "cProfile"}}}}, 64,
     "reward.plugin: cProfile is not allowed"),
    ({"method": {"reft": {"lora": {"targetModules": ["q_prj"]}}}}, 64,
     "spec.method.reft.lora.targetModules: no linear layer is named q_prj; did you mean q_proj?"),
], ids=["trigger", "chain", "json", "plugin", "targets"])
def test_bad_input_ends_with_its_code_and_a_sentence(tmp_path, sections, code, message):
    done = _run(workshop(tmp_path), **sections)
    assert done.code == code, done.output
    assert message in done.output
    assert "Traceback" not in done.output
