"""Makes the models of the check: a random Mistral-7B, quantized once by the project's loader, and a small one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Check, release_memory
from benchmarks.gpu.meters import allocated_bytes, peak_bytes, reset_peak, wait_for_gpu
from benchmarks.gpu.our_training import device_of, load_base
from benchmarks.gpu.settings import GIB, MIB, Settings, Shape

_LAYER = "model.layers.0.mlp.down_proj.weight"


def run(check: Check) -> None:
    """Make the models, store the large one as nf4, so that every arm loads in seconds, and check what that changes."""
    import torch
    from finetune_trainer.model.loading.load import weights_digest

    settings = check.settings
    began = time.monotonic()
    save_random_mistral(settings, settings.large, settings.large_bf16)
    size = sum(path.stat().st_size for path in settings.large_bf16.glob("*.safetensors"))
    check.say(name="made", seconds=round(time.monotonic() - began, 1), gib=round(size / GIB, 2),
              where=str(settings.work))
    reset_peak()
    began = time.monotonic()
    base = load_base(settings.large_bf16, "nf4", device_of(settings))
    wait_for_gpu()
    check.say(name="loaded from bf16 to nf4", seconds=round(time.monotonic() - began, 1),
              mib=round(allocated_bytes() / MIB), peakMiB=round(peak_bytes() / MIB))
    began = time.monotonic()
    digest = weights_digest(base.model)
    check.say(name="digest of the weights", seconds=round(time.monotonic() - began, 1))
    base.model.save_pretrained(settings.large_nf4)
    base.tokenizer.save_pretrained(settings.large_nf4)
    with check.attempt("CPU and GPU quantize alike"), torch.no_grad():
        check.say(name="CPU and GPU quantize alike",
                  **_compare_quantization(settings, base.model.model.layers[0].mlp.down_proj))
    del base
    release_memory()
    with check.attempt("loading what is nf4 already"):
        began = time.monotonic()
        again = load_base(settings.large_nf4, "nf4", device_of(settings))
        wait_for_gpu()
        check.say(name="loading what is nf4 already", seconds=round(time.monotonic() - began, 1),
                  same=weights_digest(again.model) == digest)
        del again
    release_memory()
    save_random_mistral(settings, settings.small, settings.small_bf16)


def save_random_mistral(settings: Settings, shape: Shape, folder: Path) -> None:
    """A Mistral with random weights, made on the device, with the tests' byte-level tokenizer."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from tests.models import tiny_tokenizer

    config = MistralConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads,
        head_dim=shape.hidden // shape.heads, sliding_window=None, max_position_embeddings=32768, rope_theta=1e6,
        bos_token_id=1, eos_token_id=0, tie_word_embeddings=False)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if settings.dry else torch.bfloat16)
    try:
        with torch.device("cpu" if settings.dry else "cuda"):
            model = MistralForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder, max_shard_size="4GB")
    tiny_tokenizer().save_pretrained(folder)


def _compare_quantization(settings: Settings, layer: Any) -> dict[str, Any]:
    """A layer that the device quantized, and the same one by the CPU: preflight and merging run there."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = _stored_weight(settings.large_bf16)
    began = time.monotonic()
    packed, state = quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    seconds = time.monotonic() - began
    mine, theirs = (one.view(torch.uint8).cpu().view(-1) for one in (layer.weight.data, packed))
    first = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float().cpu()
    second = dequantize_4bit(packed, state).float()
    return {"differentBytes": float((mine != theirs).float().mean()),
            "relativeError": float((first - second).norm() / first.norm()), "cpuSecondsOneLayer": round(seconds, 2)}


def _stored_weight(folder: Path) -> Any:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            if _LAYER in file.keys():  # noqa: SIM118
                return file.get_tensor(_LAYER)
    raise FileNotFoundError(f"{folder} has no {_LAYER}")
