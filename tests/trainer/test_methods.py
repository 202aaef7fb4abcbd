"""Every method beside plain LoRA and DoRA: trained, killed and resumed, published, and read back."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from finetune_api import parse_job, resolve_defaults
from finetune_api.estimate import read_architecture
from finetune_api.estimate.trained import trained_by
from finetune_api.spec.method import MethodType, Quantization
from finetune_api.spec.training import Precision
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.prepare import prepare
from finetune_trainer.evaluation.generate import GenerationSettings, generate
from finetune_trainer.evaluation.loss import answer_losses, mean_loss
from finetune_trainer.hardware.device import choose_device
from finetune_trainer.load import load_bottleneck, load_partial
from finetune_trainer.methods import METHODS as METHODS_BY_TYPE
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.loading.load import load_model, weights_digest
from finetune_trainer.model.tokenizer import load_tokenizer
from finetune_trainer.run.local import LocalOptions, run_job
from finetune_trainer.training.answers_only import AnswersOnly
from rich.console import Console
from safetensors.torch import load_file

from tests.models import save_tiny_model, tiny_job
from tests.trainer.cards import assert_answered_as_scored, run_card
from tests.trainer.runs import MORE_METHODS, lora, manifest, partial, published, run, workshop

FOLDERS = {"Full": "model", "Partial": "changed"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with rows and a model that has biases."""
    folder = workshop(tmp_path_factory.mktemp("place") / "work")
    save_tiny_model(folder / "model", biases=True)
    return folder


def base_model(folder, quantization="none"):
    return load_model(ModelFiles(folder / "model", ""), Quantization(quantization), choose_device(Precision.AUTO))


def loss_of(folder, model, scratch, **sections):
    """The loss on the job's held-out rows, measured row by row, where an evaluation takes them together."""
    spec = resolve_defaults(parse_job(tiny_job(folder, **sections)).spec)
    tokenizer = load_tokenizer(ModelFiles(folder / "model", ""))
    rows = prepare(spec, ChatFormat(tokenizer, None), scratch).held_out
    tokens = [row.tokens for row in rows]
    return mean_loss(answer_losses(model.eval(), tokens, tokenizer.pad_token_id, len(tokenizer), 1, lambda: None),
                     tokens)


def read_back(place, folder, method):
    """The published model, by PEFT, transformers, or our own loader."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    where = published(folder)
    if method["type"] == "Full":
        return AutoModelForCausalLM.from_pretrained(where / "model")
    model = base_model(place, method.get("quantization", "none"))
    if method["type"] == "Partial":
        load_partial(model, where / "changed")
        return model
    if method.get("additive", {}).get("technique") == "Bottleneck":
        load_bottleneck(model, where / "adapter")
        return model
    return PeftModel.from_pretrained(model, where / "adapter")


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # PEFT's, of prompt tuning
@pytest.mark.parametrize("name", MORE_METHODS)
def test_a_method_learns_resumes_to_the_same_bytes_and_is_read_back_with_the_same_loss(place, tmp_path, name):
    method = MORE_METHODS[name]
    sections = {"method": method, "output": {"uri": f"file://{tmp_path}/straight/out"}}
    straight = run(place, **sections)
    assert straight.code == 0, straight.output
    result = manifest(tmp_path / "straight")["result"]
    before, after = (result["evaluation"][when]["loss"] for when in ("before", "after"))
    assert after < before

    sections["output"] = {"uri": f"file://{tmp_path}/killed/out"}
    died = run(place, fault="kill:checkpointed-4", **sections)
    assert died.code == -signal.SIGKILL, died.output
    resumed = run(place, **sections)
    assert resumed.code == 0, resumed.output
    assert "resuming from step 4 of 6" in resumed.output
    assert manifest(tmp_path / "killed")["result"]["adapter"]["sha256"] == result["adapter"]["sha256"]

    torch.manual_seed(0)
    read = loss_of(place, read_back(place, tmp_path / "straight", method), tmp_path, method=method)
    assert read == pytest.approx(after, abs=2e-5)
    path = published(tmp_path / "straight") / FOLDERS.get(method["type"], "adapter") / "README.md"
    card = path.read_text()
    spec = resolve_defaults(parse_job(tiny_job(place, method=method)).spec)
    model = read_architecture(json.loads((place / "model" / "config.json").read_text()))
    assert f"| trained parameters | {trained_by(spec.method, model).parameters:,} (" in card, "as the estimate says"
    names = run_card(path, tmp_path / "elsewhere")
    # Elsewhere than in a run bitsandbytes packs 4-bit weights anew for processors with bfloat16, and rounds to it.
    rounding = 2e-3 if method.get("quantization") == "nf4" else 2e-5
    assert loss_of(place, names["model"], tmp_path, method=method) == pytest.approx(after, abs=rounding)
    assert_answered_as_scored(names)


def test_the_weights_of_partial_are_what_was_chosen_and_all_else_stays_as_it_was(place, tmp_path):
    method = partial(parameters=["*.bias", "model.norm.weight"])
    done = run(place, method=method, output={"uri": f"file://{tmp_path}/out", "exports": ["adapter", "merged"]})
    assert done.code == 0, done.output
    changed = load_file(published(tmp_path) / "changed" / "changed.safetensors")
    base = base_model(place).state_dict()
    assert sorted(changed) == sorted(name for name in base if name.endswith(".bias") or name == "model.norm.weight")
    assert all((base[name] != value).any() for name, value in changed.items())
    said = json.loads((published(tmp_path) / "changed" / "changed.json").read_text())
    assert said == {"baseModel": f"file://{place}/model", "revision": None, "parameters": sorted(changed),
                    "chosen": {"parameters": ["*.bias", "model.norm.weight"]}}
    merged = load_file(published(tmp_path) / "merged" / "model.safetensors")
    assert set(merged) == set(base)
    for name, value in merged.items():
        assert torch.equal(value, changed.get(name, base[name])), name
    other = save_tiny_model(tmp_path / "other", hidden=32)
    with pytest.raises(ValueError, match="is that the base model that"):
        load_partial(load_model(ModelFiles(other, ""), Quantization.NONE, choose_device(Precision.AUTO)),
                     published(tmp_path) / "changed")


@pytest.mark.parametrize(("method", "message"), [
    (partial(lastLayers=3), "spec.method.partial.lastLayers is 3; the model has 2 layers, numbered from 0 to 1"),
    (partial(layers=[0, 2]), "spec.method.partial.layers is [0, 2]; the model has 2 layers"),
    (partial(parameters=["*.bias", "*adapter*"]), "spec.method.partial.parameters: *adapter* matches no "
     "parameter; the names that exist: model.embed_tokens.weight, model.layers.*.self_attn.q_proj.weight"),
], ids=["too many layers", "a layer that is not there", "a pattern that fits nothing"])
def test_what_a_model_does_not_have_ends_with_64_and_says_what_there_is(place, tmp_path, method, message):
    done = run(place, method=method, output={"uri": f"file://{tmp_path}/out"})
    assert done.code == 64, done.output
    assert message in done.output
    assert "Traceback" not in done.output


@pytest.fixture
def run_here(place, tmp_path, monkeypatch):
    """Runs the tiny job in this process: what was trained, and the digest of the base weights before it."""
    def run_it(method, **sections):
        caught = []

        def spy(run):
            caught.extend([train(run), run.identity.base_hash])
            return caught[0]

        kind = MethodType(method["type"])
        train = METHODS_BY_TYPE[kind].train
        monkeypatch.setitem(METHODS_BY_TYPE, kind, replace(METHODS_BY_TYPE[kind], train=spy))
        job = parse_job(tiny_job(place, method=method, output={"uri": f"file://{tmp_path}/out"}, **sections))
        before = signal.getsignal(signal.SIGTERM)
        try:
            assert run_job(job, Console(quiet=True), LocalOptions(rerun=True)) == 0
        finally:
            signal.signal(signal.SIGTERM, before)
            monkeypatch.undo()
        return caught[0].trained_model, caught[1]

    return run_it


@pytest.mark.parametrize("name", [name for name in MORE_METHODS if MORE_METHODS[name]["type"] == "Additive"])
def test_an_additive_method_leaves_every_bit_of_the_base_as_it_was(run_here, name):
    trained_model, before = run_here(MORE_METHODS[name])
    assert weights_digest(trained_model.causal) == before


@pytest.mark.parametrize("name", ["prompt tuning", "prefix tuning", "prefix tuning nf4", "IA3", "bottleneck"])
def test_answers_of_a_padded_batch_are_those_of_each_question_alone_and_without_a_cache(run_here, name):
    trained_model, _ = run_here(MORE_METHODS[name], training={"learningRate": 0.05})
    model = trained_model.model.eval()
    questions = [(5, 80, 90), (5, 80, 90, 100, 7, 8, 70, 60), tuple(range(40, 60))]
    done = generate(model, questions, GenerationSettings((0,), pad_id=0, max_new_tokens=6, batch_size=3), lambda: None)
    for question, answer in zip(questions, done.answers, strict=True):
        ids = list(question)
        for _ in range(6):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            if int(logits.argmax()) == 0:
                break
            ids.append(int(logits.argmax()))
        assert tuple(ids[len(question):]) == answer


@pytest.mark.parametrize("name", ["prompt tuning", "prefix tuning", "bottleneck"])
def test_the_head_sees_the_answers_alone_also_behind_virtual_tokens(run_here, name):
    trained_model, _ = run_here(MORE_METHODS[name])
    ids = torch.arange(40, 64).reshape(2, 12)
    labels = ids.clone()
    labels[0, :5] = labels[1, :8] = labels[1, 11:] = -100
    positions = torch.arange(12).expand(2, 12)
    with torch.inference_mode():
        whole = trained_model.model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, -12:]
        with AnswersOnly(trained_model.causal).narrowed({"input_ids": ids, "labels": labels}) as inputs:
            narrow = trained_model.model(input_ids=ids, position_ids=positions, use_cache=False).logits
    wanted = whole[:, :-1][labels[:, 1:] != -100]
    assert torch.equal(inputs["shift_labels"][0], labels[:, 1:][labels[:, 1:] != -100])
    torch.testing.assert_close(narrow[0], wanted)


ONE_STEP = {"maxSteps": 1, "warmup": 0, "scheduler": "constant", "learningRate": 0.001}


@pytest.mark.parametrize(("name", "ratio"), [("LoRA+", 8.0), ("DoRA+", 8.0), ("PiSSA", 1.0)])
def test_b_learns_as_many_times_faster_as_the_ratio_says(run_here, name, ratio):
    """Adam's first step moves every number by the learning rate, whatever its gradient."""
    trained_model, _ = run_here(MORE_METHODS[name], training={**ONE_STEP, "maxGradNorm": 1000.0})
    again, _ = run_here(MORE_METHODS[name], training={**ONE_STEP, "learningRate": 1e-12})
    first = dict(again.model.named_parameters())
    for parameter, value in trained_model.model.named_parameters():
        if value.requires_grad and (moved := (value - first[parameter]).abs().max()) > 1e-6:
            rate = 0.001 * (ratio if ".lora_B." in parameter else 1)
            assert float(moved) == pytest.approx(rate, rel=0.02), parameter


def test_pissa_starts_from_the_same_model_and_is_published_as_a_lora_of_twice_the_rank(place, tmp_path):
    first_losses = []
    for number, method in enumerate((lora(), lora(initialization="pissa"))):
        done = run(place, method=method, output={"uri": f"file://{tmp_path}/{number}/out"})
        assert done.code == 0, done.output
        log = (published(tmp_path / str(number)) / "metrics.jsonl").read_text().splitlines()
        first_losses.append(next(json.loads(line)["loss"] for line in log if "loss" in line))
    assert first_losses[1] == pytest.approx(first_losses[0], abs=1e-4)
    config = json.loads((published(tmp_path / "1") / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 16, True)


def test_loftq_starts_nearer_to_the_weights_before_their_quantization(place, run_here):
    trained_model, before = run_here(MORE_METHODS["LoftQ"], training={**ONE_STEP, "learningRate": 1e-12})
    assert weights_digest(trained_model.causal) == before, "the adapter has to fit any nf4 copy of the base"
    weights = base_model(place).state_dict()
    for name, layer in trained_model.causal.named_modules():
        if hasattr(layer, "lora_A"):
            stored = layer.get_base_layer().weight
            error = weights[f"{name}.weight"] - dequantize_4bit(stored.data, stored.quant_state)
            left = error - layer.get_delta_weight("default")
            best = torch.linalg.svdvals(error)[4:].square().sum().sqrt()
            assert float(left.norm()) == pytest.approx(float(best), rel=0.01)


@pytest.mark.parametrize("name", ["IA3", "IA3 nf4", "IA3 int8", "PiSSA", "LoftQ"])
def test_a_merged_export_is_the_model_that_was_evaluated(place, tmp_path, name):
    from transformers import AutoModelForCausalLM

    done = run(place, method=MORE_METHODS[name],
               output={"uri": f"file://{tmp_path}/out", "exports": ["adapter", "merged"]})
    assert done.code == 0, done.output
    merged = AutoModelForCausalLM.from_pretrained(published(tmp_path) / "merged")
    after = manifest(tmp_path)["result"]["evaluation"]["after"]["loss"]
    # LLM.int8() also rounds activations, which a merged model in float32 does not.
    rounding = 1e-2 if "int8" in name else 2e-5
    assert loss_of(place, merged, tmp_path, method=MORE_METHODS[name]) == pytest.approx(after, abs=rounding)


@pytest.mark.parametrize("name", ["Full", "last layer", "BitFit", "IA3", "prompt tuning", "bottleneck nf4"])
def test_recomputed_activations_change_nothing_but_memory(place, tmp_path, name):
    losses = []
    for toggle in ("disabled", "enabled"):
        done = run(place, method=MORE_METHODS[name], output={"uri": f"file://{tmp_path}/{toggle}/out"},
                   training={"gradientCheckpointing": toggle})
        assert done.code == 0, done.output
        losses.append(manifest(tmp_path / toggle)["result"]["evaluation"]["after"]["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
