"""ReFT's sampler against transformers' `generate`, on the large model in nf4 with an adapter."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from benchmarks.gpu.findings import Check
from benchmarks.gpu.meters import cap_memory, peak_bytes, reset_peak, wait_for_gpu
from benchmarks.gpu.our_training import device_of, load_base
from benchmarks.gpu.peers import lora_config
from benchmarks.gpu.settings import MIB, Settings

_TURNS = 2
"""The first warms up."""

Prompts = list[tuple[int, ...]]


def run(check: Check) -> None:
    """Tokens per second, each response up to its end, in turns."""
    from finetune_trainer.methods.lora.fused_layers import fuse
    from peft import get_peft_model

    settings = check.settings
    cap_memory(settings)
    base = load_base(settings.large_nf4, "nf4", device_of(settings))
    # PEFT keeps the adapter in float32, as our trainer does.
    adapted = get_peft_model(base.model, lora_config(base.model), autocast_adapter_dtype=True).eval()
    prompts, longest = _prompts(settings)
    # Of a random model's tokens one in 48 ends a response, so that rows leave the batch as they would.
    ends = tuple(range(max(1, settings.large.vocabulary // 48)))
    for name, draw, context in (("generate", _generate, nullcontext()), ("generate in autocast", _generate, None),
                                ("ours", _ours, None)):
        if draw is _ours:
            fuse(adapted)  # As `attach` does; `generate` has PEFT's own layers.
        with check.attempt(name), context or base.device.autocast():
            reset_peak()
            rates = [_timed(lambda turn=turn, draw=draw: draw(adapted, prompts, ends, longest, turn))
                     for turn in range(_TURNS)]
            tokens, seconds = rates[-1]
            check.say(name=name, tokensPerSecond=round(tokens / seconds, 1), turns=rates,
                      peakMiB=round(peak_bytes() / MIB))


def _prompts(settings: Settings) -> tuple[Prompts, int]:
    """Prompts of random tokens, and the longest response."""
    chance = random.Random(0)
    count, longest, lengths = (4, 6, (8, 20)) if settings.dry else (64, 48, (120, 360))
    return [tuple(chance.randrange(300, settings.large.vocabulary) for _ in range(chance.randint(*lengths)))
            for _ in range(count)], longest


def _timed(draw: Callable[[], int]) -> tuple[int, float]:
    """Tokens that were drawn, and the seconds."""
    wait_for_gpu()
    began = time.perf_counter()
    tokens = draw()
    wait_for_gpu()
    return tokens, round(time.perf_counter() - began, 2)


def _ours(model: Any, prompts: Prompts, ends: Sequence[int], longest: int, turn: int) -> int:
    import torch
    from finetune_trainer.methods.reft.rollout import SamplingSettings, sample

    generator = torch.Generator(model.device).manual_seed(turn)
    settings = SamplingSettings(tuple(ends), 0, longest, 1.0)
    return sample(model, prompts, settings, len(prompts), generator, check=lambda: None).tokens


def _generate(model: Any, prompts: Prompts, ends: Sequence[int], longest: int, turn: int) -> int:
    import torch
    from finetune_trainer.data.batches.padding import left_padded

    ids, mask = (one.to(model.device) for one in left_padded(prompts, 0))
    torch.manual_seed(turn)
    with torch.inference_mode():
        output = model.generate(input_ids=ids, attention_mask=mask, do_sample=True, max_new_tokens=longest,
                                eos_token_id=list(ends), pad_token_id=0, use_cache=True)
    ended = set(ends)
    return sum(next((place + 1 for place, token in enumerate(row) if token in ended), len(row))
               for row in output[:, ids.shape[1]:].tolist())
