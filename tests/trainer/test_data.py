"""Reading, rendering and checking rows: every fault names its row, and no answer is cut."""

import json

import pytest
from finetune_api import parse_job, resolve_defaults
from finetune_api.spec.training import LongRows, TrainingSpec
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.formats import read_rows
from finetune_trainer.data.held_out import hold_out
from finetune_trainer.data.long_rows import fit
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.rows import Example, Severity
from finetune_trainer.errors import BadConfig, BadData, MissingInput

from tests.models import tiny_job, tiny_tokenizer, write_rows

ROWS = [{"q": "one", "a": "eins", "n": 1}, {"q": "zwölf", "a": "twelve", "n": 12}]


def _prepare(folder, **sections):
    spec = resolve_defaults(parse_job(tiny_job(folder, **sections)).spec)
    return prepare(spec, ChatFormat(tiny_tokenizer(), spec.dataset.system), folder / "scratch")


@pytest.fixture
def folder(tmp_path):
    write_rows(tmp_path / "rows.jsonl")
    return tmp_path


def _write(folder, lines):
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_each_format_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    if name.endswith("jsonl"):
        path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    elif name.endswith("json"):
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif name.endswith("csv"):
        path.write_text("q,a,n\none,eins,1\nzwölf,twelve,12\n", encoding="utf-8")
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    rows = read_rows(path, name.rpartition(".")[2])
    assert [(row["q"], row["a"], int(row["n"])) for row in rows] == [("one", "eins", 1), ("zwölf", "twelve", 12)]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("rows.jsonl", b'{"a": 1}\n{"a": \n{"a": 3}\n', "rows.jsonl line 2: not valid JSON"),
    ("rows.jsonl", b'{"a": 1}\n\xff\xfe\n', "rows.jsonl line 2: not UTF-8 .byte 0xff."),
    ("rows.jsonl", b"[1]\n", "rows.jsonl line 1: it is a list; each row must be a JSON object with columns, such as {"),
    ("rows.json", b'[{"a": 1},\n{"a" 2}]', "rows.json line 2: not valid JSON"),
    ("rows.json", b'{"rows": 1}', "rows.json: it is an object; it must be a list of objects"),
    ("rows.csv", b"a,b\n1,2\n3\n", "rows.csv row 2: line 3 has 1 cells; the header has 2"),
    ("rows.parquet", b"PAR1 no", "rows.parquet: not a readable parquet file"),
], ids=["bad line", "not UTF-8", "list", "bad JSON", "no list", "short row", "no parquet"])
def test_a_broken_file_is_refused_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=message):
        read_rows(tmp_path / name, name.rpartition(".")[2])


def test_held_out_rows_are_disjoint_and_depend_on_the_seed_alone():
    learn, held = hold_out(list(range(50)), 0.2, seed=3)
    assert len(held) == 10
    assert sorted(learn + held) == list(range(50))
    assert hold_out(list(range(50)), 0.2, seed=3) == (learn, held)
    assert hold_out(list(range(50)), 0.2, seed=4)[1] != held


def test_rows_become_questions_and_answers(folder):
    data = _prepare(folder)
    assert (len(data.train), len(data.held_out)) == (32, 8)
    assert json.loads(data.held_out[0].example.answer).keys() == {"level", "custody"}
    assert data.counts["read"] == 40


def test_a_folder_has_a_file_for_each_split(folder):
    data_folder = folder / "data"
    data_folder.mkdir()
    write_rows(data_folder / "train.jsonl", 20, seed=1)
    write_rows(data_folder / "test.jsonl", 6, seed=2)
    data = _prepare(folder, dataset={"source": f"file://{data_folder}/", "evaluationFraction": None,
                                     "evaluationSplit": "test"})
    assert len(data.held_out) == 6
    with pytest.raises(MissingInput, match=r"contains none of valid\.jsonl, valid\.json"):
        _prepare(folder, dataset={"source": f"file://{data_folder}/", "evaluationFraction": None,
                                  "evaluationSplit": "valid"})


def test_a_file_with_another_digest_is_refused(folder):
    with pytest.raises(BadData, match="fetch the file that the job was written for"):
        _prepare(folder, dataset={"sha256": "0" * 64})


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"prompt": "{{ fact }}"}, BadConfig, "prompt: no row has a column fact; the columns are facts, label"),
    ({"prompt": "{{ facts"}, BadConfig, "spec.dataset.prompt: not a valid template"),
    ({"prompt": "{{ facts.__class__.__mro__ }}"}, BadConfig, "nothing of Python"),
    ({"prompt": "{{ ''.__class__.__base__.__subclasses__() }}"}, BadConfig, "nothing of Python"),
    ({"prompt": "{% for i in range(10 ** 9) %}x{% endfor %}"}, BadData, "train row 1: prompt: the template fails"),
    ({"prompt": "{{ 1 // 0 }}"}, BadData, "the template fails"),
    ({"source": "file:///nowhere/rows.jsonl"}, MissingInput, "no such file"),
    ({"completion": "not JSON"}, BadData, "train row 1: the answer is not valid JSON"),
    ({"completion": '{"level": "high", "custody": true}'}, BadData,
     r"train row 1: the answer breaks the schema at \$\.level: 'high' is not of type 'integer'"),
], ids=["column", "syntax", "class", "subclasses", "endless", "arithmetic", "file", "JSON", "schema"])
def test_what_cannot_be_rendered_or_learnt_is_refused_with_its_place(folder, change, error, message):
    with pytest.raises(error, match=message):
        _prepare(folder, dataset=change)


def test_a_bad_row_in_the_middle_is_named_and_counted(folder):
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    rows[16]["label"]["level"] = "x"
    del rows[17]["facts"]
    rows[18]["facts"] = "  "
    _write(folder, rows)
    with pytest.raises(BadData) as caught:
        _prepare(folder)
    for part in ("3 rows can't be used", "train row 17: the answer breaks the schema", "train row 18: prompt: 'facts'",
                 "train row 19: prompt is empty"):
        assert part in str(caught.value)


def test_an_empty_data_set_is_refused(folder):
    _write(folder, [])
    with pytest.raises(BadData, match="0 rows"):
        _prepare(folder)


def test_a_question_that_is_held_out_too_is_left_out_of_training_and_said(folder):
    data_folder = folder / "data"
    data_folder.mkdir()
    write_rows(data_folder / "train.jsonl", 20)
    write_rows(data_folder / "test.jsonl", 6)
    data = _prepare(folder, dataset={"source": f"file://{data_folder}/", "evaluationFraction": None,
                                     "evaluationSplit": "test"})
    assert data.counts["duplicates"] == 6
    asked = {row.tokens.prompt for row in data.held_out}
    assert not any(row.prompt in asked for row in data.train)
    finding = data.findings[0]
    assert finding.severity is Severity.WARNING
    assert "which is held out, so it is left out of training" in str(finding)


def _fit(question, answer, most, long_rows=LongRows.CUT_PROMPT, system=None):
    chat = ChatFormat(tiny_tokenizer(), system)
    example = Example("train row 5", ({"role": "user", "content": question},), answer)
    kept, finding = fit(example, chat, TrainingSpec(max_length=most, long_rows=long_rows))
    if kept is None:
        return None, finding
    return tuple(tiny_tokenizer().decode(list(ids)) for ids in (kept.tokens.prompt, kept.tokens.answer)), finding


def test_a_long_row_loses_the_middle_of_its_question_and_neither_its_markers_nor_its_system_prompt():
    # Every character is a token of the tiny tokenizer, and a marker is one.
    question = "a" * 50 + "b" * 50
    (prompt, answer), finding = _fit(question, "xyz", 60, system="be brief")
    assert answer == "xyz<|im_end|>"
    assert prompt == ("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\naaaaaaaaaabbbbbbbbb<|im_end|>\n"
                      "<|im_start|>assistant\n")
    assert str(finding) == "train row 5: 141 tokens, more than maxLength 60, so the middle of its question is cut"
    assert _fit(question, "xyz", 60, LongRows.DROP, "be brief")[0] is None
    assert _fit(question, "xyz", 60, LongRows.REFUSE)[1].severity is Severity.ERROR
    assert _fit(question, "xyz", 200, LongRows.REFUSE)[1] is None


def test_a_cut_row_is_no_longer_than_allowed_and_loses_little_more_than_it_has_to():
    (prompt, _), _ = _fit("ab " * 200 + "판결 " * 40 + "!", "yes", 200)
    assert 190 <= len(tiny_tokenizer()(prompt + "yes<|im_end|>")["input_ids"]) <= 200
    assert prompt.endswith("판결 !<|im_end|>\n<|im_start|>assistant\n")


def test_an_answer_that_does_not_fit_is_an_error_and_not_cut():
    kept, finding = _fit("q" * 20, "a" * 49, 40)
    assert kept is None
    assert "the answer alone has 50" in str(finding)


def test_the_digest_changes_with_a_single_token(folder):
    assert _prepare(folder).digest() == _prepare(folder).digest()
    assert _prepare(folder).digest() != _prepare(folder, dataset={"prompt": "{{ facts }}."}).digest()


def test_chat_messages_are_an_alternative_to_templates(folder):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    _write(folder, [{"chat": [{**chat[0], "content": f"hi {n}"}, chat[1]]} for n in range(10)])
    change = {"prompt": None, "completion": None, "messages": "chat", "answerFormat": None}
    assert _prepare(folder, dataset=change).held_out[0].example.answer == "hello"
    _write(folder, [{"chat": chat}, {"chat": chat[:1]}, {"chat": [*chat, chat[0]]}, {"chat": [{"role": "robot"}] * 2}])
    with pytest.raises(BadData, match=r"at least two messages.*the last message must be.*message 1 has "):
        _prepare(folder, dataset=change)
    with pytest.raises(BadConfig, match="no row has a column talk; the columns are chat"):
        _prepare(folder, dataset={**change, "messages": "talk"})


def test_templates_write_json_without_escaping_it_for_html(folder):
    _write(folder, [{"facts": f"a {n}", "label": {"level": n, "custody": False, "why": "a < b & 한글"}}
                    for n in range(10)])
    data = _prepare(folder, dataset={"answerFormat": None})
    assert '"why": "a < b & 한글"' in data.held_out[0].example.answer


def test_rows_in_the_schema_of_ljp_criminal_load_through_the_datasets_library(tmp_path):
    import datasets

    label = {"text": "벌금 100만원", "fine_lv": 1, "imprisonment_with_labor_lv": 0, "imprisonment_without_labor_lv": 0}
    rows = [{"id": n, "casetype": "criminal", "casename": "fraud", "facts": f"피고인은 {n}회 거짓말을 하였다.",
             "reason": "", "label": label,
             "ruling": {"text": "", "parse": {"fine": {"type": "", "unit": "won", "value": -1},
                                              "imprisonment": {"type": "", "unit": "", "value": -1}}}}
            for n in range(10)]
    config = tmp_path / "lbox_open" / "ljp_criminal"
    config.mkdir(parents=True)
    for split, part in (("train", rows[:7]), ("validation", rows[7:])):
        datasets.Dataset.from_list(part).to_parquet(config / f"{split}.parquet")
    data = _prepare(tmp_path, dataset={
        "source": f"file://{config}/", "evaluationFraction": None, "evaluationSplit": "validation",
        "completion": '{"fine": {{ label.fine_lv }}, "with": {{ label.imprisonment_with_labor_lv }}}',
        "answerFormat": {"type": "json", "schema": None}})
    assert data.held_out[0].example.answer == '{"fine": 1, "with": 0}'
    assert data.held_out[0].example.location == "validation row 1"
