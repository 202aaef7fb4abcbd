"""A fused layer computes what PEFT's does, saves what it says for the backward pass, and leaves PEFT the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from finetune_trainer.methods.dora.layer import cache_norms
from finetune_trainer.methods.lora import fused_layers, fused_linear
from finetune_trainer.methods.lora.fused_layers import FusedLinear, FusedLinear4bit, fuse, peft_is_known
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora.bnb import Linear4bit
from peft.tuners.lora.layer import Linear, LoraLayer

from tests.models import save_tiny_family
from tests.trainer.test_fast_dora import (
    IDS,
    LAYERS,
    assert_same_gradients,
    gradients,
    load,
    logits_of,
    loss_of,
    move,
)


def adapt(base, fused, **settings):
    """A LoRA model whose factors are away from their start."""
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=LAYERS, task_type="CAUSAL_LM",
                                            **settings))
    move(model)
    if fused:
        assert fuse(model) == 14
    return model


@pytest.fixture
def count(monkeypatch):
    """How many passes were fused."""
    passes = []
    whole = fused_linear.fused_linear
    monkeypatch.setattr(fused_layers, "fused_linear", lambda *given: passes.append(1) or whole(*given))
    return passes


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_output_loss_and_gradients_are_those_of_peft(tiny_model_folder, quantization, checkpointing, count):
    seen = []
    for fused in (True, False):
        model = adapt(load(tiny_model_folder, quantization), fused).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        loss = loss_of(model)
        loss.backward()
        seen.append((loss.item(), gradients(model), logits_of(model.eval())))
    ours, its = seen
    assert len(count) == 14 * (3 if checkpointing else 2)
    assert ours[0] == pytest.approx(its[0], rel=1e-6)
    assert len(ours[1]) == 2 * 14
    assert_same_gradients(ours[1], its[1])
    torch.testing.assert_close(ours[2], its[2], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_in_bf16_the_difference_is_that_of_bf16(tiny_model_folder, quantization, autocast, count):
    truth = adapt(load(tiny_model_folder, quantization), fused=False).eval()
    loss_of(truth).backward()
    errors: dict[bool, list[float]] = {}
    for fused in (True, False):
        model = adapt(load(tiny_model_folder, quantization, torch.bfloat16), fused).eval()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            logits = logits_of(model)
            loss = loss_of(model)
        loss.backward()
        found, wanted = gradients(model), gradients(truth)
        assert all(gradient.dtype is torch.float32 for gradient in found.values())
        errors[fused] = [(logits.float() - logits_of(truth)).norm().item(),
                         sum((found[name] - wanted[name]).square().sum().item() for name in wanted)**0.5]
    assert len(count) == 2 * 14
    for ours, its in zip(errors[True], errors[False], strict=True):
        assert ours < 1.25 * its, "further from float32 than PEFT's bf16 is"


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_frozen_bias_is_added_as_it_is(quantization, tmp_path, count):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    base = Qwen2ForCausalLM(Qwen2Config(vocab_size=259, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
                                        num_attention_heads=4, num_key_value_heads=2))
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    base.save_pretrained(tmp_path)
    ours, its = (adapt(load(tmp_path, quantization), fused).eval() for fused in (True, False))
    assert ours.base_model.model.model.layers[0].self_attn.q_proj.base_layer.bias.abs().max() > 0.1
    torch.testing.assert_close(logits_of(ours), logits_of(its), rtol=1e-5, atol=2e-6)
    assert len(count) == 14


@pytest.mark.parametrize("dora", [False, True])
def test_a_model_may_write_into_the_outputs_of_its_layers(tmp_path, dora, count):
    save_tiny_family(tmp_path, "olmo", clip_qkv=0.05)
    seen = []
    for ours in (True, False):
        torch.manual_seed(0)
        model = get_peft_model(load(tmp_path), LoraConfig(r=4, target_modules=LAYERS, use_dora=dora))
        move(model)
        if ours:
            assert fuse(model) == (0 if dora else 14)
            assert not dora or cache_norms(model).layers == 14
        logits = model.train()(input_ids=IDS % 64).logits
        logits.square().mean().backward()
        seen.append((logits.detach(), gradients(model)))
    (ours, its), (our_gradients, its_gradients) = zip(*seen, strict=True)
    torch.testing.assert_close(ours, its, rtol=1e-5, atol=2e-6)
    assert_same_gradients(our_gradients, its_gradients)
    assert len(count) == (0 if dora else 14)


def saved_bytes(layer, x):
    """The storages that a layer keeps for its backward pass, without parameters: (bytes of each)."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), \
            torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
    return sorted(kept.values()), output


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_x_and_the_low_rank_activation_are_all_that_is_saved(tiny_model_folder, quantization):
    tokens = 50
    x = torch.randn(2, tokens // 2, 64).bfloat16().requires_grad_()
    for dora, wanted in ((False, [4, 64]), (True, [4, 64, 64])):
        model = adapt(load(tiny_model_folder, quantization, torch.bfloat16), fused=not dora, use_dora=dora).train()
        if dora:
            cache_norms(model)
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        layer(x)  # DoRA's norms are cached from here on.
        kept, output = saved_bytes(layer, x)
        assert kept == sorted([2 * tokens * width for width in wanted] + ([4 * 64] if dora else []))
        assert output.dtype is torch.bfloat16


def test_an_input_without_a_gradient_gets_none_and_the_adapter_gets_its_own(tiny_model_folder):
    ours, its = (adapt(load(tiny_model_folder), fused).base_model.model.model.layers[0].mlp.up_proj.train()
                 for fused in (True, False))
    x = torch.randn(5, 64)
    for layer in (ours, its):
        layer(x).square().sum().backward()
    assert x.grad is None
    assert_same_gradients(gradients(ours), gradients(its))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_layer_that_gets_no_token_has_gradients_of_zero(tiny_model_folder, quantization, dora):
    model = adapt(load(tiny_model_folder, quantization), fused=not dora, use_dora=dora)
    if dora:
        cache_norms(model)
    layer = model.base_model.model.model.layers[0].mlp.up_proj.train()
    x = torch.empty(0, 64, requires_grad=True)
    output = layer(x)
    output.sum().backward()
    assert output.shape == (0, 128)
    assert x.grad is not None
    assert gradients(layer)
    assert not any(gradient.any() for gradient in gradients(layer).values())


def test_a_pass_that_needs_peft_s_own_way_gets_it(tiny_model_folder, count):
    ours, its = (adapt(load(tiny_model_folder), fused, lora_dropout=0.2) for fused in (True, False))
    found = []
    for model in (ours, its):
        torch.manual_seed(3)
        found.append([loss_of(model.train()).item()])
        model.eval().add_adapter("other", model.peft_config["default"])
        with torch.no_grad():
            for name, parameter in sorted(model.named_parameters()):
                if ".other." in name:
                    parameter.fill_(0.02 + len(name) % 5 / 100)
        model.base_model.set_adapter(["default", "other"])
        found[-1].append(loss_of(model).item())
        with model.disable_adapter():
            found[-1].append(loss_of(model).item())
        model.base_model.set_adapter("default")
        model.merge_adapter()
        found[-1].append(loss_of(model).item())
    assert not count
    assert found[0] == found[1]
    assert len(set(found[0])) == 4
    ours.unmerge_adapter()
    loss_of(ours)
    assert len(count) == 14


def test_layers_in_8_bits_stay_as_peft_made_them(tiny_model_folder):
    model = get_peft_model(load(tiny_model_folder, "int8"), LoraConfig(target_modules=LAYERS))
    before = [type(module) for module in model.modules()]
    assert fuse(model) == 0
    assert [type(module) for module in model.modules()] == before


def test_the_adapter_is_saved_merged_and_taken_out_as_peft_does(tiny_model_folder, tmp_path):
    ours, its = (adapt(load(tiny_model_folder), fused) for fused in (True, False))
    assert get_peft_model_state_dict(ours).keys() == get_peft_model_state_dict(its).keys()
    ours.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load(tiny_model_folder), tmp_path).eval()
    torch.testing.assert_close(logits_of(ours.eval()), logits_of(again), rtol=1e-5, atol=2e-6)
    twin = copy.deepcopy(ours)
    assert torch.equal(logits_of(twin), logits_of(ours))
    merged = ours.merge_and_unload()
    assert not any(isinstance(module, Linear) for module in merged.modules())
    torch.testing.assert_close(merged(input_ids=IDS).logits, logits_of(twin), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("quantization", "fused_class"), [("none", FusedLinear), ("nf4", FusedLinear4bit)])
def test_a_run_trains_with_fused_layers(tiny_model_folder, quantization, fused_class):
    from types import SimpleNamespace

    from finetune_api.resolve import resolve_defaults
    from finetune_trainer.methods.lora.attach import attach

    from tests.api.jobs import job

    spec = resolve_defaults(job(method={"type": "LoRA", "quantization": quantization}).spec)
    run = SimpleNamespace(spec=spec, model=load(tiny_model_folder, quantization),
                          device=SimpleNamespace(dtype=torch.float32))
    model = attach(run, spec.method.lora, "spec.method.lora")  # type: ignore[arg-type]
    assert sum(type(module) is fused_class for module in model.modules()) == 14


def test_peft_s_private_parts_have_the_shape_that_this_stands_on():
    assert peft_is_known()


@pytest.mark.parametrize("changed", ["forward", "parameters"])
def test_another_peft_is_left_alone(tiny_model_folder, monkeypatch, changed):
    model = get_peft_model(load(tiny_model_folder), LoraConfig(target_modules=["q_proj"]))
    if changed == "forward":
        monkeypatch.setattr(Linear4bit, "forward", lambda self, x, more: x)
    else:
        monkeypatch.setattr(LoraLayer, "adapter_layer_names", ("lora_A", "lora_B", "lora_C"))
    assert fuse(model) == 0
