"""The rehearsal in preflight: what would end a run after it began is found with a small copy of its model."""

from __future__ import annotations

import pytest
import torch
import transformers
from finetune_api.exit_codes import ExitCode
from finetune_trainer.model.structure.small_copy import looks_ahead, small_configs, small_enough
from finetune_trainer.run.preflight import preflight

from tests.models import save_tiny_family, write_rows
from tests.trainer.runs import additive, lora, partial
from tests.trainer.test_preflight import config

WIDE = {"vocab_size": 150_000, "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64}


def checked(folder, family, method, **settings):
    save_tiny_family(folder / "model", family, **settings)
    write_rows(folder / "rows.jsonl", 12)
    return preflight(config(folder, method=method), lambda text: None)


@pytest.mark.parametrize(("family", "method", "words"), [
    ("opt", additive("Bottleneck", bottleneckSize=8), "no bottleneck can be put into OPTForCausalLM"),
    ("mamba", additive("PrefixTuning", virtualTokens=4), "spec.method"),
    ("mamba", lora(targetModules=["out_proj"]), "no linear layer is named out_proj"),
    ("llama", partial(parameters=["*.bias"]), "*.bias matches no parameter"),
    ("llama", partial(layers=[7]), "the model has 2 layers"),
], ids=["bottleneck", "prefix", "bypassed layer", "parameters", "layer"])
def test_a_method_that_an_architecture_cannot_have_is_refused_before_the_run(tmp_path, family, method, words):
    answer = checked(tmp_path, family, method)
    assert answer.code == ExitCode.BAD_CONFIG, answer.result.message
    assert answer.result.message.startswith("spec.") and words in answer.result.message


@pytest.mark.parametrize(("family", "method"), [
    ("mamba", lora()), ("qwen3", {"type": "ReFT", "lora": None}), ("gpt2", additive("IA3")),
    ("llama", lora(targetModules=["layers.1.self_attn.q_proj"], quantization="nf4"))],
    ids=["states", "ReFT", "IA3", "one layer"])
def test_a_method_that_an_architecture_can_have_passes(tmp_path, family, method):
    chains = {"completion": "it is {{ label.level }}\n#### {{ label.level }}", "answerFormat": None}
    save_tiny_family(tmp_path / "model", family)
    write_rows(tmp_path / "rows.jsonl", 12)
    answer = preflight(config(tmp_path, method=method, dataset=chains), lambda text: None)
    assert answer.code == ExitCode.OK, answer.result.message
    # The run turns packing off for a model that mixes rows, so the check says so, and estimates it.
    assert ("spec.training.packing: " in answer.result.message) is (family == "mamba")


def test_a_model_that_looks_at_later_tokens_is_rejected(tmp_path):
    answer = checked(tmp_path, "gemma3_text", lora(), head_dim=16, use_bidirectional_attention=True)
    assert answer.code == ExitCode.BAD_CONFIG
    assert "also looks at later tokens" in answer.result.message


@pytest.mark.parametrize(("family", "settings"), [
    ("llama", {"num_hidden_layers": 80, "num_key_value_heads": 8}),
    ("qwen3_moe", {"num_hidden_layers": 94, "num_key_value_heads": 4, "num_experts": 128, "head_dim": 128}),
    ("qwen3_next", {"num_hidden_layers": 48, "num_key_value_heads": 2, "head_dim": 256}),
    ("gemma2", {"num_hidden_layers": 46, "num_key_value_heads": 16, "head_dim": 128}),
    ("jamba", {"num_hidden_layers": 72, "num_key_value_heads": 8, "use_mamba_kernels": False}),
])
def test_a_small_copy_has_every_kind_of_layer_and_computes(family, settings):
    large = transformers.AutoConfig.for_model(family, **{**WIDE, **settings})
    small = next(small_configs(large, 64))
    with torch.device("meta"):
        assert small_enough(transformers.AutoModelForCausalLM.from_config(small))
    assert set(getattr(small, "layer_types", ())) == set(getattr(large, "layer_types", ()))
    assert 2 <= small.num_hidden_layers <= 8
    model = transformers.AutoModelForCausalLM.from_config(small).eval()
    assert not looks_ahead(model, torch.arange(3, 19)[None])
