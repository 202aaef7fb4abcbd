"""The model card's Python: from the published folder to one answer, as the run scored it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune_api.spec.method import Quantization
from transformers import PreTrainedTokenizerBase

from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.rows import EvaluationRow, Example
from finetune_trainer.report.facts import PromptCode, RunFacts

_MARK = "\u241fquestion\u241f"
_TRIED = 4


def find_prompt_code(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat, system: str | None,
                     rows: Sequence[EvaluationRow], end_ids: Sequence[int], max_new_tokens: int) -> PromptCode:
    """The plainest Python that asks as the run did: the model's own chat template, else what that came to in the run.

    Args:
        tokenizer: the base's.
        chat: how the run wrote a conversation.
        system: the job's system prompt.
        rows: the held-out rows; the first of them with a single question are what the ways are compared on.
        end_ids: the tokens that end an answer.
        max_new_tokens: the longest answer.
    """
    single = [row for row in rows if [message["role"] for message in row.example.messages] == ["user"]][:_TRIED]
    # What stands before an answer may depend on the answer: a row's own reasoning stands in place of a template's.
    marked = Example("", ({"role": "user", "content": _MARK},), single[0].example.answer if single else "")
    ways = _ways(tokenizer, system, chat.row(marked).prompt)
    # The first of those that fit most of them: a row may have been cut.
    way = max(ways, key=lambda way: sum(_ids(tokenizer, way, row.example.question) == row.tokens.prompt
                                        for row in single))
    return PromptCode(way.lines, way.adds_special_tokens, tuple(end_ids), int(tokenizer.pad_token_id), max_new_tokens)


@dataclass(frozen=True)
class _Way:
    """A way to ask: lines of Python, and what they do."""

    lines: tuple[str, ...]
    adds_special_tokens: bool
    prompt: Callable[[str], str]


def _ways(tokenizer: PreTrainedTokenizerBase, system: str | None, marked: Sequence[int]) -> list[_Way]:
    """Ways to ask, the plainest first.

    Args:
        tokenizer: the base's.
        system: the job's system prompt.
        marked: the ids of a prompt that asks `_MARK`.
    """
    text = str(tokenizer.decode(list(marked), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    before, _, after = text.partition(_MARK)
    literal = _Way(("# what the model's chat template came to in training",
                    f"prompt = {_quoted(before)} + question + {_quoted(after)}"), False,
                   lambda question: before + question + after)
    if not tokenizer.chat_template:
        line = ('prompt = question + "\\n"',)
        return [*(_Way(line, special, lambda question: f"{question}\n") for special in (True, False)), literal]
    first = [] if system is None else [{"role": "system", "content": system}]
    shown = [f'    {{"role": "system", "content": {_quoted(one["content"])}}},' for one in first]
    return [_Way(("messages = [", *shown, '    {"role": "user", "content": question},', "]",
                  "prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)"),
                 False,
                 lambda question: str(tokenizer.apply_chat_template(
                     [*first, {"role": "user", "content": question}], tokenize=False, add_generation_prompt=True))),
            literal]


def _ids(tokenizer: PreTrainedTokenizerBase, way: _Way, question: str) -> tuple[int, ...] | None:
    """What a way comes to; None where the chat template refuses it, which raises what it likes."""
    try:
        return tuple(tokenizer(way.prompt(question), add_special_tokens=way.adds_special_tokens)["input_ids"])
    except Exception:
        return None


def load_code(facts: RunFacts) -> str:
    """Python that loads base model and what was trained, the base stored as in training, and asks one question."""
    prompt_code = facts.prompt_code
    lines = _whole_model(facts) if not facts.loading.lines else _beside_base(facts)
    if prompt_code is None:
        return "\n".join(lines)
    return "\n".join([
        *lines,
        "",
        "# a question as spec.dataset.prompt writes it",
        'question = "Who are you?"',
        *prompt_code.lines,
        f'inputs = tokenizer(prompt, add_special_tokens={prompt_code.adds_special_tokens}, return_tensors="pt")'
        ".to(model.device)",
        'ids = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])',
        'answer = tokenizer.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)',
        "print(answer.strip())",
    ])


def _settings(facts: RunFacts) -> tuple[list[str], list[str]]:
    """What has to be imported, and the lines that let a loaded model answer as it was scored: the likeliest tokens."""
    prompt_code = facts.prompt_code
    if prompt_code is None:
        return [], []
    return ["GenerationConfig"], [
        "# the likeliest tokens, as they were scored, and nothing else of the base's own settings",
        "model.generation_config = GenerationConfig(",
        f"    do_sample=False, max_new_tokens={prompt_code.max_new_tokens}, eos_token_id={list(prompt_code.end_ids)},",
        f"    pad_token_id={prompt_code.pad_id},",
        ")",
    ]


def _whole_model(facts: RunFacts) -> list[str]:
    names, settings = _settings(facts)
    return [
        f"from transformers import {', '.join(['AutoModelForCausalLM', 'AutoTokenizer', *names])}",
        "",
        *_local("published", facts.published_location),
        "",
        "tokenizer = AutoTokenizer.from_pretrained(published)",
        'model = AutoModelForCausalLM.from_pretrained(published, dtype="auto", device_map="auto")',
        *settings,
    ]


def _beside_base(facts: RunFacts) -> list[str]:
    loading = facts.loading
    hub = facts.run.spec.model.source.scheme == "hub"
    dtype = str(facts.base.get("dtype", "auto"))
    names, stored = _stored(facts.run.spec.method.quantization, dtype)
    more, settings = _settings(facts)
    arguments = ["base", *(["revision=revision"] if hub else []), f'dtype="{dtype}"', 'device_map="auto"',
                 *(["quantization_config=stored"] if stored else [])]
    names = ["AutoModelForCausalLM", "AutoTokenizer", *names, *more]
    imports = [*loading.imports, f"from transformers import {', '.join(names)}"]
    if hub:
        base = [f"base = {_quoted(facts.base_model)}", f"revision = {_quoted(facts.base_revision)}"]
    elif facts.base_model.lower().endswith(".gguf"):
        base = _from_gguf(facts)
        imports = [*([] if "import os" in loading.imports else ["import os", ""]), *imports]
    else:
        base = [f"# SHA-256 of the weights: {_one_line(facts.base_revision)}", *_local("base", facts.base_model)]
    return [
        *imports,
        "",
        *base,
        *_local("published", facts.published_location),
        "",
        *stored,
        f"tokenizer = AutoTokenizer.from_pretrained({', '.join(arguments[:1 + hub])})",
        "model = AutoModelForCausalLM.from_pretrained(",
        f"    {', '.join(arguments)},",
        ")",
        *settings,
        *loading.lines,
    ]


def _stored(quantization: Quantization, dtype: str) -> tuple[list[str], list[str]]:
    """What has to be imported for a quantized base, and the lines that say how it is stored."""
    if quantization is Quantization.NONE:
        return [], []
    if quantization is Quantization.INT8:
        return ["BitsAndBytesConfig"], ["stored = BitsAndBytesConfig(load_in_8bit=True)"]
    return ["BitsAndBytesConfig"], [
        "stored = BitsAndBytesConfig(",
        '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
        f'    bnb_4bit_compute_dtype="{"bfloat16" if dtype == "auto" else dtype}",',
        ")",
    ]


def _from_gguf(facts: RunFacts) -> list[str]:
    """Lines that make a folder of a GGUF file: transformers can't quantize one while it reads it."""
    digest = _one_line(facts.base_revision)
    return [
        f"# SHA-256 of the file: {digest}",
        *_local("gguf", facts.base_model),
        f"base = {_quoted(f'base-{digest[:12]}')}  # a folder that the file is converted to, once",
        'if not os.path.isfile(os.path.join(base, "tokenizer_config.json")):',
        "    folder, name = os.path.split(os.path.abspath(gguf))",
        '    whole = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype="float32")',
        "    # its weights are not quantized any more, though it says so",
        '    whole.config.__dict__.pop("quantization_config", None)',
        '    whole.__dict__.pop("hf_quantizer", None)',
        "    whole.is_quantized = False",
        "    whole.save_pretrained(base)",
        "    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(base)",
    ]


def _local(name: str, location: str) -> list[str]:
    """Where on this machine something is; a copy of it, where it lies elsewhere."""
    if location.startswith("file://"):
        return [f"{name} = {_quoted(location.removeprefix('file://'))}"]
    return [f"# a copy of {_one_line(location)}", f"{name} = {_quoted(name)}"]


def _quoted(text: str) -> str:
    """Text as a Python literal in double quotes: every JSON string is one."""
    return json.dumps(text, ensure_ascii=False)


def _one_line(text: str) -> str:
    return " ".join(text.split())
