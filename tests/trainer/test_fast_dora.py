"""DoRA that keeps its weight norms gives what PEFT's gives, whatever happens to the weights in between."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from finetune_trainer.methods.dora import layer, norms
from finetune_trainer.methods.dora.layer import FastDora, cache_norms, start_at_norms
from finetune_trainer.methods.dora.norms import CachedNorms
from finetune_trainer.trained_model import TRAINED, load_trained, weights_changed
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from safetensors.torch import save_file

from tests.trainer.runs import DORA, manifest, published, run, workshop

IDS = torch.tensor([[5, 80, 90, 100, 7, 8, 33, 21], [9, 81, 17, 44, 3, 250, 12, 1]])
QUANTIZATIONS = ("none", "nf4", "int8")
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load(folder, quantization="none", dtype=torch.float32):
    from finetune_api.spec.method import Quantization
    from finetune_trainer.hardware.device import Device
    from finetune_trainer.model.files.find import ModelFiles
    from finetune_trainer.model.loading.load import load_model

    return load_model(ModelFiles(folder, ""), Quantization(quantization), Device(torch.device("cpu"), dtype))


def adapt(base, fast, *, dropout=0.0, moved=True):
    """A DoRA model whose factors and magnitudes are away from their start."""
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, use_dora=True, lora_dropout=dropout,
                                            target_modules=LAYERS, task_type="CAUSAL_LM"))
    if moved:
        move(model)
    if fast:
        assert cache_norms(model).layers == 14
    return model


@torch.no_grad()
def move(model, seed=1):
    """Change every trained weight in place, as no optimizer does: the caller has to say so."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.1 * torch.randn_like(parameter))


def loss_of(model, ids=IDS):
    return model(input_ids=ids, labels=ids, use_cache=False).loss


@torch.no_grad()
def logits_of(model):
    return model(input_ids=IDS, use_cache=False).logits


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours, its, tolerance=1e-5):
    assert ours.keys() == its.keys()
    for name, gradient in its.items():
        assert (ours[name] - gradient).abs().max() <= tolerance * gradient.abs().max(), name


def slow(model):
    """A copy whose layers compute as PEFT's do, from the weights that the model has now."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        for adapter, variant in getattr(module, "lora_variant", {}).items():
            if isinstance(variant, FastDora):
                module.lora_variant[adapter] = DoraLinearVariant()
    return twin


def assert_norms_are_current(model):
    """The same logits as PEFT's way with the weights that are there now."""
    torch.testing.assert_close(logits_of(model), logits_of(slow(model)), rtol=1e-4, atol=1e-5)


@pytest.fixture
def used(tiny_model_folder):
    """A fast model that has run, so that all its layers keep norms."""
    model = adapt(load(tiny_model_folder), fast=True).train()
    loss_of(model).backward()
    return model


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_output_loss_and_gradients_are_those_of_peft(tiny_model_folder, quantization, checkpointing):
    seen = []
    for fast in (True, False):
        model = adapt(load(tiny_model_folder, quantization), fast).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        loss = loss_of(model)
        loss.backward()
        seen.append((loss.item(), gradients(model), logits_of(model.eval())))
    ours, its = seen
    assert ours[0] == pytest.approx(its[0], abs=1e-6)
    assert len(ours[1]) == 3 * 14
    assert_same_gradients(ours[1], its[1])
    torch.testing.assert_close(ours[2], its[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_in_bf16_the_difference_is_that_of_bf16(tiny_model_folder, quantization):
    truth = logits_of(adapt(load(tiny_model_folder, quantization), fast=False).eval())
    for autocast in (False, True):
        errors = []
        for fast in (True, False):
            model = adapt(load(tiny_model_folder, quantization, torch.bfloat16), fast).eval()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                errors.append((logits_of(model).float() - truth).abs().max().item())
                loss = loss_of(model.train())
            loss.backward()
            assert all(p.grad.dtype is torch.float32 and p.grad.isfinite().all()
                       for p in model.parameters() if p.requires_grad)
        assert errors[0] < 1.5 * errors[1] + 1e-3, "further from float32 than PEFT's bf16 is"


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_training_curve_is_that_of_peft(tiny_model_folder, quantization):
    curves = []
    for fast in (True, False):
        model = adapt(load(tiny_model_folder, quantization), fast, moved=False).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        curve = []
        for step in range(12):
            for batch in range(2):
                loss = loss_of(model, IDS.roll(step + batch, 1))
                loss.backward()
                curve.append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
        curves.append(curve)
    assert curves[1][-1] < 0.95 * curves[1][0], "nothing was learnt"
    assert curves[0] == pytest.approx(curves[1], abs=1e-3)


def test_norms_are_made_once_for_all_passes_of_a_step(tiny_model_folder, monkeypatch):
    made = []
    make = CachedNorms._compute
    monkeypatch.setattr(CachedNorms, "_compute", lambda self, *rest: made.append(self) or make(self, *rest))
    model = adapt(load(tiny_model_folder, "nf4"), fast=True).train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for step in (1, 2):
        for _ in range(3):
            loss_of(model).backward()
        assert len(made) == 14 * step
        optimizer.step()
    logits_of(model.eval())
    logits_of(model)
    assert len(made) == 14 * 3


def adamw_8bit(parameters):
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(parameters, lr=0.05, min_8bit_size=16)


OPTIMIZERS = {
    "adamw_torch": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=True),
    "adamw_torch, one by one": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=False),
    "adamw_torch_fused": lambda p: torch.optim.AdamW(p, lr=0.05, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5),
    "adamw_8bit": adamw_8bit,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_of_each_optimizer_makes_norms_anew(used, name):
    optimizer = OPTIMIZERS[name]([p for p in used.parameters() if p.requires_grad])
    before = logits_of(used)
    optimizer.step()
    assert (logits_of(used) - before).abs().max() > 0.01
    assert_norms_are_current(used)


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused"])
def test_a_step_through_accelerate_makes_norms_anew(used, name):
    from accelerate import Accelerator

    optimizer = Accelerator(cpu=True).prepare(OPTIMIZERS[name]([p for p in used.parameters() if p.requires_grad]))
    optimizer.step()
    assert_norms_are_current(used)


def test_no_hook_is_left_on_optimizers_once_training_is_over(tiny_model_folder):
    from torch.optim.optimizer import _global_optimizer_post_hooks

    before = dict(_global_optimizer_post_hooks)
    version = cache_norms(adapt(load(tiny_model_folder), fast=False)).version
    assert len(_global_optimizer_post_hooks) == len(before) + 1
    version.unfollow_optimizers()
    assert dict(_global_optimizer_post_hooks) == before


def test_a_step_of_an_optimizer_of_the_copy_makes_its_norms_anew(used):
    twin = copy.deepcopy(used)
    loss_of(twin).backward()
    stale = logits_of(twin)
    OPTIMIZERS["sgd"]([p for p in twin.parameters() if p.requires_grad]).step()
    assert (logits_of(twin) - stale).abs().max() > 0.01
    assert_norms_are_current(twin)


def test_loading_an_adapter_makes_norms_anew(used):
    other = {name: tensor + 0.3 for name, tensor in get_peft_model_state_dict(used).items()}
    set_peft_model_state_dict(used, other)
    assert_norms_are_current(used)


def test_loading_a_checkpoint_as_the_trainer_does_makes_norms_anew(used, tmp_path):
    used.save_pretrained(tmp_path)
    move(used)
    weights_changed(used)
    logits_of(used)
    used.load_adapter(tmp_path, "default", is_trainable=True)
    assert_norms_are_current(used)


def test_loading_a_whole_state_makes_the_frozen_weights_norms_anew_too(used):
    used.load_state_dict({name: 1.5 * tensor for name, tensor in used.state_dict().items()})
    assert_norms_are_current(used)


def test_a_cast_and_back_makes_norms_anew(used):
    used.to(torch.bfloat16).to(torch.float32)
    assert_norms_are_current(used)


def test_weights_put_back_by_the_trainer_make_norms_anew(used, tmp_path):
    torch.manual_seed(2)
    others = {name: p.detach() + 0.1 * torch.randn_like(p) for name, p in used.named_parameters() if p.requires_grad}
    save_file(others, tmp_path / TRAINED)
    load_trained(used, tmp_path)
    assert_norms_are_current(used)


def test_code_that_writes_into_weights_says_so(used):
    move(used)
    stale = logits_of(used)
    weights_changed(used)
    assert (logits_of(used) - stale).abs().max() > 1e-3, "nothing was kept: this test, and others here, can't fail"
    assert_norms_are_current(used)


def test_switching_adapters_takes_each_one_s_norms(used):
    first = logits_of(used)
    used.add_adapter("other", used.peft_config["default"])
    assert cache_norms(used, "other").layers == 14
    used.set_adapter("other")
    move(used)
    assert_norms_are_current(used)
    used.set_adapter("default")
    torch.testing.assert_close(logits_of(used), first)
    assert_norms_are_current(used)


def test_a_copy_and_its_original_don_t_share_norms(used):
    twin = copy.deepcopy(used)
    before = logits_of(used)
    move(twin)
    weights_changed(twin)
    assert_norms_are_current(twin)
    torch.testing.assert_close(logits_of(used), before)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.filterwarnings("ignore:.*4-bit linear may get different generations")
def test_merged_weights_are_those_of_peft_and_unmerging_makes_norms_anew(tiny_model_folder, quantization):
    ours = adapt(load(tiny_model_folder, quantization), fast=True).eval()
    its = adapt(load(tiny_model_folder, quantization), fast=False).eval()
    adapted = logits_of(ours)
    ours.merge_adapter()
    its.merge_adapter()
    torch.testing.assert_close(logits_of(ours), logits_of(its), rtol=1e-5, atol=1e-5)
    ours.unmerge_adapter()
    assert_norms_are_current(ours)
    if quantization == "none":
        torch.testing.assert_close(logits_of(ours), adapted, rtol=1e-4, atol=1e-4)


def test_the_adapter_is_saved_as_peft_saves_it_and_loads_in_plain_peft(used, tiny_model_folder, tmp_path):
    plain = adapt(load(tiny_model_folder), fast=False)
    assert get_peft_model_state_dict(used).keys() == get_peft_model_state_dict(plain).keys()
    used.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load(tiny_model_folder), tmp_path).eval()
    torch.testing.assert_close(logits_of(used.eval()), logits_of(again), rtol=1e-5, atol=1e-5)


def test_with_dropout_the_result_is_peft_s_and_norms_are_cached_too(tiny_model_folder, monkeypatch):
    ours = adapt(load(tiny_model_folder), fast=True, dropout=0.2)
    its = adapt(load(tiny_model_folder), fast=False, dropout=0.2)
    losses = []
    for model in (its, ours):
        torch.manual_seed(3)
        losses.append(loss_of(model.train()))
        losses[-1].backward()
        monkeypatch.setattr(DoraLinearVariant, "forward", staticmethod(lambda *_, **__: pytest.fail("PEFT's own way")))
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
    assert_same_gradients(gradients(ours), gradients(its))
    logits_of(ours.eval())


def test_several_active_adapters_are_peft_s_own(used):
    used.add_adapter("other", used.peft_config["default"])
    move(used, seed=5)
    weights_changed(used)
    cache_norms(used, "other")
    used.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(logits_of(used), logits_of(slow(used)), rtol=0, atol=0)


def test_layers_with_a_bias_stay_as_peft_made_them():
    torch.manual_seed(0)
    base = torch.nn.ModuleDict({"with_bias": torch.nn.Linear(8, 4), "without": torch.nn.Linear(8, 4, bias=False)})
    model = get_peft_model(base, LoraConfig(use_dora=True, target_modules=["with_bias", "without"]))
    assert cache_norms(model).layers == 1
    assert type(model.base_model.model["with_bias"].lora_variant["default"]) is DoraLinearVariant
    assert type(model.base_model.model["without"].lora_variant["default"]) is FastDora


def test_a_magnitude_of_zero_still_gets_peft_s_gradient(tiny_model_folder):
    found = []
    for fast in (True, False):
        model = adapt(load(tiny_model_folder), fast).train()
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.data[0] = 0
        loss_of(model).backward()
        found.append(gradients(model))
    assert_same_gradients(*found)
    assert all(gradient.isfinite().all() for gradient in found[0].values())


def test_layers_whose_rows_are_no_whole_blocks_have_the_right_norms(tmp_path):
    from tests.models import save_tiny_model

    folder = save_tiny_model(tmp_path / "model", hidden=72)
    ours, its = (adapt(load(folder, "nf4"), fast).eval() for fast in (True, False))
    torch.testing.assert_close(logits_of(ours), logits_of(its), rtol=1e-5, atol=1e-5)


def test_large_layers_are_read_in_parts(tiny_model_folder, monkeypatch):
    whole = logits_of(adapt(load(tiny_model_folder, "nf4"), fast=True).eval())
    monkeypatch.setitem(norms._CHUNK, "cpu", 7 * 64)
    parts = logits_of(adapt(load(tiny_model_folder, "nf4"), fast=True).eval())
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)


def test_peft_s_private_parts_have_the_shape_that_this_stands_on():
    assert layer.peft_is_known()


def test_another_peft_is_left_alone(tiny_model_folder, monkeypatch):
    monkeypatch.setattr(DoraLinearVariant, "forward", staticmethod(lambda module, adapter, x, result: result))
    assert cache_norms(adapt(load(tiny_model_folder), fast=False)).layers == 0


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_job_comes_out_the_same_with_kept_norms_and_without(tmp_path, quantization):
    losses, adapters = [], []
    for kept in (True, False):
        folder = workshop(tmp_path / str(kept))
        done = run(folder, method={**DORA, "quantization": quantization, "dora": {**DORA["dora"], "keptNorms": kept}})
        assert done.code == 0, done.output
        assert "PEFT's own speed" not in done.output
        lines = (published(folder) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)])
        adapters.append(manifest(folder)["result"]["evaluation"]["after"]["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert adapters[0] == pytest.approx(adapters[1], abs=1e-4)


def test_in_bf16_a_fresh_adapter_starts_at_the_float32_norms_and_changes_nothing(tiny_model_folder):
    base = load(tiny_model_folder, dtype=torch.bfloat16)
    truth = logits_of(base)
    model = adapt(base, fast=True, moved=False)
    start_at_norms(model)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            wanted = module.get_base_layer().weight.double().norm(dim=1)
            torch.testing.assert_close(module.lora_magnitude_vector["default"].weight.double(), wanted, rtol=1e-6,
                                       atol=0)
    assert torch.equal(logits_of(model), truth)


def bf16_output(model, layer_of, autocast=False):
    """The outputs of one layer for many random rows, in bfloat16: (rows, outputs), as float32."""
    layer = layer_of(model.base_model.model.model.layers[0])
    inputs = torch.randn(2000, layer.in_features, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.manual_seed(7)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        return layer(inputs).float()


def up(decoder_layer):
    return decoder_layer.mlp.up_proj


def growth(after, before):
    """By what factor each output grew, on average over what rounding does to its values: (outputs,)."""
    return (after * before).sum(0) / before.square().sum(0)


WAYS: dict[str, dict] = {"in evaluation": {}, "in training": {"training": True},
                         "with dropout": {"training": True, "dropout": 0.1},
                         "in nf4": {"training": True, "quantization": "nf4"}}


@pytest.mark.parametrize("change", [0.001, 0.003, 0.005])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_in_bf16_a_small_change_of_a_magnitude_is_not_lost(tiny_model_folder, way, autocast, change):
    settings: dict = {"training": False, "quantization": "none", "dropout": 0.0, **WAYS[way]}
    model = adapt(load(tiny_model_folder, settings["quantization"], torch.bfloat16), fast=True,
                  dropout=settings["dropout"], moved=False).train(settings["training"])
    start_at_norms(model)
    before = bf16_output(model, up, autocast)
    up(model.base_model.model.model.layers[0]).lora_magnitude_vector["default"].weight.data.mul_(1 + change)
    weights_changed(model)
    assert (growth(bf16_output(model, up, autocast), before) - 1 - change).abs().max() < 5e-4


@pytest.mark.parametrize("autocast", [False, True])
def test_in_bf16_norms_that_change_by_thousandths_are_not_lost(tiny_model_folder, autocast):
    model = adapt(load(tiny_model_folder, dtype=torch.bfloat16), fast=True, moved=False).train()
    start_at_norms(model)
    layer = up(model.base_model.model.model.layers[0])
    before = bf16_output(model, up, autocast)
    # With A = W and B = c·1/s, W + sBA is (1 + c)·W: the norms are what they were times 1 + c, and the output stays.
    weight = layer.base_layer.weight.detach().float()
    layer.lora_A["default"].weight.data = weight
    layer.lora_B["default"].weight.data = torch.eye(len(weight)) * 0.002 / layer.scaling["default"]
    weights_changed(model)
    assert (growth(bf16_output(model, up, autocast), before) - 1).abs().max() < 5e-4


def test_a_small_change_of_a_magnitude_reaches_the_merged_bf16_weights(tiny_model_folder, tmp_path):
    model = adapt(load(tiny_model_folder, dtype=torch.bfloat16), fast=True, moved=False)
    start_at_norms(model)
    up(model.base_model.model.model.layers[0]).lora_magnitude_vector["default"].weight.data.mul_(1.003)
    model.save_pretrained(tmp_path)
    before = load(tiny_model_folder, dtype=torch.bfloat16)
    weight = before.model.layers[0].mlp.up_proj.weight.float().clone()
    merged = PeftModel.from_pretrained(before, tmp_path).merge_and_unload().model.layers[0].mlp.up_proj.weight
    grown = (merged.float() * weight).sum(1) / weight.square().sum(1)
    assert merged.dtype is torch.bfloat16
    assert (grown - 1.003).abs().max() < 1.5e-3
    assert (grown.mean() - 1.003).abs() < 2e-4


@pytest.mark.parametrize("taken_out", ["unloaded", "deleted"])
def test_an_adapter_that_is_taken_out_leaves_nothing_behind(tiny_model_folder, taken_out):
    base = load(tiny_model_folder)
    truth = loss_of(base.train()).item()
    model = adapt(base, fast=True).train()
    loss_of(model).backward()
    weights_changed(model)
    if taken_out == "unloaded":
        plain = model.unload().train()
        assert not any(module._forward_pre_hooks for module in plain.modules())
    else:
        model.delete_adapter("default")
        plain = model.base_model.model.train()
    plain.requires_grad_(True)
    loss = loss_of(plain)
    assert loss.item() == truth
    loss.backward()
