"""Models that are built or written otherwise than most: which of their layers are trained, and what is published."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import transformers
from finetune_api.exit_codes import ExitCode
from finetune_api.spec.method import PartialSpec, Quantization
from finetune_trainer.errors import BadConfig
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.files.weights import Tensor
from finetune_trainer.model.loading.base import open_base
from finetune_trainer.model.structure.layers import chosen_parameters, decoder_layers, text_parameters
from finetune_trainer.model.structure.targets import ia3_targets_by_name, linear_names, target_modules
from finetune_trainer.model.tokenizer import load_tokenizer
from finetune_trainer.run.preflight import preflight
from finetune_trainer.trained_model.whole_model import save_whole
from peft import LoraConfig, get_peft_model

from tests.models import save_tiny_family, save_tiny_model, tiny_tokenizer, write_rows
from tests.trainer.runs import lora, published
from tests.trainer.test_families import run_here
from tests.trainer.test_preflight import config

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def multimodal():
    """A tiny model that reads images too, without storage for its weights."""
    settings = transformers.Gemma3Config(
        text_config={**SIZES, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300},
        vision_config={**SIZES, "image_size": 16, "patch_size": 8}, mm_tokens_per_image=4)
    with torch.device("meta"):
        return transformers.Gemma3ForConditionalGeneration(settings)


def test_adapters_of_a_multimodal_model_are_in_its_text_decoder_alone(multimodal):
    assert "fc1" not in linear_names(multimodal)
    for wanted in (None, ["q_proj"]):
        names = target_modules(multimodal, wanted, "spec.method.lora")
        assert names and all(".language_model." in name for name in names)
    adapted = get_peft_model(multimodal, LoraConfig(target_modules=names), autocast_adapter_dtype=False)
    trained = [name for name, one in adapted.named_parameters() if one.requires_grad]
    assert len(trained) == 4 and not any("vision" in name for name in trained)
    adapted.unload()


def test_partial_and_full_leave_the_vision_of_a_multimodal_model_alone(multimodal):
    assert decoder_layers(multimodal)[0].startswith("model.language_model")
    names = text_parameters(multimodal)
    assert {"model.language_model.embed_tokens.weight", "model.language_model.norm.weight"} < set(names)
    assert not any("vision" in name or "projector" in name for name in names)
    assert not any("vision" in name for name in chosen_parameters(multimodal, PartialSpec(parameters=("*norm*",))))
    assert all(".layers.1." in name for name in chosen_parameters(multimodal, PartialSpec(last_layers=1)))
    with pytest.raises(BadConfig, match="matches no parameter"):
        chosen_parameters(multimodal, PartialSpec(parameters=("*vision*",)))


def test_layers_whose_weights_lie_the_other_way_round_are_adapted_and_merged(tmp_path):
    save_tiny_family(tmp_path / "model", "gpt2")
    write_rows(tmp_path / "rows.jsonl", 12)
    run_here(tmp_path, method=lora(targetModules=["c_attn"]), training={"maxSteps": 2}, evaluation={"samples": 1},
             output={"uri": f"file://{tmp_path}/out", "exports": ["adapter", "merged"]})
    base, merged = (transformers.AutoModelForCausalLM.from_pretrained(place)
                    for place in (tmp_path / "model", published(tmp_path) / "merged"))
    apart = {name for name, one in merged.state_dict().items() if not torch.equal(one, base.state_dict()[name])}
    assert apart == {f"transformer.h.{layer}.attn.c_attn.weight" for layer in (0, 1)}
    assert linear_names(base) == ["c_attn", "c_fc", "c_proj"]


def test_attention_that_sdpa_cannot_compute_is_computed_eagerly(tmp_path):
    save_tiny_family(tmp_path / "model", "gemma2", head_dim=16)
    write_rows(tmp_path / "rows.jsonl", 12)
    assert run_here(tmp_path, training={"maxSteps": 1}, evaluation={"samples": 1})


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"top_p": 0.9, "do_sample": False},
                                      {"num_beams": 1, "early_stopping": True, "length_penalty": 0.5}])
def test_settings_of_generation_that_transformers_reads_but_does_not_write_are_published_mended(tmp_path, settings):
    save_tiny_model(tmp_path / "model")
    (tmp_path / "model/generation_config.json").write_text(json.dumps({"eos_token_id": 0, **settings}))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    save_whole(model, tiny_tokenizer(), tmp_path / "out")
    written = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert written.eos_token_id == 0
    if "temperature" in settings:
        assert (written.do_sample, written.temperature) == (True, 0.7)


def test_a_generation_config_that_cannot_be_parsed_stops_no_job(tmp_path):
    save_tiny_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "model/generation_config.json").write_text("{oops")
    checked = preflight(config(tmp_path), lambda text: None)
    assert checked.code == ExitCode.OK, checked.result.message


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "config.json", "tokenizer.json"])
def test_a_file_of_the_model_that_is_a_list_is_named_before_the_run(tmp_path, name):
    save_tiny_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "model" / name).write_text("[1]")
    checked = preflight(config(tmp_path), lambda text: None)
    assert checked.code == ExitCode.BAD_CONFIG
    assert f"the {name} of " in checked.result.message
    assert "holds a list; it must be a JSON object" in checked.result.message


def test_bitsandbytes_writes_nothing_when_it_is_imported():
    done = subprocess.run([sys.executable, "-c", "import finetune_trainer, bitsandbytes, logging; "
                           "logging.getLogger('bitsandbytes.backends.cpu.ops').warning("
                           "'Failed to load CPU gemm_4bit_forward from kernels-community: %s', 'x'); "
                           "logging.getLogger('bitsandbytes.backends.cpu.ops').warning('another')"],
                          capture_output=True, text=True, check=True)
    assert done.stderr == "another\n"


def test_a_token_that_the_model_has_no_embedding_for_is_named_before_the_run(tmp_path):
    save_tiny_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.add_tokens(["theft"])
    tokenizer.save_pretrained(tmp_path / "model")
    checked = preflight(config(tmp_path), lambda text: None)
    assert checked.code == ExitCode.BAD_CONFIG
    assert "writes 'theft' as token 259, and the model has embeddings for tokens 0 to 258" in checked.result.message


def test_a_pad_token_that_the_model_has_no_embedding_for_is_not_padded_with(tmp_path):
    save_tiny_model(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path / "model")
    assert load_tokenizer(ModelFiles(tmp_path / "model", "")).pad_token == "<|end|>"


@pytest.mark.parametrize(("name", "content", "words"), [
    (None, "", "has no tokenizer (tokenizer.json)"),
    ("tokenizer.model", "\x0a\x0b", "is tokenizer.model, which needs the package sentencepiece"),
    ("tokenizer.json", "{}", "can't be loaded: "),
    ("tokenizer.json", '{"model": {"type": "None of them"}}', "can't be loaded: "),
    ("tokenizer.json", "[" * 5000, "can't be loaded: "),
], ids=["none", "sentencepiece", "empty", "another type", "nested"])
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path, name, content, words):
    save_tiny_model(tmp_path / "model")
    (tmp_path / "model/tokenizer.json").unlink()
    if name:
        (tmp_path / "model" / name).write_text(content)
    with pytest.raises(BadConfig, match=r"^spec\.model\.source: the tokenizer|has no tokenizer") as refused:
        load_tokenizer(ModelFiles(tmp_path / "model", ""))
    assert words in str(refused.value)


def test_a_tokenizer_that_fails_when_it_is_first_used_is_named(tmp_path):
    save_tiny_model(tmp_path / "model")
    path = tmp_path / "model/tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": [1]}))
    with pytest.raises(BadConfig, match=r"^spec\.model\.source: the tokenizer of model can't be loaded"):
        load_tokenizer(ModelFiles(tmp_path / "model", ""))


@pytest.mark.parametrize(("family", "values", "words"), [
    ("llama", {"hidden_size": "64"}, "hidden_size"), ("llama", {"num_attention_heads": 0}, "can't be loaded"),
    ("llama", {"rope_scaling": {"rope_type": "none such", "factor": 2.0}}, "can't be loaded"),
    ("gemma2", {"layer_types": ["none such"] * 2}, "layer"), ("llama", {"dtype": 1.5}, "can't be loaded"),
])
def test_a_configuration_that_no_model_can_be_made_by_is_refused(tmp_path, family, values, words):
    save_tiny_family(tmp_path / "model", family, **({"head_dim": 16} if family == "gemma2" else {}))
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(BadConfig, match=r"^spec\.model\.source: ") as refused:
        base = open_base(tmp_path / "model", "model")
        base.check({name: Tensor("F32", tuple(one.shape)) for name, one in base.empty().state_dict().items()},
                   Quantization.NONE)
    assert words in str(refused.value)


@pytest.mark.parametrize(("family", "targets"), [("olmo2", ["k_proj", "v_proj", "down_proj"]), ("phi3", None)])
def test_ia3_scales_keys_values_and_the_end_of_the_feed_forward_part_where_all_three_exist(tmp_path, family, targets):
    model = transformers.AutoModelForCausalLM.from_pretrained(save_tiny_family(tmp_path, family))
    assert ia3_targets_by_name(model) == targets
