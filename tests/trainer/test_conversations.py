"""Chat messages in the forms in which people have them."""

import json

import pytest
from finetune_trainer.data.rendering.conversations import from_messages
from finetune_trainer.data.rows import SourceRow

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}


def _read(messages, **columns):
    examples, findings = from_messages([SourceRow("train row 1", {"m": messages, **columns})], "m")
    return examples[0] if examples else str(findings[0])


@pytest.mark.parametrize("messages", [
    [USER, ANSWER],
    json.dumps([USER, ANSWER]),
    {"messages": [USER, ANSWER]},
    [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
    [{"role": "system", "content": ""}, USER, ANSWER],
    [{**USER, "content": [{"type": "text", "text": "h"}, {"type": "input_text", "text": "i"}]},
     {**ANSWER, "content": [{"type": "text", "text": "hello"}]}],
    [{**USER, "weight": None, "tool_calls": None, "name": None}, {**ANSWER, "weight": 1}],
    [USER, ANSWER, {"role": "user", "content": "more"}, {"role": "assistant", "content": "bad", "weight": 0}],
], ids=["openai", "JSON text", "wrapped", "sharegpt", "empty system", "parts", "nulls of parquet", "weight 0"])
def test_the_same_question_and_answer_are_read_from_every_form(messages):
    example = _read(messages)
    assert (list(example.messages), example.answer) == ([USER], "hello")


def test_developers_speak_as_the_system_and_tools_are_answered():
    example = _read([{"role": "developer", "content": "Be brief."}, USER,
                     {"role": "assistant", "content": None, "tool_calls": [CALL]},
                     {"role": "tool", "tool_call_id": "c1", "content": "sunny"}, ANSWER], tools=json.dumps([{"x": 1}]))
    assert [message["role"] for message in example.messages] == ["system", "user", "assistant", "tool"]
    assert example.messages[2]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Paris"}}
    assert example.tools == [{"x": 1}]


def test_an_answer_may_be_a_call():
    example = _read([USER, {"role": "assistant", "tool_calls": [CALL]}])
    assert (example.answer, example.calls[0]["function"]["name"]) == ("", "weather")
    old = _read([USER, {"role": "assistant", "content": None, "function_call": CALL["function"]}])
    assert old.calls[0]["function"] == example.calls[0]["function"]


def test_a_row_whose_answers_all_have_weight_0_is_left_out_and_told():
    assert _read([USER, {**ANSWER, "weight": 0}]) == (
        "train row 1: m: no answer has a weight other than 0, so the row is left out")


@pytest.mark.parametrize(("messages", "words"), [
    ("text", "it is not a list of at least two messages"),
    ('[{"role": NaN}]', "NaN is not a JSON value"),
    ([USER, {**ANSWER, "content": [{"type": "image_url", "image_url": "x"}]}],
     "message 2 has a part of type image_url; only text can be trained on"),
    ([USER, {**ANSWER, "content": {"a": 1}}], "message 2 has the content {\"a\": 1}; it must be a text"),
    ([{"role": "robot", "content": "x"}, ANSWER],
     "message 1 has the role 'robot'; it must be one of system, user, assistant, tool"),
    ([{"content": "x"}, ANSWER], "message 1 has no role; it must be one of"),
    (["x", ANSWER], "message 1 has no role; it must be one of"),
    ([USER, {**ANSWER, "content": " "}], "message 2 has no content"),
    ([USER, {"role": "assistant", "tool_calls": [{}]}], "message 2 has a tool call without the name of a function"),
    ([USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
     "message 2: the arguments of f are not valid JSON"),
    ([ANSWER, ANSWER], "the last message must be the assistant's, after the user's"),
    ([USER, ANSWER, USER], "the last message must be the assistant's, after the user's"),
    ([USER, {**ANSWER, "content": "\ud83d"}], "message 2: character 1 is a lone surrogate"),
    ([{**USER, "score": float("nan")}, ANSWER], "nan is not a number"),
])
def test_what_is_no_conversation_is_refused_with_its_message(messages, words):
    assert _read(messages).startswith("train row 1: m: ")
    assert words in _read(messages)
