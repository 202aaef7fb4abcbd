"""The memory estimate of a GPU against the tensors that the trainer's own code saves, counted on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from finetune_api import parse_job, resolve_defaults
from finetune_api.estimate import Machine, read_architecture, trained_by
from finetune_api.estimate.activations import BlockPass, StoredActivations
from finetune_api.estimate.memory import estimate_reinforcement
from finetune_api.spec.method import Quantization
from finetune_trainer.data.rows import PreparedData, TokenRow
from finetune_trainer.hardware.device import Device
from finetune_trainer.methods import METHODS
from finetune_trainer.methods.reft import train as reft_train
from finetune_trainer.methods.reft.policy import Policy
from finetune_trainer.model.files.find import ModelFiles
from finetune_trainer.model.loading.load import load_model
from finetune_trainer.training import sft
from finetune_trainer.training.micro_batch import MicroBatch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tests.models import tiny_job, tiny_tokenizer
from tests.trainer.saved_tensors import SavedTensors, as_on_a_gpu, with_kernels
from tests.trainer.training_runs import training_run

pytestmark = [pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning"),
              pytest.mark.filterwarnings("ignore:Position ids are not supported")]

TOKENS = 251
LAYERS = 4
GPU = Machine(True, 2)
IN_BFLOAT16 = Device(torch.device("cpu"), torch.bfloat16)
CONFIG: dict[str, Any] = {
    # The proportions of a 7B model: heads in groups of four, a feed-forward part of three and a half widths.
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 896, "num_hidden_layers": LAYERS,
    "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 1024, "bos_token_id": None,
    "eos_token_id": 0, "tie_word_embeddings": False}


class Counted(Exception):
    """The forward pass is over, and so is the run."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved-tensors")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    return folder


def saved_bytes(folder, monkeypatch, method: dict[str, Any], checkpointed: int = 0, by_rows: bool = False):
    """The resolved method, and the bytes that its first forward pass saves in the backbone of the model."""
    spec = resolve_defaults(parse_job(tiny_job(folder, method={"lora": None, **method}, training={
        "maxSteps": 1, "batchSize": 2 if by_rows else 1, "microBatchSize": None, "maxLength": 1024})).spec)
    monkeypatch.setattr(sft, "first_micro_batch", lambda run: MicroBatch(run.spec.training.batch_size, checkpointed))
    model = load_model(ModelFiles(folder / "model", ""), Quantization(spec.method.quantization), IN_BFLOAT16)
    lengths = (100, TOKENS - 100) if by_rows else (TOKENS,)
    rows = tuple(TokenRow(tuple(20 + index % 200 for index in range(length - 8)), tuple(range(10, 18)))
                 for length in lengths)
    data = PreparedData(train=rows, train_answers=(), held_out=(), findings=(), counts={})
    saved = SavedTensors()
    _count_backbone(model, saved)
    with as_on_a_gpu(), training_run(spec, model, data, IN_BFLOAT16, folder, by_rows=by_rows) as run, \
            pytest.raises(Counted) as counted:
        METHODS[spec.method.type].train(run)
    return spec.method, counted.value.args[0]


def _count_backbone(model: PreTrainedModel, saved: SavedTensors) -> None:
    counting: list[Any] = []

    def begin(module: torch.nn.Module, arguments: Any) -> None:
        if module.training and torch.is_grad_enabled():
            counting.append(saved.counted())
            counting[-1].__enter__()

    def end(module: torch.nn.Module, arguments: Any, output: Any) -> None:
        if counting:
            counting.pop().__exit__(None, None, None)
            raise Counted(saved.bytes_of_tokens(TOKENS))

    model.base_model.register_forward_pre_hook(begin)
    model.base_model.register_forward_hook(end)


def estimated(method, checkpointed: int = 0, machine: Machine = GPU, config: Mapping[str, Any] = CONFIG) -> int:
    model = read_architecture({"model_type": "llama", **config})
    trained = trained_by(method, model)
    blocks = BlockPass(model, trained, method.quantization, machine, masked=trained.prefix)
    # A prefix has keys and values, but goes through no block.
    tokens = TOKENS * (2 if method.display_name == "PromptTuning" else 1)
    return StoredActivations(blocks, tokens, checkpointed).in_forward_pass


LORA: dict[str, Any] = {"rank": 4, "alpha": 8}
PEFT_DORA = {**LORA, "keptNorms": False}
CASES: dict[str, dict[str, Any]] = {
    "LoRA": {"type": "LoRA", "lora": LORA},
    "LoRA, dropout": {"type": "LoRA", "lora": {**LORA, "dropout": 0.1}},
    "LoRA on q and v": {"type": "LoRA", "lora": {**LORA, "targetModules": ["q_proj", "v_proj"]}},
    "LoRA int8": {"type": "LoRA", "lora": LORA, "quantization": "int8"},
    "QLoRA": {"type": "LoRA", "lora": LORA, "quantization": "nf4"},
    "QLoRA, dropout": {"type": "LoRA", "lora": {**LORA, "dropout": 0.1}, "quantization": "nf4"},
    "DoRA": {"type": "DoRA", "dora": LORA},
    "DoRA, dropout": {"type": "DoRA", "dora": {**LORA, "dropout": 0.1}},
    "DoRA int8, dropout": {"type": "DoRA", "dora": {**LORA, "dropout": 0.1}, "quantization": "int8"},
    "DoRA int8": {"type": "DoRA", "dora": LORA, "quantization": "int8"},
    "QDoRA": {"type": "DoRA", "dora": LORA, "quantization": "nf4"},
    "PEFT's DoRA": {"type": "DoRA", "dora": PEFT_DORA},
    "PEFT's QDoRA": {"type": "DoRA", "dora": PEFT_DORA, "quantization": "nf4"},
    "PEFT's DoRA int8": {"type": "DoRA", "dora": PEFT_DORA, "quantization": "int8"},
    "Full": {"type": "Full"},
    "last layer": {"type": "Partial", "partial": {"lastLayers": 1}},
    "first layer": {"type": "Partial", "partial": {"layers": [0]}},
    "norms": {"type": "Partial", "partial": {"parameters": ["*norm*"]}},
    "embeddings": {"type": "Partial", "partial": {"parameters": ["*embed*"]}},
    "IA3": {"type": "Additive", "additive": {"technique": "IA3"}},
    "IA3 nf4": {"type": "Additive", "additive": {"technique": "IA3"}, "quantization": "nf4"},
    "IA3 int8": {"type": "Additive", "additive": {"technique": "IA3"}, "quantization": "int8"},
    "prompt tuning": {"type": "Additive", "additive": {"technique": "PromptTuning", "virtualTokens": TOKENS}},
    "prefix tuning": {"type": "Additive", "additive": {"technique": "PrefixTuning", "virtualTokens": TOKENS}},
    "bottlenecks": {"type": "Additive", "additive": {"technique": "Bottleneck", "bottleneckSize": 8}},
    "ReFT": {"type": "ReFT", "reft": {"lora": LORA}},
}


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_of_stored_activations_is_within_a_tenth_of_what_the_code_saves(folder, monkeypatch, name):
    method, saved = saved_bytes(folder, monkeypatch, CASES[name])
    # IA3 makes a quantized model compute in float32 from the second block on, one of four here.
    assert estimated(method) == pytest.approx(saved, rel=0.13 if name == "IA3 nf4" else 0.1)


@pytest.mark.parametrize(("name", "checkpointed"), [
    ("QLoRA", 1), ("QLoRA", LAYERS), ("DoRA", 2), ("Full", 1), ("Full", LAYERS), ("last layer", 3)])
def test_so_is_that_of_checkpointing_the_first_layers(folder, monkeypatch, name, checkpointed):
    method, saved = saved_bytes(folder, monkeypatch, CASES[name], checkpointed)
    assert estimated(method, checkpointed) == pytest.approx(saved, rel=0.1)


@pytest.mark.parametrize("name", ["QLoRA", "DoRA", "Full"])
def test_so_is_that_of_kernels(folder, monkeypatch, name):
    with with_kernels(activations=name != "DoRA"):
        method, saved = saved_bytes(folder, monkeypatch, CASES[name])
    assert estimated(method, machine=replace(GPU, kernels=True)) == pytest.approx(saved, rel=0.1)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_so_is_that_of_dora_beside_biases(tmp_path, monkeypatch, quantization):
    Qwen2ForCausalLM(Qwen2Config(**CONFIG)).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    method, saved = saved_bytes(tmp_path, monkeypatch, {**CASES["DoRA"], "quantization": quantization})
    assert estimated(method, config={**CONFIG, "model_type": "qwen2"}) == pytest.approx(saved, rel=0.1)


def test_rows_that_share_a_line_save_no_more_than_one_row(folder, monkeypatch):
    method, saved = saved_bytes(folder, monkeypatch, CASES["QLoRA"], by_rows=True)
    assert estimated(method) == pytest.approx(saved, rel=0.1)


@pytest.mark.parametrize("policy", ["LoRA", "DoRA", "Full"])
def test_the_estimate_of_ppo_is_within_a_tenth_of_what_scoring_a_response_saves(folder, monkeypatch, policy):
    settings: dict[str, Any] = {"policy": policy, **({} if policy == "Full" else {"lora": LORA})}
    spec = resolve_defaults(parse_job(tiny_job(folder, method={
        "type": "ReFT", "lora": None, "reft": settings})).spec)
    model = load_model(ModelFiles(folder / "model", ""), Quantization.NONE, IN_BFLOAT16)
    saved, response = SavedTensors(), 60
    data = PreparedData(train=(), train_answers=(), held_out=(), findings=(), counts={})
    ids = tuple(20 + index % 200 for index in range(TOKENS))
    with training_run(spec, model, data, IN_BFLOAT16, folder) as run, \
            reft_train._prepared_policy(run, spec.method.reft) as trained_model:
        learner = Policy(trained_model.model, 0, 1.0, IN_BFLOAT16)
        with as_on_a_gpu(), saved.counted():
            scored = learner.score([(ids[:-response], ids[-response:])])
    memory = estimate_reinforcement(read_architecture({"model_type": "llama", **CONFIG}), spec.method, TOKENS, response,
                                    GPU)
    assert scored.log_probs.requires_grad
    assert estimated(spec.method) == pytest.approx(saved.bytes_of_tokens(TOKENS), rel=0.1)
    assert memory.activations >= saved.bytes_of_tokens(TOKENS)
    # Of the logits one copy is saved, in float32; others are there for a time.
    assert memory.loss > saved.bytes_of_tokens(response * CONFIG["vocab_size"]) > 0
