"""The Python code of the model card: it loads the published model and asks it one question, as the run did."""

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
    """The simplest code that asks as the run did: with the chat template, else with the text that the template wrote.

    Args:
        tokenizer: the tokenizer of the base model.
        chat: how the run wrote a conversation.
        system: the job's system prompt.
        rows: the held-out rows. The candidates are compared on the first rows that have a single question.
        end_ids: the tokens that end an answer.
        max_new_tokens: the maximum length of an answer, in tokens.
    """
    single = [row for row in rows if [message["role"] for message in row.example.messages] == ["user"]][:_TRIED]
    # The prompt may depend on the answer: if a row has its own reasoning, the template writes none.
    marked = Example("", ({"role": "user", "content": _MARK},), single[0].example.answer if single else "")
    ways = _ways(tokenizer, system, chat.row(marked).prompt)
    # The candidate that fits most rows, not all of them: a row may have been cut.
    way = max(ways, key=lambda way: sum(_ids(tokenizer, way, row.example.question) == row.tokens.prompt
                                        for row in single))
    return PromptCode(way.lines, way.adds_special_tokens, tuple(end_ids), int(tokenizer.pad_token_id), max_new_tokens)


@dataclass(frozen=True)
class _Way:
    """A candidate: lines of Python, and the function that they implement."""

    lines: tuple[str, ...]
    adds_special_tokens: bool
    prompt: Callable[[str], str]


def _ways(tokenizer: PreTrainedTokenizerBase, system: str | None, marked: Sequence[int]) -> list[_Way]:
    """The candidates, the simplest first.

    Args:
        tokenizer: the tokenizer of the base model.
        system: the job's system prompt.
        marked: the ids of a prompt that asks `_MARK`.
    """
    text = str(tokenizer.decode(list(marked), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    before, _, after = text.partition(_MARK)
    literal = _Way(("# the text that the chat template of the model wrote in training",
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
    """The token ids of a candidate; None if its chat template fails, which may raise any exception."""
    try:
        return tuple(tokenizer(way.prompt(question), add_special_tokens=way.adds_special_tokens)["input_ids"])
    except Exception:
        return None


def load_code(facts: RunFacts) -> str:
    """Python code that loads the base model, quantized as in training, and the trained weights, and asks a question."""
    prompt_code = facts.prompt_code
    lines = _whole_model(facts) if not facts.loading.lines else _beside_base(facts)
    if prompt_code is None:
        return "\n".join(lines)
    return "\n".join([
        *lines,
        "",
        "# a question, as spec.dataset.prompt writes it",
        'question = "Who are you?"',
        *prompt_code.lines,
        f'inputs = tokenizer(prompt, add_special_tokens={prompt_code.adds_special_tokens}, return_tensors="pt")'
        ".to(model.device)",
        'ids = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])',
        'answer = tokenizer.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)',
        "print(answer.strip())",
    ])


def _settings(facts: RunFacts) -> tuple[list[str], list[str]]:
    """The names to import, and the lines that make a loaded model answer as in the evaluation: by greedy decoding."""
    prompt_code = facts.prompt_code
    if prompt_code is None:
        return [], []
    return ["GenerationConfig"], [
        "# greedy decoding, as in the evaluation, without the base model's own generation settings",
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
    """The names to import for a quantized base model, and the lines that configure its quantization."""
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
    """Lines that convert a GGUF file to a folder: transformers cannot quantize a GGUF file while it reads it."""
    digest = _one_line(facts.base_revision)
    return [
        f"# SHA-256 of the file: {digest}",
        *_local("gguf", facts.base_model),
        f"base = {_quoted(f'base-{digest[:12]}')}  # the file is converted to this folder once",
        'if not os.path.isfile(os.path.join(base, "tokenizer_config.json")):',
        "    folder, name = os.path.split(os.path.abspath(gguf))",
        '    whole = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype="float32")',
        "    # the weights are not quantized any more; remove the settings that say they are",
        '    whole.config.__dict__.pop("quantization_config", None)',
        '    whole.__dict__.pop("hf_quantizer", None)',
        "    whole.is_quantized = False",
        "    whole.save_pretrained(base)",
        "    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(base)",
    ]


def _local(name: str, location: str) -> list[str]:
    """A line with a local path: the location itself, or the path of a copy if the location is not on this machine."""
    if location.startswith("file://"):
        return [f"{name} = {_quoted(location.removeprefix('file://'))}"]
    return [f"# a copy of {_one_line(location)}", f"{name} = {_quoted(name)}"]


def _quoted(text: str) -> str:
    """Text as a Python string literal. A JSON string is a valid one."""
    return json.dumps(text, ensure_ascii=False)


def _one_line(text: str) -> str:
    return " ".join(text.split())
