"""A job's templates are somebody else's code: they see the row's columns and nothing of Python."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal

import pytest
from finetune_api.spec.dataset import DatasetSpec
from finetune_trainer.data.rendering import row_template
from finetune_trainer.data.rendering.to_examples import to_examples
from finetune_trainer.data.rows import SourceRow
from finetune_trainer.data.values import Unwritable
from finetune_trainer.errors import BadConfig, first_line

ROWS = [SourceRow("rows.jsonl:1", {"q": "a question", "a": "an answer"})]


def spec(prompt):
    return DatasetSpec.model_validate_json(json.dumps(
        {"source": "s3://bucket/rows.jsonl", "prompt": prompt, "completion": "{{ a }}"}))


@pytest.mark.parametrize("prompt", [
    "{{ q.__class__.__mro__ }}",
    "{{ q.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen(q).read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ (q | attr('__class__')).__mro__ }}",
])
def test_a_template_that_reaches_for_python_fails_the_job_with_a_sentence(prompt):
    with pytest.raises(BadConfig, match=r"spec\.dataset\.prompt: a template may use the row's columns and nothing of"):
        to_examples(ROWS, spec(prompt))


@pytest.mark.parametrize("prompt", ["{% include q %}", "{% for n in range(10 ** 12) %}x{% endfor %}"])
def test_a_template_that_reads_files_or_never_ends_learns_nothing(prompt):
    try:
        examples, findings = to_examples(ROWS, spec(prompt))
    except BadConfig:
        return
    assert examples == []
    assert findings


def test_the_environments_secrets_are_no_variables(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    with pytest.raises(BadConfig, match="no row has a column AWS_SECRET_ACCESS_KEY"):
        to_examples(ROWS, spec("{{ AWS_SECRET_ACCESS_KEY }}"))


def _text(template, **columns):
    rows = [SourceRow("train row 1", columns)]
    examples, findings = to_examples(rows, DatasetSpec.model_validate_json(json.dumps(
        {"source": "s3://bucket/rows.jsonl", "prompt": template, "completion": "a"})))
    return examples[0].question if examples else str(findings[0])


@pytest.mark.parametrize(("template", "text"), [
    ("a{{ none }}b{{ null }}c", "abc"),
    ("{{ null ~ '.' ~ nested.null ~ '.' ~ flag }}", "..true"),
    ("{{ [null, flag, 1] | join('-') }}", "-true-1"),
    ("{{ '%s %s %.1f %d' | format(tags, null, price, 3) }} {{ '%s' % flag }} {{ '%(a)s' | format(a=nested) }}",
     '["a", null]  0.5 3 true {"null": null, "items": [1]}'),
    ("{{ '%s' % other }} {{ '%s-%s' % (other, null) }} {{ 7 % 4 }}", '{"k": 1} {"k": 1}- 3'),
    ("{{ null | default('x', true) }}{{ 'none' if null is none else 'some' }}{{ null == none }}", "xnonetrue"),
    ("{% for item in null %}{{ item }}{% endfor %}.", "."),
    ("{{ tags }} {{ nested }} {{ flag }}", '["a", null] {"null": null, "items": [1]} true'),
    ("{{ null | tojson }} {{ nested | tojson }}", 'null {"null": null, "items": [1]}'),
    ("{{ row.items }} {{ items }} {{ nested.items }}", "a column a column [1]"),
    ("{% for key, value in other.items() %}{{ key }}{{ value }}{% endfor %}", "k1"),
    ("{{ row['Question Text'] }} {{ row['input-text'] }}", "spaced hyphened"),
    ("{{ price }} {{ big }} {{ {'p': price, 'b': big} | tojson }}", '0.50 1000 {"p": 0.50, "b": 1000}'),
    ("{{ day }} {{ when }} {{ [day, when, at] | tojson }}",
     '2024-01-31 2024-01-31 09:30:00 ["2024-01-31", "2024-01-31T09:30:00", "09:30:00"]'),
    ("{{ raw }} {{ raw | tojson }} {{ when.year }}", 'abc "abc" 2024'),
    ("{{ text.upper() }}{% set ns = namespace(n=1) %}{{ ns.n }}{{ dict(a=1) }}{{ range(2) | list }}",
     'T1{"a": 1}[0, 1]'),
])
def test_a_template_writes_data_as_text_and_as_json_and_nothing_of_python(template, text):
    day = datetime.date(2024, 1, 31)
    when = datetime.datetime(2024, 1, 31, 9, 30)
    columns = {"null": None, "flag": True, "tags": ["a", None], "nested": {"null": None, "items": [1]},
               "items": "a column", "Question Text": "spaced", "input-text": "hyphened", "price": Decimal("0.50"),
               "big": Decimal("1E+3"), "day": day, "when": when, "at": when.time(), "raw": b"abc", "text": "t",
               "other": {"k": 1}}
    assert _text(template, **columns) == text


@pytest.mark.parametrize(("template", "words"), [
    ("{{ q.upper }}", "train row 1: prompt: upper is a function, and no column"),
    ("{{ q.upper ~ '' }}", "train row 1: prompt: upper is a function, and no column"),
    ("{{ q.upper | string }}", "train row 1: prompt: upper is a function, and no column"),
    ("{{ '%s' | format(q.upper) }}", "upper is a function, and no column"),
    ("{{ q | attr('upper') }}", "upper is a function, and no column"),
    ("{{ row.keys | tojson }}", "keys is a function, and no column"),
    ("{{ [1] | map('string') }}", "it is a generator, which has no form as text"),
    ("{% macro m() %}{% endmacro %}{{ m }}", "it is a Macro, which has no form as text"),
    ("{{ score }}", "nan is not a number that JSON or a text can hold"),
    ("{{ score | tojson }}", "nan is not a number that JSON or a text can hold"),
    ("{{ large * large }}", "Out of range float values"),
    ("{{ bytes }}", "it is bytes that are not UTF-8"),
    ("{{ half }}", "train row 1: prompt: character 1 is a lone surrogate (U+D83D)"),
    ("{{ missing.x.y }}", "prompt"),
    ("{{ q[q.upper] }}", "train row 1: prompt: "),
])
def test_what_has_no_form_as_text_is_refused_with_its_row(template, words):
    columns = {"q": "x", "large": 1e300, "score": float("nan"), "bytes": b"\xff", "half": "\ud83d", "missing": {}}
    assert words in _text(template, **columns)


def test_an_error_about_a_value_that_cannot_be_written_is_told_by_its_kind():
    assert first_line(KeyError(Unwritable("a function"))) == "KeyError"
    assert first_line(ValueError("one\ntwo")) == "one"


def test_a_function_of_jinja_is_a_column_that_no_row_has():
    with pytest.raises(BadConfig, match="prompt: no row has a column dict; the columns are q"):
        _text("{{ dict }}", q="x")
    assert _text("{{ dict }} {{ range }}", dict="d", range="r") == "d r"


@pytest.mark.parametrize("template", ["{{ Question Text }}", "{{ Question-Text }}", "{{ Question }}"])
def test_how_a_column_with_blanks_is_written_is_said_where_a_template_fails(template):
    with pytest.raises(BadConfig, match=r"a column such as 'Question Text' is written \{\{ row\[.Question Text.\]"):
        _text(template, **{"Question Text": "x"})


def test_the_indentation_of_a_first_line_stays_and_blank_lines_around_a_text_go():
    assert _text("{{ code }}", code="\n  \n    return 1\n\n") == "    return 1"
    assert _text("\n  {{ code }}  \n", code="  x") == "  x"


def test_a_column_that_is_nested_too_deeply_is_refused_with_its_row():
    deep = []
    for _ in range(3000):
        deep = [deep]
    assert _text("{{ q }}", q="x", z=deep) == "train row 1: a column is nested too deeply to be read"


@pytest.mark.parametrize("template", ["{{ q * 100000000 }}", "{{ 100000000 * q }}", "{{ 9 ** 999999999 }}",
                                      "{{ (9 ** 999999) * (9 ** 9999999) }}"])
def test_a_product_that_would_fill_the_memory_is_refused_with_its_row(template):
    assert "is too large; the maximum is 10000000" in _text(template, q="xy")


def test_products_of_texts_and_numbers_are_written():
    assert _text("{{ q * 3 }} {{ 2 ** 10 }} {{ 7 * 6 }} {{ 2.5 ** 2 }} {{ 7 % 4 }}", q="xy") == "xyxyxy 1024 42 6.25 3"


@pytest.mark.parametrize(("template", "words"), [
    ("{{ q | center(10 ** 9) }}", "center with 1000000000 is too wide; the maximum is 10000"),
    ("{{ q | center(width=10 ** 9) }}", "center with 1000000000 is too wide"),
    ("{{ q.rjust(10 ** 9) }}", "rjust with 1000000000 is too wide"),
    ("{{ q | indent(10 ** 9, true) }}", "indent with 1000000000 is too wide"),
    ("{{ [q] | batch(10 ** 9, q) | list }}", "batch with 1000000000 is too wide"),
    ("{{ [q] | map('center', 10 ** 9) | join }}", "center with 1000000000 is too wide"),
    ("{{ row | tojson(indent=10 ** 9) }}", "tojson with 1000000000 is too wide"),
    ("{{ 1.5 | round(10 ** 9, 'ceil') }}", "round with 1000000000 is too wide"),
    ("{{ '%1000000000d' % 1 }}", "format with 1000000000 is too wide"),
    ("{{ '%.1000000000f' | format(1) }}", "format with 1000000000 is too wide"),
    ("{{ '%(a)1000000000s' | format(a=q) }}", "format with 1000000000 is too wide"),
    ("{{ '%*d' % (10 ** 9, 1) }}", "a width of * in a format is not possible; write the number"),
    ("{{ '{:1000000000}'.format(q) }}", "format with 1000000000 is too wide"),
    ("{{ '{:{w}}'.format(q, w=10 ** 9) }}", "format with 1000000000 is too wide"),
    ("{{ '{q:1000000000}'.format_map(row) }}", "format with 1000000000 is too wide"),
    ("{{ (q * 10 ** 6).replace(q, q * 10 ** 6) }}", "a text or list of 1000000000000 is too large"),
    ("{{ (q * 10 ** 6) | replace(q, q * 10 ** 6) }}", "a text or list of 1000000000000 is too large"),
    ("{{ (q * 10 ** 6).join(q * 10 ** 6) }}", "a text or list of 1000000000000 is too large"),
    ("{{ (q * 10 ** 6) | join(q * 10 ** 6) }}", "a text or list of 1000001000000 is too large"),
    ("{{ lipsum(10 ** 9) }}", "lipsum with 1000000000 is too wide"),
    ("{% set ns = namespace(x=q) %}{% for n in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "is too large"),
    ("{% set ns = namespace(x=q) %}{% for n in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "is too large"),
    ("{% for n in range(99999) %}{% for m in range(99999) %}{{ q * 1000 }}{% endfor %}{% endfor %}",
     "its text has more than 10000000 characters"),
])
def test_what_a_template_makes_is_bounded(template, words):
    text = _text(template, q="x")
    assert text.startswith("train row 1: prompt: the template fails: ")
    assert words in text


def test_a_template_that_never_ends_is_an_error_of_its_row(monkeypatch):
    monkeypatch.setattr(row_template, "_SECONDS", 0.2)
    endless = "{% for n in range(99999) %}{% for m in range(99999) %}{% endfor %}{% endfor %}x"
    assert _text(endless, q="x") == "train row 1: prompt: the template takes more than 0.2 s; make its loops smaller"


@pytest.mark.parametrize(("template", "text"), [
    ("{{ q | center(5) }}|", "  x  |"), ("{{ '%3d|%-3s|%05.1f' % (1, q, 2) }}", "  1|x  |002.0"),
    ("{{ '{:>3}|{}'.format(q, 1) }} {{ '{q}'.format_map(row) }}", "  x|1 x"),
    ("{{ [3, 4] | join(', ') }} {{ 'abc' | replace('b', 'B') }} {{ [1] + [2] }} {{ 1 + 2 }}", "3, 4 aBc [1, 2] 3"),
    ("{{ [1, 2, 3] | batch(2, 0) | list }} {{ 2.55 | round(1) }} {{ {'a': 1} | tojson(indent=1) }}",
     '[[1, 2], [3, 0]] 2.5 {\n "a": 1\n}'),
])
def test_ordinary_widths_and_sizes_are_written(template, text):
    assert _text(template, q="x").strip() == text.strip()


def test_random_choices_are_the_same_at_every_attempt_and_differ_between_rows():
    template = "{{ range(100000) | random }} {{ lipsum(1, html=false) }}"
    assert _text(template, q="x") == _text(template, q="x")
    assert _text(template, q="x") != _text(template, q="y")
