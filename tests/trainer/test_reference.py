"""A reference model behind an endpoint that is slow, busy, broken or hostile: what is asked, paid for and said."""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from finetune_api import parse_job, resolve_defaults
from finetune_api.values.uris import parse_uri
from finetune_trainer.clock import SystemClock
from finetune_trainer.data.rows import EvaluationRow, Example, TokenRow
from finetune_trainer.errors import BadConfig, MissingInput, StopRequested
from finetune_trainer.evaluation.reference import asking as reference_module
from finetune_trainer.evaluation.reference.asking import Reference, check_reference
from finetune_trainer.evaluation.reference.endpoint import Endpoint, EndpointAnswer, RequestLimits
from finetune_trainer.evaluation.reference.stored_answers import StoredAnswers
from finetune_trainer.storage import open_storage

from tests.models import tiny_job
from tests.s3 import free_ports
from tests.trainer.endpoints import endpoint, said

HURRIED = RequestLimits(request_seconds=5.0, total_seconds=20.0, tries=3, pause_seconds=0.0, parallel=4)
RIGHT = '{"level": 1}'


def rows(count=2):
    return [EvaluationRow(Example(f"test row {n}", ({"role": "user", "content": f"case {n}"},), f'{{"level": {n}}}'),
                          TokenRow((1,), (2,))) for n in range(1, count + 1)]


def spec(url, model="gpt-4", system="be brief", **sections):
    return resolve_defaults(parse_job(tiny_job(
        Path("/nowhere"), dataset={"system": system},
        evaluation={"reference": {"url": url, "model": model}}, **sections)).spec)


def compare(url, count=2, kept=None, patience=HURRIED, check=lambda: None, stopped=lambda: False, model="gpt-4"):
    asking = Reference(spec(url, model), rows(count), kept, SystemClock(), stopped, patience).start()
    return asking.collect(check)


def test_a_reference_model_answers_the_same_questions_and_is_scored(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary-key\n")
    with endpoint(lambda body, number, handler: (200, said(RIGHT))) as (url, asked):
        compared = compare(url)
    assert compared.scores["fieldsMatch"] == 0.5
    assert compared.scores["jsonValid"] == 1.0
    assert "loss" not in compared.scores
    assert compared.findings == ()
    assert compared.answers == {0: RIGHT, 1: RIGHT}
    path, authorization, body = min(asked, key=lambda one: one[2]["messages"][-1]["content"])
    assert (path, authorization) == ("/v1/chat/completions", "Bearer canary-key")
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "case 1"}]
    assert body["max_tokens"] == 256, "what an answer costs is bounded"


def _cut_off(handler):
    """Promise more than is sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


@pytest.mark.parametrize("trouble", ["429", "500", "503", "cut off", "no JSON", "no choices", "[" * 3000],
                         ids=lambda value: value[:10])
def test_passing_trouble_is_tried_again_and_leaves_no_trace(trouble):
    def answer(body, number, handler):
        if number >= 2:
            return 200, said(RIGHT)
        if trouble.isdecimal():
            return int(trouble), b"", ("Retry-After", "0")
        if trouble == "cut off":
            return _cut_off(handler)
        return 200, {"no JSON": b"<html>", "no choices": b'{"choices": []}'}.get(trouble, trouble.encode())

    with endpoint(answer) as (url, asked):
        compared = compare(url)
    assert (compared.scores["jsonValid"], compared.findings) == (1.0, ())
    assert len(asked) == 4


@pytest.mark.parametrize("status", [500, 429])
def test_an_endpoint_that_never_answers_is_a_finding(status):
    with endpoint(lambda body, number, handler: (status, b"")) as (url, asked):
        compared = compare(url)
    assert compared.scores is None
    assert f"gave no answer after 3 tries (it answered {status})" in compared.findings[0]
    assert len(asked) <= 6
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}/v1"
    assert "(ConnectError)" in compare(nobody).findings[0]


def test_one_that_answers_some_questions_is_scored_over_these():
    def answer(body, number, handler):
        return (200, said(RIGHT)) if "case 1" in body["messages"][-1]["content"] else (500, b"")

    with endpoint(answer) as (url, _):
        compared = compare(url)
    assert compared.scores["fieldsMatch"] == 1.0
    assert "answered 1 of 2 questions, and its scores cover only these" in compared.findings[0]


def test_an_answer_counts_though_another_question_was_given_up_before_it():
    given_up, tries = threading.Event(), []

    def answer(body, number, handler):
        if "case 1" in body["messages"][-1]["content"]:
            given_up.wait(10)
            return 200, said(RIGHT)
        tries.append(number)
        if len(tries) == HURRIED.tries:
            given_up.set()
        return 500, b""

    with endpoint(answer) as (url, _):
        compared = compare(url)
    assert "answered 1 of 2 questions" in compared.findings[0]
    assert f"gave no answer after {HURRIED.tries} tries" in compared.findings[0]


@pytest.mark.parametrize(("status", "kind"), [(401, MissingInput), (403, MissingInput), (404, BadConfig),
                                              (400, BadConfig), (307, BadConfig)])
def test_a_refusal_ends_the_asking_parallel_and_is_told_before_the_start_without_the_key(status, kind, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary-key")
    with endpoint(lambda *_: (status, b"canary-key", ("Location", "http://127.0.0.1/"))) as (url, asked):
        compared = compare(url, 50)
        assert compared.scores is None
        assert f"(model gpt-4) answered {status}; check url, model and the key" in compared.findings[0]
        assert len(asked) <= HURRIED.parallel
        with pytest.raises(kind, match=f"answered {status}") as caught:
            check_reference(spec(url), rows(), SystemClock())
    assert "canary" not in str(caught.value) + compared.findings[0]


def test_the_check_asks_one_question_and_takes_passing_trouble_for_a_warning(monkeypatch):
    with endpoint(lambda body, number, handler: (200, said(RIGHT))) as (url, asked):
        assert check_reference(spec(url), rows(9), SystemClock()) is None
        assert len(asked) == 1
    monkeypatch.setattr(reference_module, "CHECK", HURRIED)
    with endpoint(lambda body, number, handler: (503, b"")) as (url, asked):
        assert "it answered 503" in check_reference(spec(url), rows(9), SystemClock())
    plain = resolve_defaults(parse_job(tiny_job(Path("/nowhere"))).spec)
    assert check_reference(plain, rows(), SystemClock()) is None


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999/v1", "http://[abc", "https://[::1", "http://\u2603.x:y"])
def test_an_address_that_is_none_is_told_in_words(address, monkeypatch):
    monkeypatch.setattr(reference_module, "CHECK", HURRIED)
    asked = spec("http://127.0.0.1/v1")
    broken = asked.evaluation.reference.model_copy(update={"url": address})
    asked = asked.model_copy(update={"evaluation": asked.evaluation.model_copy(update={"reference": broken})})
    try:
        words = check_reference(asked, rows(), SystemClock())
    except BadConfig as error:
        words = str(error)
    assert "spec.evaluation.reference: " in words


def test_a_key_with_characters_that_no_key_has_is_told_and_no_connection_is_left_open(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "schl\u00fcssel\u2603")
    with endpoint(lambda body, number, handler: (200, said(RIGHT))) as (url, asked):
        with pytest.raises(BadConfig, match="the key OPENAI_API_KEY for characters"):
            check_reference(spec(url), rows(1), SystemClock())
        assert "for characters" in compare(url, 1).findings[0]
        assert not asked


def test_models_that_take_neither_max_tokens_nor_a_temperature_are_asked_without():
    def answer(body, number, handler):
        if "max_tokens" in body:
            return 400, b"Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        if "temperature" in body:
            return 400, b"Unsupported value: 'temperature' does not support 0 with this model."
        return 200, said(RIGHT)

    with endpoint(answer) as (url, asked):
        assert compare(url, 1).scores["jsonValid"] == 1.0
    assert asked[-1][2]["max_completion_tokens"] == 256


def test_threads_that_meet_the_same_refused_parameter_together_all_ask_again_without_it():
    together = threading.Barrier(2, timeout=20)

    def answer(body, number, handler):
        if "max_tokens" in body:
            together.wait()
            return 400, b"Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return 200, said(RIGHT)

    with endpoint(answer) as (url, _):
        compared = compare(url, 2)
    assert (compared.findings, compared.scores["jsonValid"]) == ((), 1.0)


CALL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Seoul", "days": 2}}}


def tool_row(messages, tools):
    example = Example("test row 1", tuple(messages), RIGHT, tools=tools)
    return [EvaluationRow(example, TokenRow((1,), (2,)))]


def test_calls_and_functions_of_a_row_are_sent_as_openai_takes_them():
    question = {"role": "user", "content": "what?"}
    messages = [question, {"role": "assistant", "content": "", "tool_calls": [CALL, {**CALL, "id": "own"}]},
                {"role": "tool", "content": "sunny"}, {"role": "tool", "content": "rain", "tool_call_id": "own"}]
    function = {"name": "weather", "parameters": {"type": "object"}}
    for tools in ([function], [{"type": "function", "function": function}]):
        with endpoint(lambda body, number, handler: (200, said(RIGHT))) as (url, asked):
            check_reference(spec(url), tool_row(messages, tools), SystemClock())
        body = asked[0][2]
        assert body["tools"] == [{"type": "function", "function": function}]
        _, _, call, first, second = body["messages"]
        assert [json.loads(one["function"]["arguments"]) for one in call["tool_calls"]] == [
            {"city": "Seoul", "days": 2}] * 2
        assert [one["id"] for one in call["tool_calls"]] == ["call_1", "own"]
        assert (first["tool_call_id"], second["tool_call_id"]) == ("call_1", "own")
    assert isinstance(CALL["function"]["arguments"], dict), "the row stays as it is"


def test_an_endpoint_without_function_calls_is_asked_without_them_and_an_answered_call_is_a_text():
    def refuse(body, number, handler):
        if "tools" in body:
            return 400, b'"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        return 200, said(RIGHT)

    rows = tool_row([{"role": "user", "content": "what?"}], [{"name": "weather"}])
    with endpoint(refuse) as (url, asked):
        assert check_reference(spec(url), rows, SystemClock()) is None
    assert ["tools" in body for _, _, body in asked] == [True, False]
    called = {"content": None, "tool_calls": [{"id": "x", "function": {"name": "weather", "arguments": '{"a": 1}'}}]}
    content = json.dumps({"choices": [{"message": called, "finish_reason": "tool_calls"}]}).encode()
    with endpoint(lambda body, number, handler: (200, content)) as (url, _):
        answer = Endpoint(spec(url).evaluation.reference, 8, HURRIED, SystemClock().seconds, lambda _: False).ask(
            rows[0].example.messages, rows[0].example.tools)
    assert answer.text == '<tool_call>\n{"name": "weather", "arguments": {"a": 1}}\n</tool_call>'


def test_no_more_questions_are_asked_than_the_cap_and_cut_answers_are_counted(monkeypatch):
    monkeypatch.setattr(reference_module, "MAX_QUESTIONS", 3)
    with endpoint(lambda body, number, handler: (200, said(RIGHT, "length"))) as (url, asked):
        compared = compare(url, 5)
    assert len(asked) == 3
    assert "asked the first 3 of 5 questions" in compared.findings[0]
    assert "3 of the reference model's answers were cut at 256 tokens" in compared.findings[1]


def test_an_answer_without_an_end_is_given_up_on():
    over = threading.Event()

    def drip(body, number, handler):
        handler.send_response(200)
        handler.end_headers()
        while not over.wait(0.02):
            handler.wfile.write(b" ")

    def flood(body, number, handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" " * (1 << 16))

    for answer in (drip, flood):
        with endpoint(answer) as (url, _):
            hurried = RequestLimits(request_seconds=0.3, total_seconds=20.0, tries=2, pause_seconds=0.0)
            try:
                assert "(TimeoutError)" in compare(url, 1, patience=hurried).findings[0]
            finally:
                over.set()


def test_a_slow_endpoint_costs_no_more_time_than_all_questions_may_take_and_a_stop_ends_the_wait():
    over = threading.Event()

    def slow(body, number, handler):
        over.wait(30)

    with endpoint(slow) as (url, _):
        try:
            hurried = RequestLimits(request_seconds=30.0, total_seconds=0.3, tries=2)
            assert compare(url, 1, patience=hurried).findings == ("the reference model did not answer in time",)

            def stop():
                raise StopRequested("stopped")

            with pytest.raises(StopRequested):
                compare(url, 1, check=stop)
            assert compare(url, 1, stopped=lambda: True).scores is None
        finally:
            over.set()


def test_answers_are_kept_and_not_paid_for_again(tmp_path):
    storage = open_storage(parse_uri(f"file://{tmp_path}/out", ("file",)), None)
    kept = (storage, "team/reference-answers")

    def first(body, number, handler):
        return (200, said(RIGHT)) if "case 1" in body["messages"][-1]["content"] else (500, b"")

    with endpoint(first) as (url, asked):
        compare(url, 2, kept)
        before = len(asked)
        compared = compare(url, 2, kept)
        assert all("case 2" in body["messages"][-1]["content"] for _, _, body in asked[before:])
        assert compared.scores["fieldsMatch"] == 1.0
        (key,) = storage.keys(kept[1])
        asked_then = json.loads(storage.get_bytes(key))["asked"]
        for content in (b"{", b"[]", b'{"asked": 1}', b'{"asked": "2026"}', b'{"answers": ' + b"[" * 5000,
                        json.dumps({"asked": asked_then, "answers": {"-1": {}, "0": 3}}).encode()):
            storage.put_bytes(key, content)
            assert compare(url, 2, kept).scores["fieldsMatch"] == 1.0


@pytest.fixture
def output(tmp_path):
    """A folder of stored answers in an output."""
    return open_storage(parse_uri(f"file://{tmp_path}/out", ("file",)), None), "team/reference-answers"


class Days:
    """A clock that stands at a day, and whose seconds are real."""

    def __init__(self, day):
        self.day = day

    def now(self):
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=self.day)

    def seconds(self):
        return SystemClock().seconds()


def answered(job, output, asked_rows=None, day=0):
    """The result of asking for a job, and the number of answers that it adopted."""
    reference = Reference(job, asked_rows or rows(), output, Days(day), lambda: False, HURRIED).start()
    return reference.collect(lambda: None), reference.adopted


def test_the_variants_of_an_experiment_ask_the_same_questions_once(output):
    with endpoint(lambda body, number, handler: (200, said(RIGHT, "length"))) as (url, asked):
        first, adopted = answered(spec(url), output)
        assert (len(asked), adopted) == (2, 0)
        variant = spec(url, method={"lora": {"rank": 2}}, training={"learningRate": 0.001})
        assert answered(variant, output) == (first, 2), "cut answers are still counted"
        corrected = [replace(row, example=replace(row.example, answer=RIGHT)) for row in rows()]
        assert answered(variant, output, corrected)[0].scores["fieldsMatch"] == 1.0, "scored with its own answers"
        assert len(asked) == 2


@pytest.mark.parametrize("change", ["model", "system", "question", "age"])
def test_a_job_that_asks_something_else_or_much_later_asks_itself(output, change):
    with endpoint(lambda body, number, handler: (200, said(RIGHT))) as (url, asked):
        answered(spec(url), output)
        job = spec(url, **{"model": {"model": "gpt-5"}, "system": {"system": "be right"}}.get(change, {}))
        questions = rows(3)[1:] if change == "question" else rows()
        assert answered(job, output, questions, day=8 if change == "age" else 0)[1] == 0
        assert len(asked) == 4
        assert answered(job, output, questions, day=9 if change == "age" else 7)[1] == 2
        assert len(asked) == 4


def test_two_jobs_that_ask_at_the_same_time_store_the_answers_of_both(output):
    there = StoredAnswers(output[0], f"{output[1]}/x.json", Days(0))
    there.write({0: EndpointAnswer("a")})
    there.write({1: EndpointAnswer("b", True)})
    assert there.read() == {0: EndpointAnswer("a"), 1: EndpointAnswer("b", True)}
