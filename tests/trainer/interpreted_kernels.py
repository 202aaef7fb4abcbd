"""Compares models with Liger's kernels and without, under Triton's interpreter: one JSON object on the last line."""

from __future__ import annotations

import copy
import json
import sys

import liger_kernel.ops.geglu
import liger_kernel.ops.rms_norm
import numpy
import torch
import transformers
import triton
import triton.language as tl
from finetune_trainer.engines import kernels
from finetune_trainer.methods.dora.layer import cache_norms
from peft import LoraConfig, get_peft_model
from triton.runtime import interpreter

CLASSES = {"gemma3_text": "Gemma3"}
IDS = torch.tensor([[5, 40, 9, 33, 21, 60], [8, 3, 51, 17, 12, 1]])


@triton.jit
def reciprocal_square_root(x):
    return 1.0 / tl.sqrt(x)


@triton.jit
def hyperbolic_tangent(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


def prepare():
    """What the interpreter lacks: float arguments as tensors, and libdevice; and the CPU counts as a GPU."""
    convert = interpreter._implicit_cvt

    def with_floats(argument):
        if isinstance(argument, float):
            handle = interpreter.TensorHandle(numpy.array([argument], dtype=numpy.float32), tl.float32)
            return tl.tensor(handle, tl.float32)
        return convert(argument)

    interpreter._implicit_cvt = with_floats
    liger_kernel.ops.rms_norm.rsqrt = reciprocal_square_root
    liger_kernel.ops.geglu.tanh = hyperbolic_tangent
    kernels._DEVICES, kernels._MANY_ROWS = frozenset({"cpu"}), 16


def make(model_type):
    name = CLASSES.get(model_type) or transformers.AutoConfig.for_model(model_type).__class__.__name__[:-6]
    config = transformers.AutoConfig.for_model(
        model_type, vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def run(model):
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def furthest(mine, wanted):
    return max(float((mine[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)


def compare(model, plain, keeps_outputs):
    """The largest relative differences from the plain model, and what was replaced."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    kernels.take_back(base)
    wanted = run(plain)
    kernels.apply_kernels(base, keeps_outputs)
    namespace = vars(sys.modules[type(base).__module__])
    rotations = []
    rotate = namespace[kernels._ROTATE]
    if rotate.__code__.co_name == "either":
        namespace[kernels._ROTATE] = lambda *given, **more: rotations.append(1) or rotate(*given, **more)
    try:
        found = run(model)
    finally:
        namespace[kernels._ROTATE] = rotate
    replaced = [module for module in base.modules() if "forward" in vars(module)]
    return {"loss": abs(found[0] - wanted[0]) / wanted[0], "gradient": furthest(found[1], wanted[1]),
            "norms": sum(hasattr(module, "weight") for module in replaced),
            "mlps": sum(not hasattr(module, "weight") for module in replaced), "rotated": len(rotations)}


def dora(keeps_outputs):
    models = []
    for _ in range(2):
        model = get_peft_model(make("llama"), LoraConfig(
            use_dora=True, r=2, target_modules=["q_proj", "k_proj", "gate_proj", "up_proj", "down_proj"]))
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data += 0.1 * torch.rand_like(parameter)
        cache_norms(model)
        models.append(model.train())
    return compare(models[0], models[1], keeps_outputs)


def refused(change):
    model = make("llama")
    kernels.take_back(model)
    wanted = run(model)
    undo = change()
    try:
        kernels.apply_kernels(model, keeps_outputs=False)
        error = ""
    except ArithmeticError as raised:
        error = str(raised)
    finally:
        undo()
    return {"error": error, "loss": abs(run(model)[0] - wanted[0]) + furthest(run(model)[1], wanted[1])}


def wrong_norm():
    right = liger_kernel.ops.rms_norm.rsqrt
    liger_kernel.ops.rms_norm.rsqrt = wrong_square_root
    return lambda: setattr(liger_kernel.ops.rms_norm, "rsqrt", right)


@triton.jit
def wrong_square_root(x):
    return 1.1 / tl.sqrt(x)


def wrong_rotation():
    from liger_kernel.transformers import monkey_patch

    right = monkey_patch.liger_rotary_pos_emb
    monkey_patch.liger_rotary_pos_emb = lambda q, k, cosines, sines, **_: right(q, k, sines, cosines)
    return lambda: setattr(monkey_patch, "liger_rotary_pos_emb", right)


def others():
    """A model with kernels beside one without: classes and results of the latter are transformers'."""
    plain = make("mistral")
    kernels.take_back(plain)
    wanted = run(plain)
    kernels.apply_kernels(make("mistral"), keeps_outputs=False)
    kernels._DEVICES = frozenset({"cuda"})
    found = run(make("mistral"))
    kernels._DEVICES = frozenset({"cpu"})
    from transformers.models.mistral import modeling_mistral

    own = all(value.__module__ == modeling_mistral.__name__
              for value in (modeling_mistral.MistralRMSNorm, modeling_mistral.MistralMLP))
    return {"classes": own, "loss": found[0] == wanted[0]}


def main():
    prepare()
    found = {}
    for model_type in sys.argv[1:]:
        model = make(model_type)
        found[model_type] = compare(model, copy.deepcopy(model), keeps_outputs=False)
    found["dora"], found["dora, all kernels"] = dora(True), dora(False)
    found["other models"] = others()
    found["wrong norm"], found["wrong rotation"] = refused(wrong_norm), refused(wrong_rotation)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
