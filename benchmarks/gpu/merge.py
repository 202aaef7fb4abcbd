"""Merging an adapter into an nf4 base, and what bfloat16 leaves of DoRA's magnitudes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.findings import Check, release_memory
from benchmarks.gpu.meters import Steps
from benchmarks.gpu.our_training import Base, device_of, load_base, method, resolved_spec, train
from benchmarks.gpu.rows import random_rows
from benchmarks.gpu.settings import Settings

_CHANGES = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01)
"""Relative changes of DoRA's magnitudes; bfloat16 has a step of 0.004 to 0.008."""

_TOKENS = 512
"""More than a pass of generation has: such a pass is rounded once more (`Layer.scaled_product`)."""

_ROUNDING_TOLERANCE = 0.2
"""Of such a change in the output, relative: outputs are in bfloat16, magnitudes must not be."""

_MERGE_TOLERANCE = 0.15
"""Of a merged model's logits, relative to how far training moved them: its weights are rounded to bfloat16."""


def run(check: Check) -> None:
    """Merge LoRA and DoRA, then look at DoRA's rounding."""
    for kind in ("LoRA", "DoRA"):
        with check.attempt(f"merge, {kind}"), tempfile.TemporaryDirectory(dir=check.settings.work) as scratch:
            check.say(name=f"merge, {kind}", **_merge(check.settings, kind, Path(scratch)))
    with check.attempt("DoRA's rounding"):
        ours = _change_of_output(check.settings, ours=True)
        check.say(name="DoRA's rounding", ours=ours, peft=_change_of_output(check.settings, ours=False),
                  ok=all(abs(seen / change - 1) <= _ROUNDING_TOLERANCE for change, seen in ours.items()))


def _logits(model: Any, ids: Any, device: Any) -> Any:
    """Logits as an evaluation computes them, in float32 in host memory."""
    import torch

    with torch.inference_mode(), device.autocast():
        return model(input_ids=ids.to(model.device)).logits.float().cpu()


def _merge(settings: Settings, kind: str, scratch: Path) -> dict[str, Any]:
    """How far the merged model's logits are from the trained one's, and how far training moved them."""
    import torch
    from finetune_api.spec.method import Quantization
    from finetune_trainer.model.files.find import ModelFiles
    from finetune_trainer.publish.export import BaseWeights, export_merged, export_trained

    folder = settings.small_bf16
    base = load_base(folder, "nf4", device_of(settings))
    rows = random_rows(settings, settings.batch * 4, shorter=2)
    ids = torch.tensor([list((rows[0].prompt + rows[0].answer)[:64])])
    plain = _logits(base.model.eval(), ids, base.device)
    spec = resolved_spec(settings, method(kind), {"maxSteps": 3, "microBatchSize": 4, "learningRate": 2e-3}, folder)
    result = train(spec, base, rows, Steps(300), scratch).result
    tuned = result.trained_model
    wanted = _logits(tuned.model.eval(), ids, base.device)
    export_trained(tuned, str(folder), None, scratch / "adapter")
    began = time.monotonic()
    export_merged(tuned, scratch / "adapter", BaseWeights(ModelFiles(folder, ""), Quantization.NF4, base.device),
                  base.tokenizer, scratch / "merged")
    seconds = time.monotonic() - began
    got = _logits(load_base(scratch / "merged", "none", base.device).model.eval(), ids, base.device)
    error, moved = (float((one - wanted).norm() / wanted.norm()) for one in (got, plain))
    return {"ok": error <= _MERGE_TOLERANCE * moved, "seconds": round(seconds, 1), "relativeError": error,
            "trainingMoved": moved,
            "sameChoice": float((got.argmax(-1) == wanted.argmax(-1)).float().mean())}


def _change_of_output(settings: Settings, ours: bool) -> dict[float, float]:
    """By how much a layer's output changes, in bfloat16, for each relative change of its magnitudes."""
    import torch
    from finetune_trainer.trained_model import weights_changed
    from peft import LoraConfig, get_peft_model

    base: Base = load_base(settings.small_bf16, "nf4", device_of(settings))
    adapted = get_peft_model(base.model, LoraConfig(r=8, lora_alpha=32, use_dora=True, target_modules=["down_proj"]))
    version = None
    if ours:
        from finetune_trainer.methods.dora.layer import cache_norms, start_at_norms

        _, version = cache_norms(adapted)
        start_at_norms(adapted)
    layer = adapted.base_model.model.model.layers[0].mlp.down_proj.eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, _TOKENS, layer.in_features, generator=generator).to(base.model.device, base.model.dtype)
    magnitude, ratios = layer.lora_magnitude_vector["default"].weight, {}
    with torch.autocast(x.device.type, torch.bfloat16), torch.no_grad():
        start = layer(x).float()
        for change in _CHANGES:
            before = magnitude.detach().clone()
            magnitude.mul_(1 + change)
            weights_changed(adapted)
            ratios[change] = round(float((layer(x).float() * start).sum() / (start * start).sum()) - 1, 6)
            magnitude.copy_(before)
            weights_changed(adapted)
    if version is not None:
        version.unfollow_optimizers()
    del base, adapted, layer
    release_memory()
    return ratios
