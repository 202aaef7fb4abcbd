"""Judging an answer never raises and never hangs, whatever was written by a model, a data set or a schema's author."""

import contextlib
import http.server
import json
import os
import random
import signal
import threading
import time

import pytest
from finetune_api.methods.reft import RewardSpec
from finetune_api.spec.dataset import AnswerFormat, AnswerType
from finetune_api.spec.evaluation import Metric
from finetune_trainer.data.answers.json_answers import AnswerSchema, NotJson, parse_json
from finetune_trainer.data.answers.row_findings import answer_findings
from finetune_trainer.data.rows import Example
from finetune_trainer.data.time_limit import TookTooLong, within
from finetune_trainer.errors import BadConfig
from finetune_trainer.evaluation.scores import majority_scores, score
from finetune_trainer.rewards.rewards import Judge

ROUNDS = int(os.environ.get("FINETUNE_FUZZ", "150"))
"""Rounds of the random test: a few thousand take minutes."""

TREE = {"$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "$ref": "#/$defs/node"}
ENDLESS = {"properties": {"a": {"$ref": "#/properties/a"}}}
SLOW = {"type": "string", "pattern": "^(a+)+$"}
# 2^40 ways through 41 definitions.
MANY = {"$defs": {**{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}, "d40": {}},
        "$ref": "#/$defs/d0"}
MULTIPLE = {"multipleOf": 1e-300}
MIXED = {"uniqueItems": True}
HOSTILE = [
    ("[" * 960 + "]" * 960, TREE), ("[" * 100_000, TREE), ("[" * 60 + "]" * 60, TREE), ("9" * 400, MULTIPLE),
    ("1e999", MULTIPLE), ("-1e999", {"type": "number"}), ("1" * 5000, {}), ("1.5", {"multipleOf": 10**400}),
    ('"' + "a" * 40 + '!"', SLOW), ('{"' + "a" * 40 + '!": 1}', {"patternProperties": {"^(a+)+$": False}}),
    ('{"' + "a" * 40 + '!": 1}', {"patternProperties": {"^(a|a)*$": {}}, "additionalProperties": False}),
    ('{"' + "a" * 40 + '!": 1}', {"patternProperties": {"^(a|a)*$": {}}, "unevaluatedProperties": False}),
    ("1", MANY), (json.dumps([x for n in range(4000) for x in (n, str(n))]), MIXED), ('{"a": 1}', ENDLESS),
    ('"\\ud800"', {"type": "string"}), ('{"\\udfff": 1}', {"minProperties": 1}), ("NaN", {"type": "number"}),
    ("[Infinity]", {"type": "array"}), ("", {}), ("\x00", {}), ("\ud800", {}),
]
REWARDS = [{"type": "finalAnswer"}, {"type": "finalAnswer", "trigger": "a"}, {"type": "json"}]


def _example(answer, target="4"):
    return Example("train row 7", ({"role": "user", "content": "q"},), answer, target)


def _findings(answer, schema):
    # Past the bounds that the API sets a schema: what gets here is judged all the same.
    form = AnswerFormat.model_construct(type=AnswerType.JSON, json_schema=schema)
    return answer_findings([_example(answer)], form)


@pytest.mark.parametrize(("answer", "schema"), HOSTILE, ids=range(len(HOSTILE)))
def test_what_cannot_be_judged_is_wrong_in_every_place_and_in_a_moment(answer, schema, monkeypatch):
    monkeypatch.setattr(f"{AnswerSchema.__module__}.SECONDS", 0.1)
    began = time.monotonic()
    scores = score([answer, "1"], [answer, answer], list(Metric), AnswerSchema(schema))
    assert scores[Metric.SCHEMA_VALID] in (0.0, 1.0)
    for reward in REWARDS:
        judge = Judge(RewardSpec.model_validate_json(json.dumps(reward)))
        for right in ('{"a": 1}', "1e5", "x"):
            if reward["type"] != "json" or right[0] == "{":
                verdict, again = judge.judge([answer, f"a #### {answer}"], [_example("", right)] * 2)
                assert 0 <= verdict.reward <= 1 and 0 <= again.reward <= 1
    try:
        faults = _findings(answer, schema)
    except BadConfig as error:
        assert "checking the answer of train row 7 takes more than" in str(error)
    else:
        assert all("train row 7: the answer " in str(fault) for fault in faults)
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(("text", "words"), [
    ("NaN", "NaN is not a JSON value"), ("[-Infinity]", "-Infinity is not a JSON value"),
    ("1e999", "a number is too large for 64 bits"), ("9" * 400, "a number is too large for 64 bits"),
    ("1" * 5000, "a number has too many digits"), ("[" * 65 + "]" * 65, "nested more than 64 levels deep"),
    ("[" * 100_000, "nested more than 64 levels deep"),
    ('{"a": "\\ud83d"}', "half a surrogate pair is not a character"),
    ("[1,]", "Expecting value at character 4"),
])
def test_a_text_that_is_no_json_is_refused_with_why(text, words):
    with pytest.raises(NotJson, match=words):
        parse_json(text)
    (finding,) = _findings(text, None)
    assert str(finding) == f"train row 7: the answer is not valid JSON: {words}"


@pytest.mark.parametrize("text", ["[" * 64 + "]" * 64, '"\\ud83d\\ude00"', "1e308", "9" * 308, "[1, {}, null, true]"])
def test_a_text_that_is_json_is_read(text):
    assert parse_json(text) == json.loads(text)


def test_a_schema_that_takes_too_long_is_a_bad_description_and_names_the_row():
    with pytest.raises(BadConfig, match=r"\.jsonSchema: checking the answer of train row 7 takes"):
        _findings('"' + "a" * 40 + '!"', SLOW)


@pytest.mark.parametrize(("schema", "words"), [
    ({"$ref": "#/$defs/x"}, "the reference '#/$defs/x' leads to nothing in the schema"),
    ({"items": {"properties": {"a": {"$dynamicRef": "#x"}}}}, "the reference '#x' leads to nothing"),
    ({"$ref": "#/unknown/a", "unknown": {"a": {"$ref": "other.json"}}}, "the reference 'other.json' leads to nothing"),
    ({"$defs": {"never used": {"$ref": "file:///etc/passwd"}}}, "the reference 'file:///etc/passwd' leads to nothing"),
    ({"$ref": "http://[abc"}, r"the reference 'http://\[abc' leads to nothing"),
    ({"pattern": "("}, "'\\(' is not a 'regex'"), ({"patternProperties": {"(": {}}}, "'\\(' is not a 'regex'"),
    ({"pattern": "a{99999999999}"}, "OverflowError"), ({"pattern": "(" * 5000}, "RecursionError"),
    ({"type": "dict"}, "'dict' is not valid under any of the given schemas"),
])
def test_a_schema_that_cannot_be_used_is_told_once_before_any_row(schema, words):
    with pytest.raises(BadConfig, match=rf"^spec.dataset.answerFormat.jsonSchema: .*{words.replace('$', '[$]')}"):
        AnswerSchema(schema)


@pytest.mark.parametrize("schema", [
    {"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer"}}}, {"$ref": "#x", "$defs": {"x": {"$anchor": "x"}}},
    {"$id": "https://a/b", "$ref": "/c", "$defs": {"x": {"$id": "/c", "$ref": "#/$defs/y", "$defs": {"y": {}}}}},
    {"$ref": "https://json-schema.org/draft/2020-12/schema"}, {"items": {"$ref": "#"}},
    {"$dynamicRef": "#a", "$defs": {"a": {"$dynamicAnchor": "a", "type": ["integer", "boolean"]}}},
])
def test_a_reference_within_the_schema_is_followed(schema):
    assert AnswerSchema(schema).is_valid(True) is (schema.get("$defs", {}).get("x") != {"type": "integer"})


@pytest.fixture
def asked():
    """What a server on this machine was asked for, and its address."""
    paths = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield paths, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_nothing_is_fetched_for_a_schema(asked, tmp_path):
    paths, address = asked
    (tmp_path / "integer.json").write_text('{"type": "integer"}')
    for reference in (f"{address}/integer.json", f"file://{tmp_path}/integer.json"):
        with pytest.raises(BadConfig, match="schemas are not fetched from elsewhere"):
            AnswerSchema({"properties": {"a": {"$ref": reference}}})
    assert paths == []


def test_a_limit_on_time_ends_a_computation_and_nothing_else():
    def endless():
        while True:
            pass

    before = signal.getitimer(signal.ITIMER_REAL)[0], signal.getsignal(signal.SIGALRM)
    with pytest.raises(TookTooLong):
        within(0.05, endless)
    assert within(5, sum, [1, 2]) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, divmod, 1, 0)
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0, signal.getsignal(signal.SIGALRM)) == (before[0] > 0, before[1])


def _random_text(chance):
    parts = ['"', "{", "}", "[", "]", ":", ",", "1", "-", "e", "9" * 400, "a" * 30, "!", " ", "\n", "NaN", "true",
             "null", "\\ud800", "\ud800", "\\", "####", "#### 4", "(42).", "<203>.", "12 34", "/", "0", ".", "é",
             "\x00", "```", '{"a": 1}', "[" * 70, "]" * 70]
    return "".join(chance.choices(parts, k=chance.randrange(12)))


def _random_value(chance, depth):
    kind = chance.randrange(10 if depth else 6)
    if kind < 6:
        return [None, True, chance.randrange(-3, 3), 10**400, chance.choice([1e308, 0.1, -0.0]),
                chance.choice(["", "a" * 40 + "!", "\ud800", "x"])][kind]
    if kind < 8:
        return [_random_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    return {chance.choice(["a", "b", "a" * 30 + "!"]): _random_value(chance, depth - 1)
            for _ in range(chance.randrange(4))}


def _random_schema(chance, depth):
    below = (lambda: _random_schema(chance, depth - 1)) if depth else (lambda: True)
    choices = {
        "type": lambda: chance.choice(["object", "array", "string", "integer", "number", ["null", "boolean"]]),
        "pattern": lambda: chance.choice(["^(a+)+$", "^(a|a)*$", "x", "(.*)*y"]), "uniqueItems": lambda: True,
        "multipleOf": lambda: chance.choice([1e-300, 0.1, 3, 10**400]), "minimum": lambda: chance.choice([10**400, 0]),
        "properties": lambda: {"a": below(), "b": below()}, "patternProperties": lambda: {"^(a+)+$": below()},
        "additionalProperties": below, "unevaluatedProperties": below, "items": below, "contains": below, "not": below,
        "anyOf": lambda: [below(), below()], "allOf": lambda: [below(), below()], "$ref": lambda: "#",
        "enum": lambda: [_random_value(chance, 1)], "propertyNames": below, "required": lambda: ["a"],
    }
    return {key: choices[key]() for key in chance.sample(sorted(choices), chance.randrange(4))}


def test_random_answers_and_schemas_are_judged_without_an_error_and_in_a_moment(monkeypatch):
    monkeypatch.setattr(f"{AnswerSchema.__module__}.SECONDS", 0.05)
    judges = [Judge(RewardSpec.model_validate_json(json.dumps(reward))) for reward in REWARDS]
    for seed in range(ROUNDS):
        chance = random.Random(seed)
        described = _random_schema(chance, 3)
        schema = AnswerSchema(described)
        answers = [_random_text(chance), json.dumps(_random_value(chance, 4)), f"#### {_random_text(chance)}"]
        right = json.dumps({"a": _random_value(chance, 2)})
        began = time.monotonic()
        score([chance.choice([right, _random_text(chance)]) for _ in answers], answers, list(Metric), schema)
        majority_scores(answers, [right] * 3, list(Metric))
        with contextlib.suppress(BadConfig):  # The schema takes too long.
            answer_findings([_example(answer) for answer in answers], AnswerFormat.model_construct(
                type=AnswerType.JSON, json_schema=described))
        try:
            parse_json(right)
        except NotJson:
            right = '{"a": 1}'
        for judge in judges:
            judge.judge(answers, [_example("", right)] * 3)
        assert time.monotonic() - began < 5, f"seed {seed}"
