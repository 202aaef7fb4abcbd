"""Whole runs of `finetune run` on a tiny model: trained, evaluated, published, and read back by plain PEFT."""

import hashlib
import itertools
import json
import operator
import os
import signal
import subprocess
import time
import urllib.request
from datetime import UTC, datetime, timedelta

import numpy
import pytest
import torch
from finetune_api.messages import RowScores, SampleAnswers
from finetune_api.spec.evaluation import Metric
from finetune_api.status.evaluation import headline
from finetune_trainer.evaluation.f1_rows import F1Rows
from finetune_trainer.evaluation.row_sums import Side

from tests.models import tiny_job
from tests.s3 import free_ports
from tests.trainer.runs import (
    LORA,
    METHODS,
    Running,
    assert_the_next_run_is_the_same_to_the_bit,
    manifest,
    published,
    run,
    workshop,
)


@pytest.fixture
def folder(tmp_path):
    return workshop(tmp_path)


def _logits(model):
    ids = torch.tensor([[5, 80, 90, 100, 7, 8]])
    with torch.inference_mode():
        return model.eval()(input_ids=ids, use_cache=False).logits


def _base(folder, quantization):
    from finetune_api.spec.method import Quantization
    from finetune_api.spec.training import Precision
    from finetune_trainer.hardware.device import choose_device
    from finetune_trainer.model.files.find import ModelFiles
    from finetune_trainer.model.loading.load import load_model

    return load_model(ModelFiles(folder / "model", ""), Quantization(quantization), choose_device(Precision.AUTO))


@pytest.mark.parametrize("name", METHODS)
def test_a_job_is_trained_published_and_loads_in_plain_peft_with_the_same_logits(folder, name):
    method = METHODS[name]
    done = run(folder, method=method, output={"exports": ["adapter", "merged"]})
    assert done.code == 0, done.output
    result = manifest(folder)["result"]
    assert result["outcome"] == "Succeeded"
    assert result["evaluation"]["after"]["loss"] < result["evaluation"]["before"]["loss"]

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = _base(folder, method.get("quantization", "none"))
    plain = _logits(base)
    adapted = _logits(PeftModel.from_pretrained(base, published(folder) / "adapter"))
    merged = _logits(AutoModelForCausalLM.from_pretrained(published(folder) / "merged", dtype=torch.float32))
    assert (adapted - plain).abs().max() > 1e-3, "the adapter changes nothing"
    # LLM.int8() also rounds activations to 8 bits, which a merged model in float32 does not.
    tolerance = 0.05 if "int8" in name else 1e-4
    torch.testing.assert_close(merged, adapted, rtol=tolerance, atol=tolerance)


def test_a_manifest_lists_every_file_with_its_digest_and_a_second_run_finds_it(folder):
    first = run(folder)
    assert first.code == 0, first.output
    content = manifest(folder)
    (home,) = (folder / "out").glob("default/tiny/*")
    for file in content["files"]:
        data = (home / file["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file["sha256"]
        assert len(data) == file["sizeBytes"]
    names = {file["path"].partition("/")[2].partition("/")[2] for file in content["files"]}
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/README.md", "report.html",
            "metrics.jsonl", "row-scores.json", "answers.json"} <= names
    steps = [json.loads(line) for line in (published(folder) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "step" in line] == [1, 2, 3, 4, 5, 6]
    assert not (home / "checkpoints").exists(), "a published job needs no checkpoints"
    second = run(folder)
    assert second.code == 0
    assert "AlreadyPublished" in second.output
    assert manifest(folder) == content


def test_the_scores_and_answers_of_single_rows_add_up_to_the_published_ones(folder):
    assert run(folder).code == 0
    content = manifest(folder)
    scores = RowScores.read((published(folder) / "row-scores.json").read_bytes())
    count = len(scores.rows)
    assert count == len(scores.answer_tokens) == 8
    for columns, wanted in ((scores.before, content["result"]["evaluation"]["before"]),
                            (scores.after, content["result"]["evaluation"]["after"])):
        assert set(columns) == {"loss", "exactMatch", "jsonValid", "schemaValid", "fieldsMatch", "fieldAccuracy"}
        loss = sum(map(operator.mul, columns["loss"], scores.answer_tokens)) / sum(scores.answer_tokens)
        assert loss == pytest.approx(wanted["loss"], abs=1e-5)
        for metric in ("exactMatch", "jsonValid", "schemaValid", "fieldsMatch"):
            assert sum(columns[metric]) / count == pytest.approx(wanted[metric], abs=1e-5)
        each = wanted["fieldAccuracy"].values()
        assert sum(columns["fieldAccuracy"]) / count == pytest.approx(sum(each) / len(each), abs=1e-5)
    assert set(scores.fields) == set(content["result"]["evaluation"]["after"]["fieldF1Macro"]) == {"level", "custody"}
    sides: tuple[Side, ...] = ("before", "after")
    for metric, side in itertools.product((Metric.FIELD_F1_MACRO, Metric.FIELD_F1_MICRO), sides):
        found = F1Rows.of([scores], metric, side).scores(numpy.arange(count)[None])[0]
        assert found == pytest.approx(headline(content["result"]["evaluation"][side], metric), abs=1e-5)
    answers = SampleAnswers.read((published(folder) / "answers.json").read_bytes())
    assert [one.row for one in answers.questions] == list(scores.rows)
    for columns, given in ((scores.before, [one.before for one in answers.questions]),
                           (scores.after, [one.after for one in answers.questions])):
        assert [float(one.right) for one in given] == list(columns["fieldsMatch"])
    figures = content["figures"]
    assert figures["seconds"] > 0
    assert figures["tokensPerSecond"] > 0
    assert (figures["cost"], figures["currency"]) == ("0.0000", "USD")


def test_changed_data_is_another_job(folder):
    assert run(folder).code == 0
    with (folder / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"facts": "one more", "label": {"level": 1, "custody": True}}) + "\n")
    second = run(folder)
    assert "Succeeded" in second.output
    assert len(list((folder / "out").glob("default/tiny/*/manifest.json"))) == 2


@pytest.mark.parametrize("name", ["LoRA", "QLoRA", "DoRA", "QDoRA"])
def test_a_run_that_is_killed_anywhere_ends_in_the_same_adapter(tmp_path, name):
    straight = workshop(tmp_path / "straight")
    assert run(straight, method=METHODS[name]).code == 0
    wanted = manifest(straight)["result"]["adapter"]["sha256"]
    moments = ["baseline", "step-4", "checkpoint-4", "checkpointed-4", "trained", "exported", "results"]
    killed = workshop(tmp_path / "killed")
    for number, moment in enumerate(moments):
        died = run(killed, fault=f"kill:{moment}", method=METHODS[name])
        assert died.code == -signal.SIGKILL, (moment, died.output)
        if number in (1, 2):
            assert not list((killed / "out").glob("default/*/*/manifest.json"))
    done = run(killed, method=METHODS[name])
    assert done.code == 0, done.output
    assert "resuming from step 6 of 6" in done.output
    assert manifest(killed)["result"]["adapter"]["sha256"] == wanted
    from_the_middle = workshop(tmp_path / "middle")
    # Checkpoints travel in the background: at `step-4` the one of step 2 may or may not have arrived.
    assert run(from_the_middle, fault="kill:checkpointed-2", method=METHODS[name]).code == -signal.SIGKILL
    resumed = run(from_the_middle, method=METHODS[name])
    assert "resuming from step 2 of 6" in resumed.output
    assert manifest(from_the_middle)["result"]["adapter"]["sha256"] == wanted
    assert manifest(from_the_middle)["result"]["resumedFromStep"] == 2


def test_sigterm_checkpoints_ends_with_75_and_the_next_run_is_the_same_to_the_bit(tmp_path):
    sections = {"training": {"maxSteps": 120, "checkpointEvery": 110}, "method": LORA}
    stopped = workshop(tmp_path / "stopped")
    (port,) = free_ports(1)
    running = Running(tiny_job(stopped, **sections), stopped / "log.txt", port)
    running.until(port, lambda message: message.get("progress", {}).get("step", 0) >= 5)
    metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    assert 'finetune_trainer_step{job="tiny",namespace="default"}' in metrics
    asked = time.monotonic()
    running.process.terminate()
    ended = running.wait(60)
    assert ended.code == 75, ended.output
    assert time.monotonic() - asked < 20
    assert "the checkpoint of that step is in the output" in ended.output
    assert_the_next_run_is_the_same_to_the_bit(stopped, tmp_path / "straight", **sections)


def test_memory_trouble_halves_the_micro_batch_and_changes_nothing_but_speed(tmp_path):
    plain, tight = workshop(tmp_path / "plain"), workshop(tmp_path / "tight")
    sections = {"training": {"batchSize": 8, "microBatchSize": 8}, "method": {"lora": {"dropout": 0}}}
    assert run(plain, **sections).code == 0
    done = run(tight, fault="oom:2", **sections)
    assert done.code == 0, done.output
    assert "training continues with 4 rows per forward pass (batchSize stays 8)" in done.output
    assert "training continues with 2 rows per forward pass (batchSize stays 8)" in done.output
    one, other = (manifest(f)["result"]["evaluation"]["after"]["loss"] for f in (plain, tight))
    assert one == pytest.approx(other, abs=1e-3)


def test_memory_trouble_in_a_method_that_trains_the_model_itself_does_not_wrap_it_twice(tmp_path):
    plain, tight = workshop(tmp_path / "plain"), workshop(tmp_path / "tight")
    sections = {"training": {"batchSize": 8, "microBatchSize": 8}, "method": {"type": "Full", "lora": None}}
    assert run(plain, **sections).code == 0
    done = run(tight, fault="oom:4", **sections)
    assert done.code == 0, done.output
    one, other = (manifest(f)["result"]["evaluation"]["after"]["loss"] for f in (plain, tight))
    assert one == pytest.approx(other, abs=1e-3)


def test_memory_trouble_while_answering_takes_fewer_rows_at_once_and_changes_no_score(tmp_path):
    plain, tight = workshop(tmp_path / "plain"), workshop(tmp_path / "tight")
    assert run(plain).code == 0
    done = run(tight, fault="oom-answering:2")
    assert done.code == 0, done.output
    for when in ("before", "after"):
        one, other = (manifest(f)["result"]["evaluation"][when] for f in (plain, tight))
        assert one.pop("loss") == pytest.approx(other.pop("loss"), abs=1e-5)
        assert one.pop("perplexity") == pytest.approx(other.pop("perplexity"), rel=1e-5)
        assert one == other
    last = run(workshop(tmp_path / "last"), fault="oom-answering:0")
    assert last.code == 71, last.output
    assert "write a smaller spec.training.maxLength or spec.evaluation.maxNewTokens" in last.output


def test_a_single_row_that_does_not_fit_ends_with_71_and_says_what_to_change(folder):
    done = run(folder, fault="oom:0")
    assert done.code == 71
    assert "Lower maxLength, set quantization: nf4, or set gradientCheckpointing" in done.output


def test_a_loss_that_is_nan_ends_with_70_and_keeps_the_last_good_checkpoint(folder):
    done = run(folder, fault="nan:5")
    assert done.code == 70
    assert "the loss of step 5 is nan; the checkpoint of step 4 is kept" in done.output
    kept = list((folder / "out").glob("default/tiny/*/checkpoints/*/step-*/checkpoint.json"))
    assert json.loads(sorted(kept)[-1].read_text())["step"] == 4


@pytest.mark.parametrize(("budget", "words"), [
    ({"maxCost": "0.000001", "hourlyRate": "1.00"}, "budget.maxCost (0.000001 USD) is reached"),
    ({"maxDuration": "1ms"}, "budget.maxDuration was reached"),
], ids=["money", "time"])
def test_a_limit_that_is_reached_stops_training_and_publishes_what_there_is(folder, budget, words):
    done = run(folder, budget=budget)
    assert done.code == 0, done.output
    result = manifest(folder)["result"]
    assert result["outcome"] == "StoppedEarly"
    assert (result["step"], result["totalSteps"]) == (1, 6)
    assert words in result["message"]


def test_a_gate_that_is_missed_is_said_and_the_adapter_is_kept(folder):
    done = run(folder, evaluation={"gate": {"metric": "loss", "minimumGain": 100.0}})
    assert done.code == 0
    result = manifest(folder)["result"]
    assert result["outcome"] == "QualityGate"
    assert "less than the 100 that the gate demands; the adapter is published all the same" in result["message"]
    assert (published(folder) / "adapter" / "adapter_model.safetensors").exists()


def test_constrained_decoding_writes_nothing_but_the_schema(folder):
    done = run(folder, evaluation={"constrained": True, "maxNewTokens": 64, "metrics": ["jsonValid", "schemaValid"]})
    assert done.code == 0, done.output
    report = (published(folder) / "report.html").read_text()
    assert "after, constrained" in report
    assert manifest(folder)["result"]["evaluation"]["before"]["schemaValid"] == 0.0
    assert ">100.0 %<" in report.replace("\n", "")


def test_an_output_on_s3_is_published_and_a_killed_run_goes_on_there(folder, s3_server, s3_bucket):
    output = {"uri": f"s3://{s3_bucket}/adapters", "s3": {"endpointUrl": s3_server.endpoint}}
    died = run(folder, fault="kill:checkpointed-4", output=output)
    assert died.code == -signal.SIGKILL, died.output
    done = run(folder, output=output)
    assert done.code == 0, done.output
    assert "resuming from step 4 of 6" in done.output
    client = s3_server.client()
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=s3_bucket)["Contents"]]
    (found,) = [key for key in keys if key.endswith("manifest.json")]
    content = json.loads(client.get_object(Bucket=s3_bucket, Key=found)["Body"].read())
    assert content["result"]["adapter"]["uri"].startswith(f"s3://{s3_bucket}/adapters/default/tiny/")
    assert not any("checkpoints" in key or "probe" in key for key in keys)
    body = client.get_object(Bucket=s3_bucket, Key=f"{found.rpartition('/')[0]}/results/2/adapter/"
                                                   "adapter_model.safetensors")["Body"].read()
    assert hashlib.sha256(body).hexdigest() == content["result"]["adapter"]["sha256"]
    everything = done.output + died.output + json.dumps(content)
    assert not any(secret in everything for secret in s3_server.writer)


def test_credentials_that_are_wrong_end_with_73_before_anything_is_loaded(folder, s3_server, s3_bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    done = run(folder, output={"uri": f"s3://{s3_bucket}/x", "s3": {"endpointUrl": s3_server.endpoint}})
    assert done.code == 73
    assert "the secret key does not belong to the access key" in done.output
    assert "loading" not in done.output


def test_a_damaged_checkpoint_is_passed_over(folder):
    assert run(folder, fault="kill:checkpointed-4").code == -signal.SIGKILL
    (newest,) = (folder / "out").glob("default/tiny/*/checkpoints/1/step-00000004/optimizer.pt")
    newest.write_bytes(b"broken")
    done = run(folder)
    assert done.code == 0
    assert "step-00000004 is not used: optimizer.pt is damaged" in done.output
    assert "resuming from step 2 of 6" in done.output


def test_a_late_writer_adopts_the_result_that_is_there(folder):
    from finetune_api import parse_job
    from finetune_trainer.clock import SystemClock
    from finetune_trainer.publish.adoption import published_result, wanted
    from finetune_trainer.run.local import run_config
    from finetune_trainer.storage import open_storage

    assert run(folder).code == 0
    content = manifest(folder)
    config = run_config(parse_job(tiny_job(folder)))
    storage = open_storage(config.spec.output.uri, None)
    prefix = f"default/tiny/{content['uid']}"
    assert storage.create(f"{prefix}/manifest.json", b"{}") is False
    adopted = published_result(storage, prefix, wanted(config))
    assert adopted.adapter.sha256 == content["result"]["adapter"]["sha256"]
    assert SystemClock().now() - datetime.fromisoformat(content["created"]) < timedelta(minutes=5)
    assert datetime.fromisoformat(content["created"]).tzinfo == UTC


def test_an_evaluation_before_training_changes_no_gradient_and_no_weight(folder):
    """bitsandbytes repacks 4-bit weights at the first forward in eval mode on some CPUs, unless it is kept from it."""
    def after_step(evaluate_first):
        model = _base(folder, "nf4")
        from finetune_trainer.model.loading.load import weights_digest
        from peft import LoraConfig, get_peft_model

        ids = torch.tensor([[5, 80, 90, 100, 7, 8]])
        if evaluate_first:
            _logits(model)
        torch.manual_seed(0)
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
        adapted.train()
        adapted(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in adapted.parameters() if p.requires_grad])
        return gradients, weights_digest(model)

    (one, digest), (other, same) = after_step(False), after_step(True)
    assert torch.equal(one, other)
    assert digest == same


@pytest.mark.parametrize(("sections", "code", "message"), [
    ({"dataset": {"source": "file:///nowhere/rows.jsonl"}}, 66, "file:///nowhere/rows.jsonl: no such file"),
    ({"model": {"source": "file:///nowhere/model"}}, 66, "spec.model.source: file:///nowhere/model: no such folder"),
    ({"model": {"source": "nobody/no-such-model"}}, 66,
     "nobody/no-such-model is not in the local cache, and HF_HUB_OFFLINE is set"),
    ({"dataset": {"source": "hf://nobody/nothing"}}, 66, "hf://nobody/nothing can't be loaded from the hub"),
    ({"dataset": {"prompt": "{{ fact }}"}}, 64, "no row has a column fact; the columns are facts, label"),
    ({"dataset": {"prompt": "{{ ''.__class__ }}"}}, 64, "may use the row's columns and nothing of Python"),
    ({"dataset": {"completion": "no JSON"}}, 65, "40 rows can't be used: train row"),
    ({"method": {"lora": {"targetModules": ["q_prj"]}}}, 64,
     "no linear layer is named q_prj; did you mean q_proj? The names that exist: down_proj, gate_proj, k_proj"),
    ({"training": {"precision": "bfloat16"}}, 64, "on a CPU the trainer computes in float32"),
    ({"output": {"uri": "file:///proc/nothing"}}, 73, "can't be written"),
    ({"output": {"uri": "pvc://claim/out"}}, 64, "the claim claim is not mounted at"),
    ({"dataset": {"answerFormat": {"schema": {"type": "nonsense"}}}}, 64, "not a valid JSON Schema"),
], ids=lambda value: None if isinstance(value, dict | int) else value[:30])
def test_bad_input_ends_with_its_code_and_a_sentence_and_leaves_what_is_published(tmp_path, sections, code, message,
                                                                                 shared_folder):
    before = _files(shared_folder)
    done = run(shared_folder, **sections)
    assert done.code == code, done.output
    assert message in done.output
    assert "Traceback" not in done.output
    assert _files(shared_folder) == before


def _files(folder):
    return sorted((path, path.stat().st_mtime_ns) for path in (folder / "out").rglob("*")
                  if path.is_file() and "checkpoints" not in path.parts)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder in which one job is published already."""
    folder = workshop(tmp_path_factory.mktemp("shared") / "work")
    assert run(folder).code == 0
    return folder


def test_weights_that_are_a_pickle_are_refused(folder):
    for path in (folder / "model").glob("*.safetensors"):
        path.rename(folder / "model" / "pytorch_model.bin")
    done = run(folder)
    assert done.code == 64
    assert "are a pickle (pytorch_model.bin), which can run code when it is read" in done.output


def test_a_bad_row_in_the_middle_and_an_empty_data_set_end_with_65(folder):
    lines = (folder / "rows.jsonl").read_text().splitlines()
    lines[20] = '{"facts": '
    (folder / "rows.jsonl").write_text("\n".join(lines))
    done = run(folder)
    assert (done.code, "rows.jsonl line 21: not valid JSON" in done.output) == (65, True)
    (folder / "rows.jsonl").write_text("")
    assert run(folder).code == 65


def test_a_disk_that_fills_up_in_mid_run_ends_with_73_and_a_published_result_stays(folder):
    """A file system of 2 MiB stands for the full disk."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root can mount the small file system that fills up")
    (folder / "out").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder / "out")],
                             capture_output=True, text=True, check=False)
    assert mounted.returncode == 0, mounted.stderr
    try:
        assert run(folder, method={"lora": {"rank": 2}}).code == 0
        content = manifest(folder)
        done = run(folder, method={"lora": {"rank": 128}})
        assert done.code == 73, done.output
        assert "can't be written: No space left on device; free some space" in done.output
        assert manifest(folder) == content
        (home,) = (folder / "out").glob(f"default/tiny/{content['uid']}")
        for file in content["files"]:
            assert hashlib.sha256((home / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    finally:
        subprocess.run(["umount", str(folder / "out")], check=True)
