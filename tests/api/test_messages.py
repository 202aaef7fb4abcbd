"""What operator and trainer tell each other."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from finetune_api import ExitCode
from finetune_api.messages import (
    RESULT_BYTES,
    Limits,
    Outcome,
    PreflightResult,
    PreflightVerdict,
    ProgressMessage,
    Result,
    Stage,
)
from finetune_api.status import EvaluationScores, Memory, Progress, PublishedAdapter
from finetune_api.values.printable import printable
from pydantic import ValidationError

PUBLISHED = {Outcome.SUCCEEDED, Outcome.QUALITY_GATE, Outcome.STOPPED_EARLY, Outcome.ALREADY_PUBLISHED}
ADAPTER = PublishedAdapter(uri="s3://bucket/ns/name/uid/results/1/adapter", sha256="0" * 64, size_bytes=10**8,
                           base_model="owner/name", base_revision="main")
SCORES = EvaluationScores(before={"loss": 2.0}, after={"loss": 1.0})


@pytest.mark.parametrize("text", [
    "short", "한국어 문장입니다. " * 900, "👩‍⚖️" * 2000, '"\\' * 4000, "\x00\x1b" * 3000, "a" * 100_000, "",
], ids=["short", "korean", "emoji", "quotes", "control", "long", "empty"])
@pytest.mark.parametrize("scores", [
    None, SCORES, EvaluationScores(after={f"metric{n}": {"점수": n / 7} for n in range(500)}),
], ids=["no scores", "scores", "huge scores"])
@pytest.mark.parametrize("adapter", [
    None, ADAPTER, ADAPTER.model_copy(update={"uri": "s3://bucket/" + "학" * 4000, "base_model": "m" * 4096}),
], ids=["no adapter", "adapter", "huge adapter"])
def test_a_result_always_fits_and_reads_back(text, scores, adapter):
    result = Result(outcome=Outcome.SUCCEEDED, message=text, step=10, total_steps=10, evaluation=scores,
                    memory=Memory(peak_bytes=2**40), adapter=adapter, manifest="s3://bucket/ns/name/uid/manifest.json")
    written = result.to_bytes()
    assert len(written) <= RESULT_BYTES
    assert b"\n" not in written
    read = Result.model_validate_json(written)
    assert (read.outcome, read.step, read.total_steps) == (Outcome.SUCCEEDED, 10, 10)
    text = printable(text)
    assert read.message == text or (read.message.endswith("…") and text.startswith(read.message[:-1]))


def test_a_result_that_fits_is_written_whole():
    result = Result(outcome=Outcome.SUCCEEDED, message="done", evaluation=SCORES, adapter=ADAPTER)
    assert Result.model_validate_json(result.to_bytes()) == result


def test_the_scores_go_before_the_words():
    huge = EvaluationScores(after={f"metric{n}": n / 7 for n in range(500)})
    read = Result.model_validate_json(
        Result(outcome=Outcome.SUCCEEDED, message="done", evaluation=huge, adapter=ADAPTER).to_bytes())
    assert (read.message, read.evaluation, read.adapter) == ("done", None, ADAPTER)


def test_a_long_sentence_is_cut_as_late_as_possible_and_keeps_the_adapter():
    written = Result(outcome=Outcome.SUCCEEDED, message="판결 " * 5000, adapter=ADAPTER).to_bytes()
    assert RESULT_BYTES - 4 < len(written) <= RESULT_BYTES
    assert Result.model_validate_json(written).adapter == ADAPTER


def test_a_score_that_is_no_number_still_leaves_valid_json():
    written = Result(outcome=Outcome.DIVERGED, message="NaN",
                     evaluation=EvaluationScores(after={"loss": float("nan"), "perplexity": float("inf")})).to_bytes()
    assert json.loads(written)["evaluation"]["after"] == {"loss": None, "perplexity": None}
    assert Result.model_validate_json(written).outcome is Outcome.DIVERGED


def test_the_name_of_a_file_in_a_message_need_not_be_utf_8():
    result = Result(outcome=Outcome.BAD_DATA, message=b"caf\xe9.jsonl".decode("utf-8", "surrogateescape"))
    assert Result.model_validate_json(result.to_bytes()).message == "caf\\udce9.jsonl"


def test_a_loss_that_is_no_number_can_be_reported():
    message = ProgressMessage(stage=Stage.TRAINING, progress=Progress(step=1, total_steps=2, percent=50,
                                                                      loss=float("nan")))
    assert json.loads(message.model_dump_json())["progress"]["loss"] is None


def test_a_reader_passes_over_fields_of_a_newer_writer():
    assert Limits.model_validate_json('{"stop": true, "maxCost": "2.50", "fieldOfTheFuture": 1}') == Limits(
        stop=True, max_cost=Decimal("2.50"))


@pytest.mark.parametrize("text", [
    '{"outcome": "Succeeded", "message": "done", "evaluation": {"after": "good"}, "memory": [], "step": 3}',
    '{"outcome": "Succeeded", "message": "done", "totalSteps": "many", "step": 3}',
    '{"outcome": "Succeeded", "message": "done", "evaluation": {"after": {"loss": ' + "[" * 80 + "]" * 80 + '}}, '
    '"step": 3}',
], ids=["sections", "number", "deep"])
def test_what_a_reader_cannot_understand_of_a_result_costs_no_result(text):
    assert Result.read(text) == Result(outcome=Outcome.SUCCEEDED, message="done", step=3)


@pytest.mark.parametrize("text", [
    "", "[]", "null", '{"outcome": "Succeeded"}', '{"outcome": "Strange", "message": "m"}', "[" * 99999,
    '{"outcome": "Succeeded", "message": "done", "total_steps": "many"}',
])
def test_what_is_no_result_is_none(text):
    with pytest.raises(ValidationError):
        Result.read(text)


def test_every_bad_exit_code_has_an_outcome_of_the_same_name():
    codes = {code.name for code in ExitCode if code is not ExitCode.OK}
    outcomes = {outcome.name for outcome in Outcome if outcome not in PUBLISHED}
    assert codes == outcomes


def test_exit_codes_are_those_of_sysexits_where_it_has_one():
    import os

    assert ExitCode.BAD_CONFIG == os.EX_USAGE
    assert ExitCode.BAD_DATA == os.EX_DATAERR
    assert ExitCode.MISSING_INPUT == os.EX_NOINPUT
    assert ExitCode.OUTPUT_NOT_WRITABLE == os.EX_CANTCREAT
    assert ExitCode.STOPPED == os.EX_TEMPFAIL
    assert all(0 <= code < 126 for code in ExitCode)


def test_outcomes_are_reasons_that_a_condition_can_carry():
    assert all(outcome.value.isalpha() and outcome.value[0].isupper() for outcome in Outcome)


@pytest.mark.parametrize("text", ["short", "학" * 5000, "\x00" * 3000], ids=["short", "korean", "control"])
@pytest.mark.parametrize("published", [
    None, Result(outcome=Outcome.ALREADY_PUBLISHED, message="학" * 3000, adapter=ADAPTER, evaluation=SCORES),
    Result(outcome=Outcome.ALREADY_PUBLISHED, message="done",
           adapter=ADAPTER.model_copy(update={"uri": "s3://bucket/" + "a" * 4000})),
], ids=["nothing", "published", "huge"])
def test_what_preflight_says_always_fits_and_reads_back(text, published):
    said = PreflightResult(verdict=PreflightVerdict.ALREADY_PUBLISHED, reason=Outcome.ALREADY_PUBLISHED, message=text,
                           published=published)
    written = said.to_bytes()
    assert len(written) <= RESULT_BYTES
    read = PreflightResult.model_validate_json(written)
    assert read.verdict is PreflightVerdict.ALREADY_PUBLISHED
    text = printable(text)
    assert read.message == text or (read.message.endswith("…") and text.startswith(read.message[:-1]))
    if published is not None and published.adapter == ADAPTER:
        assert read.published.adapter == ADAPTER
