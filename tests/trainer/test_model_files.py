"""Models whose files are not what their configuration says: refused by name, before weights are made up."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from finetune_api.exit_codes import ExitCode
from finetune_api.spec.method import Quantization
from finetune_trainer.errors import TrainerError
from finetune_trainer.hardware.device import Device
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.loading.load import load_model
from finetune_trainer.run.preflight import preflight
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.trainer.runs import workshop
from tests.trainer.test_preflight import config

CPU = Device(torch.device("cpu"), torch.float32)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the tiny model and rows."""
    return workshop(tmp_path_factory.mktemp("files"))


@pytest.fixture
def model(folder, tmp_path):
    """A copy of the tiny model, to be damaged."""
    return shutil.copytree(folder / "model", tmp_path / "model")


def change_config(model, **values):
    path = model / "config.json"
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def change_weights(model, change):
    save_file(change(load_file(model / WEIGHTS)), model / WEIGHTS, metadata={"format": "pt"})


def renamed(model):
    change_weights(model, lambda tensors: {name.replace("q_proj", "query"): one for name, one in tensors.items()})


def headless(model):
    change_config(model, architectures=["LlamaModel"])
    change_weights(model, lambda tensors: {name.removeprefix("model."): one for name, one in tensors.items()
                                           if name != "lm_head.weight"})


def classifier(model):
    change_config(model, architectures=["LlamaForSequenceClassification"])
    change_weights(model, lambda tensors: {"score.weight": torch.zeros(2, 64), **{
        name: one for name, one in tensors.items() if name != "lm_head.weight"}})


def quantized_in_silence(model):
    change_weights(model, lambda tensors: {name.replace("proj.weight", "proj.qweight"): one
                                           for name, one in tensors.items()})


def sharded(model):
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(model, max_shard_size="120KB")
    (model / WEIGHTS).unlink(missing_ok=True)
    return sorted(model.glob("model-*.safetensors"))


def without_a_shard(model):
    sharded(model)[1].unlink()


def without_index(model):
    sharded(model)
    (model / INDEX).unlink()


def stale_index(model):
    sharded(model)
    content = json.loads((model / INDEX).read_text())
    content["weight_map"].pop("model.norm.weight")
    (model / INDEX).write_text(json.dumps(content))


def index_of_another_model(model):
    first = sharded(model)[0]
    content = json.loads((model / INDEX).read_text())
    content["weight_map"]["model.layers.7.mlp.up_proj.weight"] = first.name
    (model / INDEX).write_text(json.dumps(content))


def cut_off(model):
    content = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(content[:-1000])


def pointer(model):
    (model / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def beside_an_adapter(model):
    (model / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}')


def an_adapter(model):
    beside_an_adapter(model)
    for name in ("config.json", WEIGHTS):
        (model / name).unlink()


def encoder(model):
    change_config(model, model_type="bert", architectures=["BertForMaskedLM"])


def stored_as(**settings):
    return lambda model: change_config(model, quantization_config=settings)


def integers(model):
    change_weights(model, lambda tensors: {name: one.mul(10).to(torch.int8) if name.endswith("proj.weight") else one
                                           for name, one in tensors.items()})


UNFIT = {
    "renamed": (renamed, 64, ("2 weights", "model.layers.0.self_attn.q_proj.weight", "not in its files")),
    "headless": (headless, 64, ("lm_head.weight", "config.json calls the model a LlamaModel")),
    "classifier": (classifier, 64, ("lm_head.weight", "LlamaForSequenceClassification")),
    "quantized in silence": (quantized_in_silence, 64, ("14 weights", "and 9 more", "they are stored quantized")),
    "integers": (integers, 64, ("weights that are integers (I8): model.layers.0.mlp.down_proj.weight",
                                "and config.json")),
    "configuration that is a page": (lambda model: (model / "config.json").write_text("<html>"), 64,
                                     ("the config.json of ", "can't be loaded")),
    "wrong value": (lambda model: change_config(model, num_hidden_layers="2"), 64,
                    ("the config.json of ", "Validation error for field 'num_hidden_layers': ")),
    "unknown name": (lambda model: change_config(model, hidden_act="banana"), 64, ("'banana' is not known",)),
    "more layers": (lambda model: change_config(model, num_hidden_layers=3), 64,
                    ("model.layers.2.", "has 3 layers, and the files may have fewer")),
    "fewer layers": (lambda model: change_config(model, num_hidden_layers=1), 64,
                     ("9 weights that a LlamaForCausalLM does not have: model.layers.1.",)),
    "another width": (lambda model: change_config(model, intermediate_size=96), 64,
                      ("6 weights have another shape", "(64, 128) and not (64, 96)")),
    "missing shard": (without_a_shard, 66, ("lists files that are not there: model-00002-of-",)),
    "no index": (without_index, 66, ("but neither model.safetensors nor model.safetensors.index.json",)),
    "stale index": (stale_index, 66, ("does not list weights that its files contain: model.norm.weight",)),
    "another index": (index_of_another_model, 66, ("lists weights that its files do not contain: model.layers.7.",)),
    "cut off": (cut_off, 66, ("is incomplete", "download the model again")),
    "empty": (lambda model: (model / WEIGHTS).write_bytes(b""), 66, ("is not a safetensors file",)),
    "pointer": (pointer, 66, ("is a Git LFS pointer", "git lfs pull")),
    "beside an adapter": (beside_an_adapter, 64, ("contains an adapter", "remove adapter_config.json")),
    "an adapter": (an_adapter, 64, ("is an adapter, not a model; write its base, org/base",)),
    "encoder": (encoder, 64, ("BertForMaskedLM", "not a causal language model")),
    "encoder and decoder": (lambda model: change_config(model, model_type="t5", architectures=["T5Model"]), 64,
                            ("T5Model, not a causal language model",)),
    "code of its own": (lambda model: change_config(model, model_type="mine", auto_map={"AutoConfig": "x.Y"}), 64,
                        ("needs its own code (model_type mine)",)),
    "no list of architectures": (lambda model: change_config(model, architectures=3, num_hidden_layers=3), 64,
                                 ("",)),
    "no type": (lambda model: change_config(model, model_type=None), 64, ("model_type",)),
    "layers without end": (lambda model: change_config(model, num_hidden_layers=10**9), 64,
                           ("layers; it must have 1 to 1000",)),
    "GPTQ": (stored_as(quant_method="gptq", bits=4), 64,
             ("stored as GPTQ", "take the model that it was quantized from")),
    "AWQ": (stored_as(quant_method="awq", bits=4), 64, ("stored as AWQ",)),
    "FP8": (stored_as(quant_method="fp8"), 64, ("stored as FP8",)),
    "nf4 for none": (stored_as(quant_method="bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4"), 64,
                     ("spec.method.quantization is none; the weights", "Write nf4")),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_model_whose_files_are_not_what_its_configuration_says_is_refused_by_name(folder, model, case):
    damage, code, words = UNFIT[case]
    damage(model)
    with pytest.raises(TrainerError) as refused:
        load_model(ModelFiles(model, ""), Quantization.NONE, CPU)
    checked = preflight(config(folder, model={"source": f"file://{model}"}), lambda text: None)
    assert (refused.value.exit_code, checked.code) == (code, code), (refused.value, checked.result.message)
    for text in (str(refused.value), checked.result.message):
        assert text.startswith("spec.m")
        assert all(word in text for word in words), text


def test_weights_that_are_tied_or_computed_need_not_be_in_the_files(folder, model):
    change_config(model, tie_word_embeddings=True)
    change_weights(model, lambda tensors: {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        **{name: one for name, one in tensors.items() if name != "lm_head.weight"}})
    loaded = load_model(ModelFiles(model, ""), Quantization.NONE, CPU)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    checked = preflight(config(folder, model={"source": f"file://{model}"}), lambda text: None)
    assert checked.code == ExitCode.OK, checked.result.message


def test_a_model_in_several_files_is_whole(folder, model):
    assert len(sharded(model)) > 2
    load_model(ModelFiles(model, ""), Quantization.NONE, CPU)
    checked = preflight(config(folder, model={"source": f"file://{model}"}), lambda text: None)
    assert checked.code == ExitCode.OK, checked.result.message


@pytest.mark.parametrize("stored", [
    {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
     "bnb_4bit_compute_dtype": "bfloat16"},
    {"load_in_8bit": True},
], ids=["nf4", "doubly", "int8"])
def test_weights_that_bitsandbytes_stored_are_trained_on_as_they_are(folder, model, stored):
    kind = Quantization.INT8 if "load_in_8bit" in stored else Quantization.NF4
    whole = AutoModelForCausalLM.from_pretrained(model, quantization_config=BitsAndBytesConfig(**stored),
                                                 device_map={"": "cpu"})
    whole.save_pretrained(model)
    ids = torch.tensor([[5, 6, 7, 8]])
    loaded = load_model(ModelFiles(model, ""), kind, CPU)
    assert torch.allclose(loaded(input_ids=ids).logits, whole(input_ids=ids).logits, atol=1e-2)
    method = {"quantization": str(kind)}
    checked = preflight(config(folder, model={"source": f"file://{model}"}, method=method), lambda text: None)
    assert checked.code == ExitCode.OK, checked.result.message
