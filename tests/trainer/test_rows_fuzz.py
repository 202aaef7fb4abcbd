"""Random rows, files, templates and tokenizers: each ends in prepared rows, or in an error that names its place.

`FINETUNE_FUZZ=20000 python -m pytest tests/trainer/test_rows_fuzz.py` tries as many of each.
"""

import datetime
import decimal
import functools
import gzip
import json
import os
import random
import re
from importlib.resources import files
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from finetune_api import parse_job, resolve_defaults
from finetune_api.spec.dataset import DataFormat
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.formats import read_rows
from finetune_trainer.data.prepare import prepare_rows
from finetune_trainer.data.rows import LEFT_OUT, numbered_rows
from finetune_trainer.errors import TrainerError

from tests.models import CHATML, NO_SYSTEM, tiny_job, tiny_tokenizer

ROUNDS = int(os.environ.get("FINETUNE_FUZZ", "40"))
PLACE = re.compile(r"(row|line) \d+|spec\.[a-z]|rows?\.[a-z]+|the data set")
REPRS = re.compile(
    r"None|\bnan\b|\binf\b|<(?:built-in|class|function|bound|generator|Macro|Namespace)|datetime\.|Decimal\(")
NAMES = ("q", "a", "m", "items", "keys", "Question Text", "x-y", "질문", "class", "range", "row", "", "None ", "{{",
         "tools")
TEXTS = ("", " ", "x", "None", "a\nb", "    indented", "<|im_end|>", "</s>", "<think>\nso\n</think>\n\nyes", "[INST]",
         "한글 텍스트", "\ud83d", "\u2028", "\x00", "\U000f00003\U000f0001", "{{ q }}", "word " * 60, "e\u0301",
         "\ufeff", '{"a": 1}', "[", "-0")
TEMPLATES = (
    "{{ q }}", "{{ a }}", "{{ row }}", "{{ q ~ a }}", "{{ q | tojson }}", "{{ row | tojson(2) }}", "{{ q.items }}",
    "{{ items }}", "{{ q.x.y }}", "{{ row['Question Text'] }}", "{% for x in q %}{{ x }},{% endfor %}", "{{ range }}",
    "{{ q | join(', ') }}", "{{ q + 1 }}", "{{ q | upper }}", "{{ q[0] }}", "{{ q | length }}", "{{ q is none }}",
    "{{ q | int }} {{ a | float }}", "{{ q.strip() }}", "{{ '%s' | format(q) }}", "{{ q | map('upper') }}",
    "{% set ns = namespace(t=q) %}{{ ns.t }}", "{{ 질문 }}", "{{ q or a }}", "text", "{{ q | default('d', true) }}",
    "{% if q == none %}n{% else %}{{ q }}{% endif %}", "{{ dict(x=q) }}", "{{ q * 3 }}", "{{ q < a }}", "{{ -q }}",
    "{{ (q, a) }}", "{{ q | sort }}", "{{ q | first }}", "{{ loop }}", "{{ row.keys() | list }}", "{{ cycler }}",
    "{{ q | string | trim }}", "{{ q | attr('upper') }}", "{{ [q, [a]] }}", "{{ 1 / 0 }}", "{{", "{{ q | nothing }}")
CHATS = (None, CHATML, NO_SYSTEM, CHATML.replace("m['content']", "m['content'] | trim"),
         CHATML.replace("m['content'] }}", "m['content'][:20] }}"), CHATML.replace("m['content']", "m.content.x"),
         "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
         "{% for m in messages %}{{ m.content | tojson }}<|im_end|>{% endfor %}",
         "{% for m in messages %}<|im_start|>{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
         "{% if add_generation_prompt %}<|im_start|><think>\n{% endif %}")


def _value(chance, levels=3):
    """A value as a file may hold it, or a library may return it."""
    kinds = ["text"] * 6 + ["null", "number", "float", "flag", "other"] + ["list", "mapping"] * (levels > 0)
    match chance.choice(kinds):
        case "text":
            return chance.choice(TEXTS)
        case "null":
            return None
        case "number":
            return chance.choice((0, -1, 7, 10**30, 2**63))
        case "float":
            return chance.choice((0.5, 1e22, float("nan"), float("inf"), -0.0))
        case "flag":
            return chance.random() < 0.5
        case "list":
            return [_value(chance, levels - 1) for _ in range(chance.randint(0, 3))]
        case "mapping":
            return {chance.choice(NAMES): _value(chance, levels - 1) for _ in range(chance.randint(0, 3))}
    return chance.choice((b"abc", b"\xff", decimal.Decimal("1E+3"), decimal.Decimal("NaN"), object(), {1, 2},
                          datetime.date(2024, 1, 31), datetime.datetime(2024, 1, 31, 9), datetime.time(9),
                          datetime.timedelta(1.5), _nested(50), _nested(3000)))


def _nested(levels):
    value: Any = "deep"
    for _ in range(levels):
        value = [value]
    return value


def _message(chance):
    role = chance.choice(("system", "user", "assistant", "assistant", "user", "tool", "human", "gpt", None, 3))
    message = {chance.choice(("role", "role", "role", "from")): role,
               chance.choice(("content", "content", "value")): chance.choice((_value(chance), *TEXTS))}
    if chance.random() < 0.2:
        call = {"function": {"name": "f", "arguments": chance.choice(TEXTS)}}
        message["tool_calls"] = chance.choice((None, [], [call], _value(chance)))
    if chance.random() < 0.2:
        message["weight"] = _value(chance)
    return message


def _messages(chance):
    good = [{"role": "user", "content": f"q{chance.randint(0, 9)}" + chance.choice(TEXTS)},
            {"role": "assistant", "content": f"a{chance.random()}" + chance.choice(TEXTS)}]
    return chance.choice((good, good, good, [*good, *good], [_message(chance) for _ in range(chance.randint(0, 4))],
                          _value(chance), json.dumps(good)))


def _rows(chance):
    """Rows that are alike, as those of a file are, most of them fit to be learnt from."""
    wild = chance.random() < 0.4
    return [{"q": _value(chance) if wild else f"question {chance.randint(0, 30)} {chance.choice(TEXTS[:9])}",
             "a": _value(chance) if wild else f"answer {chance.random()}", "m": _messages(chance),
             **{chance.choice(NAMES): _value(chance) for _ in range(chance.choice((0, 0, 2)))}}
            for _ in range(chance.randint(0, 12))]


@functools.cache
def _chats():
    published = [file.read_text("utf-8") for file in sorted(files("trl").joinpath("chat_templates").iterdir(), key=str)
                 if file.name in ("qwen3.jinja", "gptoss.jinja", "llama3_1.jinja", "gemma.jinja", "deepseekv3.jinja")]
    chats = []
    for template in (*CHATS, *published):
        for system in (None, "Be brief. <|im_end|>"):
            tokenizer = tiny_tokenizer(template)
            tokenizer.bos_token = "<|end|>"
            try:
                chats.append(ChatFormat(tokenizer, system))
            except TrainerError as error:
                assert str(error).startswith("spec.model.source: the model's chat template")
    return chats


def _spec(chance, folder):
    dataset = {"answerFormat": chance.choice((None, {"type": "json", "schema": None})), "evaluationFraction": 0.3,
               "maxSamples": chance.choice((None, 3))}
    if chance.random() < 0.4:
        dataset |= {"prompt": None, "completion": None, "messages": chance.choice(("m", "m", "m", "q"))}
    else:
        plain = chance.random() < 0.5
        dataset |= {"prompt": "{{ q }}" if plain else chance.choice(TEMPLATES),
                    "completion": "{{ a }}" if plain else chance.choice(TEMPLATES)}
    return resolve_defaults(parse_job(tiny_job(
        folder, dataset=dataset, evaluation={"samples": chance.choice((1, 100))},
        training={"maxLength": chance.choice((8, 60, 400)),
                  "longRows": chance.choice(("cutPrompt", "drop", "refuse"))})).spec)


@pytest.mark.parametrize("part", range(4))
def test_rows_are_prepared_or_refused_with_their_place(part, tmp_path):
    for number in range(ROUNDS):
        chance = random.Random(f"rows {part} {number}")
        spec, chat = _spec(chance, tmp_path), chance.choice(_chats())
        learn = numbered_rows(_rows(chance), "train")
        held = numbered_rows(_rows(chance), "test") if chance.random() < 0.3 else None
        try:
            data = prepare_rows(learn, held, spec, chat)
        except TrainerError as error:
            assert PLACE.search(str(error)), str(error)
            continue
        counts = data.counts
        assert counts["read"] == counts["train"] + counts["heldOut"] + sum(counts[reason] for reason in LEFT_OUT)
        for row, example in (*zip(data.train, data.train_examples, strict=True),
                             *((row.tokens, row.example) for row in data.held_out)):
            assert len(row) <= spec.training.max_length
            assert row.answer
            assert chat.text(row.answer) == example.answer
            found = REPRS.search(example.question + example.answer)
            assert found is None or found[0] == "None", (found, example)


def _written(chance, rows):
    """A file's content in a format, and now and then with damage."""
    kind = chance.choice(list(DataFormat))
    dump = functools.partial(json.dumps, default=str, ensure_ascii=chance.random() < 0.5)
    text = "\n".join(map(dump, rows)) if chance.random() < 0.5 else dump(rows, indent=chance.choice((None, 1)))
    if kind is DataFormat.CSV:
        text = "\n".join(",".join(dump(str(value)).replace('\\"', '""') for value in row.values()) for row in rows)
    content = text.encode(chance.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le")), "surrogatepass")
    if kind is DataFormat.PARQUET and chance.random() < 0.8:
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.table({"q": [str(row["a"]) for row in rows], "n": [1.1] * len(rows)}), sink)
        content = sink.getvalue().to_pybytes()
    if chance.random() < 0.2:
        content = gzip.compress(content)
    if content and chance.random() < 0.4:
        place = chance.randrange(len(content))
        damage = chance.choice((b"", b"\x00", b"\xff", b'"', b"\n", b"[", b"NaN", b"9" * 5000, b"[" * 3000, b"\\ud800"))
        content = content[:place] + damage + content[place + chance.choice((0, 0, 1, 400)):]
    return kind, content


@pytest.mark.parametrize("part", range(2))
def test_files_are_read_or_refused_with_their_place(part, tmp_path):
    for number in range(ROUNDS):
        chance = random.Random(f"files {part} {number}")
        rows = [{**row, "m": None} for row in _rows(chance)]
        try:
            kind, content = _written(chance, rows)
        except (UnicodeEncodeError, RecursionError, ValueError, TypeError):
            continue  # Nobody could have written it.
        path = tmp_path / f"rows.{kind}"
        path.write_bytes(content)
        try:
            found = read_rows(path, kind, chance.choice((None, "train")))
        except TrainerError as error:
            assert PLACE.search(str(error)), str(error)
        else:
            assert all(isinstance(name, str) for row in found for name in row)
