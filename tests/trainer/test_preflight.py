"""`finetune-trainer preflight`: what is found without weights, and the words that the run itself would have said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal

import pytest
from finetune_api import parse_job, resolve_defaults, spec_hash
from finetune_api.estimate import read_architecture
from finetune_api.exit_codes import ExitCode
from finetune_api.messages import (
    Accelerator,
    Outcome,
    PreflightResult,
    PreflightVerdict,
    Result,
    RunConfig,
)
from finetune_trainer.model.files.content import folder_digest
from finetune_trainer.run.preflight import preflight

from tests.models import tiny_job
from tests.trainer.manifests import publish
from tests.trainer.runs import RunningPod, pod_with_simulated_accelerator, workshop

REFT = {"type": "ReFT", "lora": None}
CHAINS = {"completion": "it is {{ label.level }}\n#### {{ label.level }}", "answerFormat": None}
L4 = Accelerator(name="nvidia-l4", memory_bytes=24 * 2**30, hourly_rate=Decimal("1.00"))
CATALOGUE = (L4, Accelerator(name="nvidia-a100-80", memory_bytes=80 * 2**30, hourly_rate=Decimal("5.10")))
SEVEN_BILLION = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                 "intermediate_size": 14336, "vocab_size": 32000, "head_dim": 128}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the tiny model and rows."""
    return workshop(tmp_path_factory.mktemp("preflight"))


def config(folder, accelerator=L4, uid="0123-abcd", **sections):
    spec = resolve_defaults(parse_job(tiny_job(folder, **sections)).spec)
    return RunConfig(namespace="team", name="tiny", uid=uid, attempt=1, spec=spec, spec_hash=spec_hash(spec),
                     accelerator=accelerator, catalogue=CATALOGUE)


def check(folder, **known):
    return preflight(config(folder, **known), lambda text: None)


def test_a_job_that_can_work_passes_with_what_it_will_take(folder):
    checked = check(folder)
    result = checked.result
    assert (checked.code, result.verdict) == (ExitCode.OK, PreflightVerdict.PASSED), result.message
    assert result.message.startswith("32 training rows, 8 held-out rows")
    assert "nvidia-l4" in result.message and "estimates: " in result.message
    assert 0.5 * 2**30 < result.estimate.memory_bytes < 2**30
    assert (result.estimate.micro_batch_size, result.estimate.tokens > 6 * 4 * 10) == (2, True)
    assert len(result.data_hash) == 64


def test_auto_is_estimated_on_the_accelerator_that_costs_least(folder):
    auto = Accelerator(name="auto", hourly_rate=Decimal(0))
    result = check(folder, accelerator=auto, compute={"accelerator": "auto"}).result
    assert result.verdict == PreflightVerdict.PASSED, result.message
    assert (result.accelerator.name, result.accelerator.next_best) == ("nvidia-l4", "nvidia-a100-80")
    assert "GiB on nvidia-l4" in result.message and result.accelerator.reason in result.message
    assert result.estimate.cost < 1


def without_weights(path):
    """A file of a model; of one with weights the header alone is right."""
    content = path.read_bytes()
    if path.suffix != ".safetensors":
        return content
    header = 8 + int.from_bytes(content[:8], "little")
    return content[:header] + b"\xff" * (len(content) - header)


def test_no_weights_are_read(folder, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for path in (folder / "model").iterdir():
        (model / path.name).write_bytes(without_weights(path))
    assert check(folder, model={"source": f"file://{model}"}).result.verdict is PreflightVerdict.PASSED


@pytest.mark.parametrize(("sections", "code", "field", "words"), [
    ({"dataset": {"prompt": "{{ fact }}"}}, 64, "spec.dataset.prompt", "no row has a column fact"),
    ({"method": {"lora": {"targetModules": ["q_prj"]}}}, 64, "spec.method.lora.targetModules", "did you mean q_proj?"),
    ({"dataset": {"answerFormat": {"schema": {"properties": {"level": {"type": "string"}}}}}}, 65, "spec.dataset",
     "the answer breaks the schema at $.level"),
    ({"training": {"maxLength": 24, "longRows": "refuse"}}, 65, "spec.dataset", "more than maxLength 24"),
    ({"training": {"maxLength": 24, "longRows": "drop"}}, 65, "spec.dataset", "no rows are left to train on"),
    ({"model": {"source": "file:///nowhere/model"}}, 66, "spec.model.source", "no such folder"),
    ({"dataset": {"source": "file:///nowhere/rows.jsonl"}}, 66, None, "no such file"),
    ({"output": {"uri": "file:///proc/out"}}, 73, None, "/proc/out"),
    ({"method": {**REFT, "reft": {"reward": {"type": "finalAnswer"}}}}, 64, "spec.method.reft.reward.trigger",
     "occurs in no row's completion"),
    ({"method": {**REFT, "reft": {"lora": {"targetModules": ["q_prj"]}}}, "dataset": CHAINS}, 64,
     "spec.method.reft.lora.targetModules", "did you mean q_proj?"),
], ids=["column", "layer", "schema", "long rows refused", "long rows dropped", "no model", "no data", "output",
        "ReFT's reward", "ReFT's layer"])
def test_what_cannot_work_is_refused_with_the_runs_own_code_and_words(folder, sections, code, field, words):
    checked = check(folder, **sections)
    assert (checked.code, checked.result.verdict) == (code, PreflightVerdict.REFUSED), checked.result.message
    assert words in checked.result.message
    assert checked.result.field == field


def test_reft_needs_no_reward_where_answers_are_json(folder):
    checked = check(folder, method=REFT)
    assert checked.result.verdict is PreflightVerdict.PASSED, checked.result.message


@pytest.fixture
def large(folder, tmp_path):
    """A model of seven billion parameters without weights, with the tiny one's tokenizer."""
    for path in (folder / "model").iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, **SEVEN_BILLION}))
    return {"source": f"file://{tmp_path}"}


def test_a_job_that_cannot_fit_is_refused_with_the_change_that_makes_it_fit(folder, large):
    checked = check(folder, model=large, training={"precision": "float32"})
    assert (checked.code, checked.result.reason) == (ExitCode.OUT_OF_MEMORY, Outcome.OUT_OF_MEMORY)
    assert "nvidia-l4 has 24 GiB" in checked.result.message
    assert checked.result.message.endswith("write spec.method.quantization: nf4")
    again = check(folder, model=large, training={"precision": "float32"}, method={"quantization": "nf4"})
    assert again.result.reason is Outcome.MISSING_INPUT
    assert "has no *.safetensors file" in again.result.message


@pytest.mark.parametrize("outcome", [Outcome.SUCCEEDED, Outcome.QUALITY_GATE])
def test_a_result_of_an_earlier_life_is_adopted_with_its_outcome(folder, tmp_path, outcome):
    output = {"uri": f"file://{tmp_path}"}
    job = config(folder, output=output)
    publish(job, tmp_path, outcome=outcome, data_hash=preflight(job, lambda text: None).result.data_hash,
            base_revision=folder_digest(folder / "model"))
    checked = preflight(job, lambda text: None)
    assert (checked.code, checked.result.verdict) == (ExitCode.OK, PreflightVerdict.ALREADY_PUBLISHED)
    wanted = Outcome.ALREADY_PUBLISHED if outcome is Outcome.SUCCEEDED else outcome
    assert (checked.result.reason, checked.result.published.outcome) == (wanted, wanted)
    assert "runPolicy.rerun: Always" in checked.result.message
    assert ("it was so" in checked.result.message) == (outcome is Outcome.QUALITY_GATE)
    assert check(folder, output=output, runPolicy={"rerun": "Always"}).result.verdict is PreflightVerdict.PASSED


def test_a_result_on_other_rows_or_a_replaced_base_is_not_adopted(folder, tmp_path):
    job = config(folder, output={"uri": f"file://{tmp_path}"})
    data_hash, notes = preflight(job, lambda text: None).result.data_hash, []
    publish(job, tmp_path, uid="one", data_hash="1" * 64, base_revision=folder_digest(folder / "model"))
    publish(job, tmp_path, uid="other", data_hash=data_hash, base_revision="1" * 64)
    assert preflight(job, notes.append).result.verdict is PreflightVerdict.PASSED
    assert notes == ["the result team/tiny/one is not used: it belongs to other data",
                     "the result team/tiny/other is not used: it belongs to another revision of the base model"]


def test_the_model_is_read_from_s3_without_its_weights(folder, s3_server, s3_bucket, monkeypatch):
    client = s3_server.client()
    for path in (folder / "model").iterdir():
        client.put_object(Bucket=s3_bucket, Key=f"model/{path.name}", Body=without_weights(path))
    client.upload_file(str(folder / "rows.jsonl"), s3_bucket, "rows.jsonl")
    checked = check(folder, model={"source": f"s3://{s3_bucket}/model"},
                    dataset={"source": f"s3://{s3_bucket}/rows.jsonl"},
                    output={"uri": f"s3://{s3_bucket}/out", "s3": {"endpointUrl": s3_server.endpoint}})
    assert checked.result.verdict is PreflightVerdict.PASSED, checked.result.message
    left = client.list_objects_v2(Bucket=s3_bucket, Prefix="out/").get("Contents", [])
    assert left == [], "the probe is removed"


def test_a_pod_leaves_its_result(folder, tmp_path):
    (tmp_path / "run.json").write_text(config(folder).model_dump_json(exclude_none=True))
    log = tmp_path / "termination-log"
    done = subprocess.run([sys.executable, "-m", "finetune_trainer", "preflight", "--config", str(tmp_path),
                           "--termination-log", str(log)], capture_output=True, text=True, timeout=240, check=False,
                          env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert PreflightResult.model_validate_json(log.read_bytes()).verdict is PreflightVerdict.PASSED


@pytest.mark.parametrize(("family", "changes"), [
    ("LlamaConfig", {}), ("LlamaConfig", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("MistralConfig", {}), ("MixtralConfig", {"num_local_experts": 4}), ("Qwen2Config", {}),
    ("Qwen3Config", {"head_dim": 32}), ("GemmaConfig", {"head_dim": 32}), ("Gemma2Config", {"head_dim": 32}),
    ("Phi3Config", {"pad_token_id": 0}), ("SmolLM3Config", {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}),
])
def test_every_known_family_is_counted_as_transformers_builds_it(family, changes):
    import torch
    import transformers

    config = getattr(transformers, family)(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=500, **changes)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert read_architecture(config.to_dict()).parameters == model.num_parameters()


def test_a_run_that_cannot_fit_on_its_gpu_ends_before_the_weights_are_loaded(folder, tmp_path, large):
    job = config(folder, model=large, training={"precision": "float32"}, uid="abcd")
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    (tmp_path / "run.json").write_text(job.model_dump_json(exclude_none=True))
    log = tmp_path / "termination-log"
    # The processors act as the GPU: a run that sees none ends before it estimates anything.
    running = RunningPod(tmp_path / "log.txt", ["run", "--config", str(tmp_path), "--port", "0", "--termination-log",
                                                str(log)], {"HF_HUB_OFFLINE": "1"}, pod_with_simulated_accelerator)
    done = running.wait()
    assert done.code == ExitCode.OUT_OF_MEMORY, done.output
    assert "write spec.method.quantization: nf4" in Result.model_validate_json(log.read_bytes()).message


def test_the_commit_of_a_model_on_the_hub_is_told(folder, tmp_path):
    commit, cache = "c" * 40, tmp_path / "home/hub/models--owner--name"
    snapshot = cache / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in (folder / "model").iterdir():
        if path.suffix != ".safetensors":
            (snapshot / path.name).write_bytes(path.read_bytes())
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(commit)
    (tmp_path / "run.json").write_text(config(folder, model={"source": "owner/name"}).model_dump_json(
        exclude_none=True))
    log = tmp_path / "termination-log"
    done = subprocess.run([sys.executable, "-m", "finetune_trainer", "preflight", "--config", str(tmp_path),
                           "--termination-log", str(log)], capture_output=True, text=True, timeout=240, check=False,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")})
    assert done.returncode == 0, done.stdout + done.stderr
    assert PreflightResult.model_validate_json(log.read_bytes()).model_revision == commit


def test_a_merge_that_host_memory_cannot_hold_is_refused_before_training(folder):
    merged = {"output": {"uri": f"file://{folder}/out", "exports": ["adapter", "merged"]}}
    small = L4.model_copy(update={"host_memory_bytes": 3 * 2**30})
    checked = check(folder, accelerator=small, **merged)
    assert checked.code == ExitCode.BAD_CONFIG
    assert "Raise spec.compute.memory to 5Gi, or remove merged" in checked.result.message
    large = L4.model_copy(update={"host_memory_bytes": 24 * 2**30})
    assert check(folder, accelerator=large, **merged).code == ExitCode.OK
    assert check(folder, accelerator=small).code == ExitCode.OK


@pytest.mark.parametrize(("gib", "fits"), [(4.25, False), (4.75, True)])
def test_programs_that_do_not_fit_beside_the_trainer_are_refused_before_the_start(folder, gib, fits):
    reward = {"type": "program", "answer": "{{ label.level }}"}
    chains = {"completion": "def solution():\n    return {{ label.level }}", "answerFormat": None}
    small = L4.model_copy(update={"host_memory_bytes": int(gib * 2**30)})
    checked = check(folder, accelerator=small, method={**REFT, "reft": {"reward": reward}}, dataset=chains)
    assert (checked.code is ExitCode.OK) is fits, checked.result.message
    if not fits:
        assert checked.result.message.startswith(
            "spec.method.reft.reward.type: Program runs programs of up to 512 MiB beside the "
            "trainer, which need about 4.5 GiB of host memory together; the job has 4.2 GiB. Raise spec.compute.memory "
            "to 5Gi")
