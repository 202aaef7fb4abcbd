"""`finetune estimate`: what a job needs, without cluster and weights."""

from __future__ import annotations

import json
import os
import sys
from decimal import Decimal
from functools import partial

import pytest
from finetune_api.estimate import EstimateTarget
from finetune_api.estimate.catalogue import KNOWN_ACCELERATORS
from finetune_api.values.money import Price
from finetune_cli.estimate_target import ChosenTarget
from finetune_cli.this_machine import ThisMachine, this_machine

from tests.cli.jobs import call, write_job

GIB = 1024**3
MISTRAL = {"model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000}


def _on(machine, spec, options):
    """`choose_target` on another machine than this one."""
    target = EstimateTarget("cpu", None, Price(Decimal(0), "USD"))
    return ChosenTarget(target, machine)


@pytest.fixture
def job(tmp_path):
    """Writes a job on a folder with nothing but the configuration of Mistral-7B."""
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL))
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n' * 1000)
    return lambda **sections: write_job(tmp_path / "job.yaml", **{
        "model": {"source": "file://./"}, "dataset": {"source": "file://./rows.jsonl"}, **sections})


def test_a_job_that_fits_is_told_by_term_with_its_plan_and_its_price(job):
    result = call("estimate", "--accelerator", "l4", job(method={"quantization": "nf4"}))
    assert result.exit_code == 0, result.output
    for words in ("7.24 billion parameters", "weights          3.84 GiB", "21.7", "of 24 GiB on nvidia-l4",
                  "gradient checkpointing in 1 of 32 layers", "It fits.", "2764800 tokens", "USD", "estimates"):
        assert words in result.output, result.output


def test_a_job_that_does_not_fit_exits_71_and_names_the_change(job):
    result = call("estimate", "--accelerator", "nvidia-l4", job(training={"precision": "float32"}))
    assert result.exit_code == 71
    assert "It does not fit: write spec.method.quantization: nf4" in result.output


def test_as_json_it_is_one_object(job):
    result = call("estimate", "--accelerator", "nvidia-l4", job(), "--json", "--rows", 500, "--row-tokens", 100)
    said = json.loads(result.stdout)
    assert said["memoryBytes"] == sum(said["terms"].values())
    assert (said["fits"], said["change"], said["tokens"]) == (True, None, 3 * 500 * 100)
    assert float(said["cost"]) == pytest.approx(said["hours"], abs=0.01), "an L4 at 1.00 an hour"


def test_an_accelerator_of_ones_own_needs_its_memory(job):
    path = job(compute={"accelerator": "our-gpu"})
    refused = call("estimate", path, "--accelerator", "our-gpu")
    assert (refused.exit_code, refused.stdout) == (64, "")
    assert "--accelerator: our-gpu is not in the catalogue of this command: add --memory" in refused.stderr
    assert call("estimate", path, "--memory", "48Gi", "--price", "2.5").exit_code == 0
    assert call("estimate", path, "--memory", "lots").exit_code == 64


def test_without_an_accelerator_the_estimate_is_for_this_machine(job, monkeypatch):
    monkeypatch.setattr("finetune_cli.commands.estimate.choose_target", partial(_on, ThisMachine(None, 80 * GIB, 8)))
    path = job()
    result = call("estimate", path)
    assert result.exit_code == 0, result.output
    for words in ("process          1.00 GiB", "weights         26.98 GiB", "It fits.",
                  "of 80.0 GiB on this machine, which has no GPU", "at no price (--price USD sets one)",
                  f"For a cluster: finetune estimate --accelerator nvidia-l4 {path}"):
        assert words in result.output, result.output


def test_on_a_cpu_quantized_weights_lie_beside_the_file_that_they_were_read_from(job, monkeypatch):
    monkeypatch.setattr("finetune_cli.commands.estimate.choose_target", partial(_on, ThisMachine(None, 80 * GIB, 8)))
    terms = json.loads(call("estimate", job(method={"quantization": "nf4"}), "--json").stdout)["terms"]
    assert terms["file"] == pytest.approx(26.98 * GIB, rel=0.001)
    assert terms["weights"] < 5 * GIB
    assert json.loads(call("estimate", job(), "--json").stdout)["terms"]["file"] == 0


def test_on_a_cpu_with_too_little_memory_the_change_that_fits_is_named(job, monkeypatch):
    monkeypatch.setattr("finetune_cli.commands.estimate.choose_target", partial(_on, ThisMachine(None, 24 * GIB, 8)))
    result = call("estimate", job(), "--json")
    said = json.loads(result.stdout)
    assert (result.exit_code, said["fits"]) == (71, False)
    assert said["memoryBytes"] == sum(said["terms"].values()) > 24 * GIB
    assert said["change"] == "write spec.method.quantization: nf4"


def test_a_gpu_of_this_machine_is_what_the_driver_lists(job, monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA L4, 23034'\necho 'NVIDIA L4, 23034'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    result = call("estimate", job(method={"quantization": "nf4"}))
    assert result.exit_code == 0, result.output
    assert "of 22 GiB on this machine's NVIDIA L4" in result.output
    assert "process" not in result.output


def test_processors_and_memory_of_this_machine_are_found_without_the_trainer(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with_trainer = this_machine()
    monkeypatch.setitem(sys.modules, "finetune_trainer.hardware.host", None)
    without = this_machine()
    assert with_trainer.gpu is without.gpu is None
    assert 0 < with_trainer.memory_bytes <= without.memory_bytes
    assert 0 < with_trainer.processors <= without.processors


def test_without_the_number_of_rows_there_are_no_hours(job):
    result = call("estimate", "--accelerator", "l4", job(dataset={"source": "hf://owner/name"}))
    assert result.exit_code == 0
    assert "give --rows N" in result.output


@pytest.mark.parametrize(("source", "code", "words"), [
    ("file:///nowhere/model", 66, "/nowhere/model/config.json: No such file"),
    ("pvc://claim/model", 66, "is a claim of a cluster"),
    ("owner/not-in-the-cache", 66, "is not in the local cache, and the hub can't be reached"),
    ("file:///nowhere/model.gguf", 66, "file:///nowhere/model.gguf: no such file"),
])
def test_a_configuration_that_cannot_be_had_is_said_to_be_missing(tmp_path, source, code, words):
    result = call("estimate", write_job(tmp_path / "job.yaml", model={"source": source}))
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr


def test_a_model_of_an_unknown_family_is_refused_with_those_that_are_known(job, tmp_path):
    path = job()
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    result = call("estimate", path)
    assert result.exit_code == 64
    assert "model_type mamba: known are gemma" in result.stderr


def test_by_accelerator_the_lowest_cost_comes_first_and_not_the_lowest_price(job):
    path = job(method={"quantization": "nf4"})
    result = call("estimate", "--by", "accelerator", path)
    assert result.exit_code == 0, result.output
    assert "nvidia-l4 *" in result.output, "the job's own is marked"
    found = json.loads(call("estimate", "--by", "accelerator", "--json", path).stdout)["alternatives"]
    costs = [Decimal(one["cost"]) for one in found if one["fits"]]
    assert costs == sorted(costs)
    assert len(costs) == len(found) == len(KNOWN_ACCELERATORS) + 1
    assert found[0]["name"] == "nvidia-l4"
    prices = [Decimal(one["pricePerHour"]) for one in found]
    assert prices != sorted(prices)


def test_by_accelerator_what_does_not_fit_is_last_with_its_change(job):
    found = json.loads(call("estimate", "--by", "accelerator", "--json", job()).stdout)["alternatives"]
    assert (found[-1]["name"], found[-1]["fits"]) == ("nvidia-t4", False)
    assert found[-1]["change"] == "write spec.method.quantization: nf4"


def test_the_hourly_rate_of_a_job_is_that_of_its_own_accelerator(job):
    path = job(budget={"hourlyRate": "0.25"})
    found = json.loads(call("estimate", "--by", "accelerator", "--json", path).stdout)["alternatives"]
    prices = {one["name"]: one["pricePerHour"] for one in found}
    assert (prices["nvidia-l4"], prices["nvidia-h100"]) == ("0.25", "11.00")


def test_without_rows_accelerators_have_an_order_and_no_cost(job):
    with_rows = json.loads(call("estimate", "--by", "accelerator", "--json", job()).stdout)["alternatives"]
    path = job(dataset={"source": "s3://bucket/rows.jsonl"})
    found = json.loads(call("estimate", "--by", "accelerator", "--json", path).stdout)["alternatives"]
    assert {one["cost"] for one in found} == {None}
    assert [one["name"] for one in found] == [one["name"] for one in with_rows]
    assert "give --rows N" in call("estimate", "--by", "accelerator", path).output


def test_by_accelerator_takes_no_other_target(job):
    refused = call("estimate", "--by", "accelerator", "--price", "2", job())
    assert (refused.exit_code, refused.stdout) == (64, "")
    assert "leave out --accelerator, --memory and --price" in refused.stderr


def test_by_method_each_method_is_estimated_and_sampled_ones_come_after_the_others(job):
    result = call("estimate", "--by", "method", "--accelerator", "l4", job(method={"quantization": "nf4"}))
    assert result.exit_code == 0, result.output
    names = [line.split("  ")[0] for line in result.stdout.splitlines()[1:]]
    assert {"LoRA", "QLoRA *", "DoRA", "QDoRA", "IA3", "Partial", "Full"} < set(names)
    assert names.index("ReFT (LoRA)") > names.index("Partial")
    assert names.index("Full") > names.index("ReFT (LoRA)"), "it does not fit"
    assert "≥: without the time of the responses" in result.output


def test_a_method_that_the_job_does_not_allow_is_listed_with_the_rule(job):
    path = job(engine="unsloth", method={"quantization": "nf4"})
    found = json.loads(call("estimate", "--by", "method", "--accelerator", "l4", "--json", path).stdout)["alternatives"]
    by_name = {one["name"]: one for one in found}
    assert by_name["QLoRA"]["refused"] is None
    assert "spec.engine" in by_name["Full"]["refused"]
    assert found[-1]["refused"] is not None


def test_a_job_on_auto_is_shown_the_comparison_for_a_cluster(job, monkeypatch):
    monkeypatch.setattr("finetune_cli.commands.estimate.choose_target", partial(_on, ThisMachine(None, 80 * GIB, 8)))
    path = job(compute={"accelerator": "auto"})
    assert f"For a cluster: finetune estimate --by accelerator {path}" in call("estimate", path).output
