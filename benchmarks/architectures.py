"""Which architectures of the installed transformers work with which methods: each is rehearsed, as preflight does it.

A small random copy of each family's default configuration goes through a job of each method, from loading to reading
back what would be published. The table says what was seen, and nothing of quality or speed.

    python benchmarks/architectures.py > docs/reference/models.md
    python benchmarks/architectures.py --families llama gemma2 --methods LoRA Full
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

FAMILIES = (
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "gemma", "gemma2",
    "gemma3_text", "gemma3", "phi", "phi3", "phimoe", "gpt_oss", "deepseek_v3", "olmo2", "olmoe", "smollm3", "falcon",
    "falcon_h1", "mamba", "bloom", "mpt", "opt", "gpt2", "gpt_neox", "gptj", "gpt_bigcode", "starcoder2", "stablelm",
    "cohere", "cohere2", "granite", "granitemoe", "lfm2", "jamba", "nemotron_h", "glm4", "exaone4", "ernie4_5",
    "llama4_text", "internlm3", "minimax",
)
METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {"type": "LoRA", "lora": {"rank": 4}},
    "QLoRA": {"type": "LoRA", "lora": {"rank": 4}, "quantization": "nf4"},
    "DoRA": {"type": "DoRA", "dora": {"rank": 4}},
    "Partial": {"type": "Partial", "partial": {"lastLayers": 1}},
    "Full": {"type": "Full"},
    "IA3": {"type": "Additive", "additive": {"technique": "IA3"}},
    "Bottleneck": {"type": "Additive", "additive": {"technique": "Bottleneck", "bottleneckSize": 8}},
    "Prompt": {"type": "Additive", "additive": {"technique": "PromptTuning", "virtualTokens": 4}},
    "Prefix": {"type": "Additive", "additive": {"technique": "PrefixTuning", "virtualTokens": 4}},
}
_SECONDS = 300
_HEAD = """# Models and methods

Made by `python benchmarks/architectures.py > docs/reference/models.md` with transformers {transformers}, PEFT {peft}
and TRL {trl}, in float32 on a CPU. Each row is a model type of transformers (`model_type` in config.json), each cell
a whole job on a small random copy of its default configuration: loaded, one step trained (packed, where the model
keeps packed rows apart), answers generated, published and read back. ReFT trains a LoRA or DoRA adapter or the full
model, and samples besides; that is not in the table. Preflight rehearses every job in the same way, whether its model
is listed here or not.

Of multimodal models (gemma3) the text decoder is trained. Attention is transformers' SDPA, and eager where an
architecture has none. LoRA, QLoRA, DoRA and IA3 adapt linear layers: experts that an architecture keeps in one tensor
are not adapted. Where PEFT has no default layers of IA3 for a model type, IA3 scales k_proj, v_proj and down_proj, if
the architecture has all three.

"""


def main() -> None:
    """Rehearse and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--families", nargs="+", default=FAMILIES, help="model types of transformers")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="columns")
    options = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    from finetune_trainer.run.quiet import silence_libraries

    silence_libraries()
    import finetune_trainer.run.checks.rehearsal  # noqa: F401  # Once, and not in each process that is forked from this.
    import torch

    torch.set_num_threads(1)
    print(_HEAD.format(**{name: version(name) for name in ("transformers", "peft", "trl")}), end="")
    print(f"| model type | {' | '.join(options.methods)} |\n|{'---|' * (len(options.methods) + 1)}")
    reasons: dict[str, list[str]] = {}
    for family in options.families:
        cells = []
        for method in options.methods:
            began = time.monotonic()
            answer = _apart(family, method)
            print(f"{family} {method}: {answer or 'works'} ({time.monotonic() - began:.1f} s)", file=sys.stderr)
            if answer:
                reasons.setdefault(answer, []).append(f"{family} {method}")
            cells.append(f"no [{list(reasons).index(answer) + 1}]" if answer else "yes")
        print(f"| {family} | {' | '.join(cells)} |", flush=True)
    if reasons:
        print()
    for number, reason in enumerate(reasons, 1):
        print(f"{number}. {reason}")


def _apart(family: str, method: str) -> str:
    """Why a family can't have a method, as a process of its own tells; empty where it can."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        import signal

        signal.alarm(_SECONDS)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                answer = rehearsed(family, METHODS[method], Path(scratch))
        except Exception as error:
            answer = str(error).splitlines()[0] if str(error) else type(error).__name__
        os.write(writing, answer.encode()[:2000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = file.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return answer if status == 0 else f"ended by itself after {_SECONDS} s, or was ended"


def rehearsed(family: str, method: dict[str, Any], scratch: Path) -> str:
    """Rehearse a job of a method on a family's default configuration: why it can't be, or nothing."""
    from finetune_api import parse_job, resolve_defaults
    from finetune_api.messages import Accelerator, RunConfig
    from finetune_trainer.data.rows import PreparedData, TokenRow
    from finetune_trainer.model.loading.base import open_base
    from finetune_trainer.run.checks.rehearsal import rehearse
    from transformers import AutoConfig

    folder = scratch / "model"
    AutoConfig.for_model(family).save_pretrained(folder)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    spec = resolve_defaults(parse_job({
        "apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "x"}, "spec": {
            "model": {"source": f"file://{folder}"}, "output": {"uri": f"file://{scratch}/out"},
            "dataset": {"source": "file:///rows.jsonl", "prompt": "{{ q }}", "completion": "{{ a }}"},
            "method": method}}).spec)
    config = RunConfig(namespace="x", name="x", uid="x", attempt=1, spec=spec, spec_hash="0" * 64,
                       accelerator=Accelerator(name="cpu", hourly_rate="0"))
    rows = tuple(TokenRow(tuple(range(5 + one, 15 + 2 * one)), (20 + one, 21, 22, 0)) for one in range(4))
    data = PreparedData(rows, ("",) * len(rows), (), (), {})
    return rehearse(config, open_base(folder, family), folder, data, tokenizer, scratch).skipped or ""


def _tokenizer() -> Any:
    """Every byte a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")


if __name__ == "__main__":
    main()
