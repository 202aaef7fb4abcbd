"""Reading answers out of responses, what they are worth, and rows for which that can't be told."""

import json

import pytest
from finetune_api.methods.reft import RewardSpec
from finetune_api.spec.evaluation import Metric
from finetune_trainer.data.answers.json_answers import AnswerSchema
from finetune_trainer.data.rows import Example, Severity, SourceRow
from finetune_trainer.errors import BadConfig, BadData
from finetune_trainer.evaluation.scores import score_with_rows
from finetune_trainer.rewards.judging import final_answer, judge_answer, number, same_text
from finetune_trainer.rewards.rewards import Judge, with_right_answers

from tests.trainer.judging import PLUGINS


@pytest.mark.parametrize(("text", "answer"), [
    ("2+2=4\n#### 4", "4"), ("#### 4\n#### 5 ", "5"), ("#### 4\nand more", "4"), ("####\n 7", "7"),
    ("no trigger: 4", None), ("####", None), ("#### \n ", None), ("", None), ("a ####b c", "b c"),
])
def test_the_final_answer_is_what_follows_the_last_trigger(text, answer):
    assert final_answer(text, "####") == answer


@pytest.mark.parametrize(("text", "value"), [
    ("4", 4), ("-4.50", -4.5), ("$1,234.50", 1234.5), ("-$5", -5), (".5", 0.5), ("5.", 5), ("12 %", 12), ("3/4", 0.75),
    ("**7**", 7), ("1e3", 1000), ("+2", 2), ("(8)", 8), ("", None), ("-", None), ("five", None), ("5 apples", None),
    ("1/0", None), ("1e999", None), ("nan", None), ("4 5x", None), ("--4", None),
    ("<203>.", 203), ("(42).", 42), ("**18**.", 18), ("`7`;", 7), ("[3/4]!", 0.75), ("{-2}", -2), ("$-5", -5),
    ("- 5", -5),
    ("\u22125", -5), ("+ $ 5.", 5), ("€ 5", 5), ("5€", 5), ("50%.", 50), (" 3 / 4 ", 0.75), ("1/1,000", 0.001),
    ("1,234,567", 1234567), ("12,34,567", 1234567), ("1 234", 1234), ("1\u202f234\u202f567.5", 1234567.5),
    ("12 34", None), ("1,5", None), ("1,23", None), ("1234,567", None), ("12 345 6", None), ("1 1/2", None),
    ("1,234.5,6", None), ("1.2.3", None), ("$$5", None), ("5 %%", None), ("3/-4", None), (".", None), ("$", None),
    ("1e", None), ("/2", None), ("0x10", None), ("1_000", None), ("\u0661\u0662", 12), ("9" * 400, None),
    ("1/" + "9" * 400, 0), ("9" * 400 + "/" + "9" * 400, None), ("(" * 1000 + "1" + ")" * 1000, 1),
])
def test_a_number_is_read_with_what_people_write_around_it(text, value):
    assert number(text) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(("right", "given", "same"), [
    ("B", "b", True), ("B", "(B)", True), ("B", "B) 12 apples", True), ("B", "b.", True), ("B", "C", False),
    ("B", "Both", False), ("New  York", "new york.", True), ("yes", "no", False), ("(A)", "A", True),
])
def test_words_and_choices_are_compared_without_what_stands_around_them(right, given, same):
    assert same_text(right, given) is same


@pytest.mark.parametrize(("found", "right", "reward"), [
    ("4", "4", 1), ("4.009", "4", 1), ("4.02", "4", 0.1), ("5", "4", 0.1), ("four", "4", 0), (None, "4", 0),
    ("b", "B", 1), ("C", "B", 0.1), ("yes", "no", 0.1), ("1,000", "1000", 1),
])
def test_a_right_answer_is_worth_one_a_wrong_one_of_its_type_a_tenth_and_none_nothing(found, right, reward):
    verdict = judge_answer(found, right, tolerance=1e-2, partial=0.1)
    assert (verdict.reward, verdict.right) == (reward, reward == 1)


def _judge(**reward):
    written = {"type": "finalAnswer", **reward}
    return Judge(RewardSpec.model_validate_json(json.dumps(written)), (reward.get("plugin"),))


def _example(answer, target=None, location="train row 1", columns=None):
    return Example(location, ({"role": "user", "content": "q"},), answer, target, columns or {})


@pytest.mark.parametrize(("response", "reward"), [
    ('{"a": 1, "b": "x"}', 1), ('{"b": "x", "a": 1.005, "c": 3}', 1), ('{"a": 1, "b": "y"}', 0.1 + 0.9 / 2),
    ('{"a": true, "b": "y"}', 0.1), ("{}", 0.1), ("[1]", 0), ("not JSON", 0), ('because …\n####{"a": 1, "b": "x"}', 1),
    ('{"a": NaN}', 0), ("[" * 100_000, 0),
])
def test_a_json_answer_has_credit_for_each_field(response, reward):
    (verdict,) = _judge(type="json").judge([response], [_example("", '{"a": 1, "b": "x"}')])
    assert verdict.reward == pytest.approx(reward)
    assert verdict.right is (reward == 1)


@pytest.mark.parametrize(("response", "reward"), [
    ('{"reason": "other words", "fine": 2, "custody": false}', 1), (' {"custody": false, "fine": 2.0, "x": 1}\n', 1),
    ('{"fine": 1, "custody": false}', 0.1), ('{"fine": 2.005, "custody": false}', 0.1),
    ('{"fine": 2, "custody": 0}', 0.1), ('{"fine": 2}', 0), ("{}", 0), ("[2]", 0), ("no JSON", 0),
    ('#### {"fine": 2, "custody": false}', 0),
])
def test_a_json_answer_is_right_if_its_classes_are_whatever_its_free_text_says(response, reward):
    train = [_example(json.dumps({"reason": f"text {fine}", "fine": fine, "custody": False}), location=f"row {fine}")
             for fine in range(15)]
    judge = _judge(type="fieldsMatch")
    rows, _, findings = with_right_answers(train, (), [SourceRow(row.location, {}) for row in train], judge)
    assert findings == []
    (verdict,) = judge.judge([response], [rows[2]])
    assert (verdict.reward, verdict.right) == (reward, reward == 1)


def test_the_reward_and_the_metric_of_its_name_agree_on_every_answer():
    rows: list[dict] = [{"reason": f"text {row}", "fine": row % 3, "guilty": row % 2 == 0, "kind": "ab"[row % 2]}
                        for row in range(16)]
    changes: list[dict] = [{}, {"reason": ""}, {"fine": 9}, {"guilty": 1}, {"kind": "A"}, {"fine": None}, {"more": [1]},
                           {"fine": 1.0, "guilty": True}]
    expected = [json.dumps(row) for row in rows]
    given = [json.dumps(row | changes[index % 8]) for index, row in enumerate(rows)]
    given[3], given[4], given[5] = "{}", expected[4][:-1], f"Answer: {expected[5]}"
    examples = [_example(text, location=f"row {index}") for index, text in enumerate(expected)]
    judge = _judge(type="fieldsMatch")
    judged = with_right_answers(examples, (), [SourceRow(one.location, {}) for one in examples], judge)[0]
    by_metric = score_with_rows(expected, given, [Metric.FIELDS_MATCH]).by_row["fieldsMatch"]
    assert [float(verdict.right) for verdict in judge.judge(given, judged)] == by_metric
    assert 0 < sum(by_metric) < len(rows)


def test_roll_outs_and_held_out_answers_are_right_by_the_same_fields():
    """Two texts in three rows would be classes, were they alone; the schema's are classes in any case."""
    answers = [json.dumps({"reason": f"text {row}", "verdict": f"word {row}", "fine": row % 3}) for row in range(15)]
    examples = [_example(answer, location=f"row {row}") for row, answer in enumerate(answers)]
    schema = AnswerSchema({"properties": {"verdict": {"enum": [f"word {row}" for row in range(15)]}}})
    train, held_out, findings = with_right_answers(
        examples[:12], examples[12:], [SourceRow(one.location, {}) for one in examples], _judge(type="fieldsMatch"),
        schema)
    assert (len(train), len(held_out), findings) == (12, 3, [])
    assert json.loads(held_out[0].target) == {"verdict": "word 12", "fine": 0}
    assert {frozenset(json.loads(one.target)) for one in (*train, *held_out)} == {frozenset(("verdict", "fine"))}


def test_answers_of_free_text_alone_cannot_be_judged_by_their_fields():
    with pytest.raises(BadConfig, match=r"reward\.type: fieldsMatch compares fields whose values are classes, and the "
                                        r"right answers have none \(x: it has 3 different texts in 3 rows; .* enum in"):
        _rows(['{"x": "a"}', '{"x": "b"}', '{"x": "c"}'], {"type": "fieldsMatch"})


def test_a_program_is_judged_by_what_it_returns():
    programs = ["def solution():\n    return 6 * 7", "```python\ndef solution():\n    return 41.0\n```\nDone.",
                "def solution():\n    return 'many'", "print(42)", "no program"]
    judge = _judge(type="program", answer="{{ answer }}", timeout="2s")
    verdicts = judge.judge(programs, [_example("", "42")] * 5)
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.1, 0.0, 0.0, 0.0]


@pytest.fixture
def installed(monkeypatch):
    """Plug-ins of an installed package."""
    monkeypatch.syspath_prepend(PLUGINS)


def test_a_plugin_sees_response_answer_and_row(installed):
    judge = _judge(type="plugin", plugin="with-unit")
    verdicts = judge.judge(["5 kg", "5"], [_example("", "5", columns={"unit": " kg"})] * 2)
    assert [(verdict.reward, verdict.right) for verdict in verdicts] == [(1.0, True), (0.25, False)]


@pytest.mark.parametrize(("name", "words"), [
    ("not-a-number", "returned nan for train row 9; a reward is a number from 0 to 1"),
    ("too-much", "returned 7 for train row 9"),
    ("truth", "returned True for train row 9"), ("out-of-order", "fails for train row 9: RuntimeError: out of order"),
])
def test_a_plugin_that_fails_is_told_with_the_row(installed, name, words):
    judge = _judge(type="plugin", plugin=name)
    with pytest.raises(BadData, match=r"spec\.method\.reft\.reward\.plugin") as error:
        judge.judge(["x"], [_example("", "5", location="train row 9")], strict=True)
    assert words in str(error.value)
    # Once the training is on, what was learnt is worth more: the response is worth nothing, and the report says why.
    (verdict,) = judge.judge(["x"], [_example("", "5", location="train row 9")])
    assert (verdict.reward, verdict.right) == (0.0, False)
    assert words in verdict.answer


@pytest.mark.parametrize(("name", "words"), [
    ("json", "json is no entry point of the group finetune.rewards in the trainer's image; there are by-letters, "),
    ("no-module", r"no-module \(tests.trainer.no_such_module:score\) can't be loaded: ModuleNotFoundError"),
    ("no-function", r"no-function \(tests.trainer.judging:__doc__\) is no function"),
])
def test_a_plugin_that_cannot_be_had_is_told_at_once(installed, name, words):
    with pytest.raises(BadConfig, match=rf"^spec\.method\.reft\.reward\.plugin: {words}"):
        _judge(type="plugin", plugin=name)


def test_a_plugin_that_fails_for_a_rows_own_completion_ends_the_job_before_it_is_trained(installed):
    with pytest.raises(BadData, match="out-of-order fails for train row 1: RuntimeError: out of order"):
        _rows(["a", "b"], {"type": "plugin", "plugin": "out-of-order", "answer": "{{ answer }}"})


def test_a_plugin_of_two_packages_is_not_chosen_by_chance(installed, tmp_path, monkeypatch):
    other = tmp_path / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[finetune.rewards]\nby-letters = json:loads\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadConfig, match="by-letters is the name of 2 entry points"):
        _judge(type="plugin", plugin="by-letters")


@pytest.mark.parametrize("name", ["timeit", "with-unit", "os.path"])
def test_nothing_is_loaded_by_a_name_that_the_administrator_does_not_allow(installed, name):
    reward = RewardSpec.model_validate_json(json.dumps({"type": "plugin", "plugin": name}))
    with pytest.raises(BadConfig, match=f"{name} is not allowed: it has to be in the operator's settings "
                                        r"\(allowed.rewardPlugins\), or given with finetune run --allow-plugin"):
        Judge(reward, ("by-letters", "with-unit-2"))


def _rows(answers, reward, columns=None):
    examples = [_example(answer, location=f"train row {number}") for number, answer in enumerate(answers, start=1)]
    rows = [SourceRow(example.location, columns or {"answer": "4"}) for example in examples]
    found, _, findings = with_right_answers(examples, (), rows, _judge(**reward))
    return found, findings


def test_right_answers_come_from_the_template_or_from_the_row_itself():
    assert _rows(["a\n#### 4"], {})[0][0].target == "4"
    assert _rows(["a\n#### 4"], {"answer": "{{ answer }}"})[0][0].target == "4"
    (found,), findings = _rows(['{"x": 1}'], {"type": "json"})
    assert (json.loads(found.target), findings) == ({"x": 1}, [])


@pytest.mark.parametrize(("answers", "reward", "columns", "words"), [
    (["a\n#### 4", "a 4"], {}, None, "train row 2: its completion has no final answer after '####' (reward.trigger)"),
    (["#### 4"], {}, None, "train row 1: its completion has no chain of thought before '####'"),
    (["a\n#### four"], {"answer": "{{ answer }}"}, None,
     "train row 1: the right answer '4' is a number, but its completion ends in 'four'"),
    (["a\n#### 4"], {"answer": "{{ answer }}"}, {"answer": ""}, "train row 1: reward.answer gives no right answer"),
    (["a\n#### 4"], {"answer": "{{ nothing }}"}, None,
     "train row 1: spec.method.reft.reward.answer: the template fails: 'nothing' is undefined"),
    (["[1]"], {"type": "json", "answer": "[1]"}, None, "train row 1: the right answer '[1]' is not a JSON object"),
    (['{"a": 1}', "[1]"], {"type": "fieldsMatch"}, None, "train row 2: reward.answer gives no right answer"),
    (["prose"], {"type": "program", "answer": "4", "timeout": "2s"}, None,
     "train row 1: its completion has no chain of thought: it is no Python that defines the function solution"),
])
def test_a_row_for_which_no_reward_can_be_told_is_an_error_with_its_place(answers, reward, columns, words):
    findings = _rows(answers, reward, columns)[1]
    assert [(finding.severity, words in str(finding)) for finding in findings] == [(Severity.ERROR, True)], findings


def test_a_row_that_is_wrong_by_its_own_measure_is_a_warning():
    (found,), (finding,) = _rows(["a\n#### 5"], {"answer": "{{ answer }}"})
    assert found.target == "4"
    assert (finding.severity, str(finding)) == (
        Severity.WARNING, "train row 1: its own completion is not right: '5', and the right answer is '4'")


def test_a_row_whose_json_is_wrong_by_the_template_is_a_warning():
    (found,), (finding,) = _rows(['{"a": 1, "b": "x"}'], {"type": "fieldsMatch", "answer": '{"a": 2}'})
    assert found.target == '{"a": 2}'
    assert (finding.severity, str(finding)) == (
        Severity.WARNING, "train row 1: its own completion is not right: '{\"a\": 1}', and the right answer is "
                          "'{\"a\": 2}'")


def test_a_trigger_that_occurs_nowhere_is_refused_with_what_the_rows_have():
    with pytest.raises(BadConfig, match=r"'####' occurs in no row's completion \(the first is 'Answer: 4'\)"):
        _rows(["Answer: 4", "Answer: 5"], {})


def test_a_template_that_is_broken_or_reaches_too_far_is_refused():
    with pytest.raises(BadConfig, match=r"reward\.answer: not a valid template"):
        _rows(["a\n#### 4"], {"answer": "{{ answer"})
    with pytest.raises(BadConfig, match="nothing of Python"):
        _rows(["a\n#### 4"], {"answer": "{{ ''.__class__ }}"})
