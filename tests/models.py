"""Tiny models and jobs that tests make for themselves."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}<|end|>{% endif %}"
    "{% endfor %}"
)
WORDS = ("theft", "fraud", "arson", "assault")


def tiny_tokenizer(chat_template: str | None = CHATML):
    """A byte-level tokenizer without merges: every byte is a token, and a few special ones beside."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>",
                                   additional_special_tokens=["<|im_start|>", "<|im_end|>"])
    fast.chat_template = chat_template
    return fast


def save_tiny_model(folder: Path, *, hidden: int = 64, layers: int = 2, chat_template: str | None = CHATML,
                    biases: bool = False, tied: bool = False) -> Path:
    """A random Llama with its tokenizer, in safetensors; with `biases` in its attention, as Qwen has them, or with its
    head `tied` to its embeddings, as SmolLM2 has it.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(chat_template)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=0, bos_token_id=None,
        tie_word_embeddings=tied, attention_bias=biases,
    ))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = 40, seed: int = 0) -> Path:
    """Rows with a question and a label that the question decides."""
    chance = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            word = chance.choice(WORDS)
            facts = f"case {number}: a {word} in the {chance.choice(('north', 'south', 'old town'))}"
            label = {"level": WORDS.index(word), "custody": word == "arson"}
            file.write(json.dumps({"facts": facts, "label": label}) + "\n")
    return path


def tiny_job(folder: Path, **sections: Any) -> dict:
    """A job on the tiny model that a test can change section by section; `dataset={"prompt": …}` merges into it."""
    from finetune_api.rules import merge_patch

    spec = {
        "model": {"source": f"file://{folder}/model"},
        "dataset": {
            "source": f"file://{folder}/rows.jsonl", "evaluationFraction": 0.2,
            "prompt": "{{ facts }}", "completion": "{{ label | tojson }}",
            "answerFormat": {"type": "json", "schema": {
                "type": "object", "required": ["level", "custody"], "additionalProperties": False,
                "properties": {"level": {"type": "integer"}, "custody": {"type": "boolean"}}}},
        },
        "output": {"uri": f"file://{folder}/out"},
        "method": {"type": "LoRA", "lora": {"rank": 4, "alpha": 8}},
        "training": {"maxSteps": 6, "batchSize": 4, "microBatchSize": 2, "maxLength": 128, "learningRate": 0.01,
                     "checkpointEvery": 2},
        "evaluation": {"maxNewTokens": 8},
    }
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "tiny"},
            "spec": merge_patch(spec, sections)}


def save_tiny_family(folder: Path, model_type: str, **settings) -> Path:
    """A random model of another family, of two layers, with the tiny tokenizer; `settings` go into its configuration.

    Its weights are larger than a fresh model's, so that what a token sees shows in what follows.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(model_type, **{
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.2, **settings})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_gguf(path: Path, model: Path) -> Path:
    """A folder of `save_tiny_model` as a GGUF file: a Llama in float32 with a byte-level tokenizer and its template."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    config = loaded.config
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    # A tokenizer without merges can't be written: the last byte, which no test writes, makes room for one.
    names = [*tokenizer.convert_ids_to_tokens(list(range(len(tokenizer) - 1))), "qz"]
    writer.add_token_list(names)
    special = set(tokenizer.all_special_tokens)
    writer.add_token_types([int(gguf.TokenType.CONTROL if name in special else gguf.TokenType.NORMAL)
                            for name in names])
    writer.add_token_merges(["q z"])
    writer.add_eos_token_id(0)
    writer.add_chat_template(tokenizer.chat_template)
    parts = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in loaded.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            # llama.cpp has the two halves of a head's rows in turns.
            tensor = tensor.reshape(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(parts.get_name(name, (".weight", ".bias")), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
