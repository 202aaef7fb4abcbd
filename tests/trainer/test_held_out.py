"""Which rows are evaluated: a sample of distinct questions, and every row that was read is accounted for."""

import json
import random
from collections import Counter

import pytest
from finetune_api import parse_job, resolve_defaults
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.held_out import divide, hold_out, sample
from finetune_trainer.data.prepare import prepare_rows
from finetune_trainer.data.rows import LEFT_OUT, Example, Finding, numbered_rows
from finetune_trainer.errors import BadData

from tests.models import tiny_job, tiny_tokenizer


def _examples(questions, answers=1):
    return [Example(f"row {question}.{answer}", ({"role": "user", "content": f"q{question}"},), f"a{answer}")
            for question in range(questions) for answer in range(answers)]


def test_several_answers_to_a_question_neither_leak_nor_vanish():
    rows = _examples(90, 30)
    learn, held, told = divide(rows, 0.1, seed=1)
    assert (len(learn), len(held), told) == (81 * 30, 9 * 30, [])
    assert not {row.question for row in learn} & {row.question for row in held}


def test_where_no_question_comes_twice_the_rows_of_earlier_releases_are_held_out():
    rows = list(range(50))
    chosen = set(random.Random(3).sample(range(50), 10))
    assert hold_out(rows, 0.2, seed=3) == ([row for row in rows if row not in chosen], sorted(chosen))


def test_rows_that_all_ask_the_same_are_held_out_by_distinct_answer():
    learn, held, (told,) = divide(_examples(1, 20), 0.1, seed=1)
    assert (len(learn), len(held)) == (18, 2)
    assert "all rows ask the same question" in str(told)
    with pytest.raises(BadData, match="all 3 rows of the data set are the same"):
        divide(_examples(1) * 3, 0.1, seed=1)


def test_what_is_evaluated_of_sorted_rows_has_all_of_their_classes_and_depends_on_the_seed_alone():
    rows = [Example(f"row {n}", ({"role": "user", "content": f"q{n}"},), "first" if n < 500 else "second")
            for n in range(1000)]
    judged = sample(rows, 100, seed=0)
    assert 30 < Counter(row.answer for row in judged)["first"] < 70
    assert judged == sample(rows, 100, seed=0) != sample(rows, 100, seed=1)
    assert [rows.index(row) for row in judged] == sorted(rows.index(row) for row in judged)
    assert sample(rows, None, 0) == rows == sample(rows, 1000, 0)


def test_as_many_questions_as_possible_are_evaluated():
    assert len({row.question for row in sample(_examples(12, 30), 12, seed=5)}) == 12


def _rows(chance):
    """Rows with repeated questions, long ones, and answers without weight."""
    for _ in range(chance.randint(4, 60)):
        question = f"q{chance.randint(0, 40)}" + "x" * chance.choice((0, 0, 0, 200))
        yield {"m": [{"role": "user", "content": question},
                     {"role": "assistant", "content": f"a{chance.random()}", "weight": chance.choice((None, 1, 1, 0))}]}


@pytest.mark.parametrize("seed", range(8))
def test_every_row_that_was_read_is_learnt_from_held_out_or_left_out_for_a_reason(seed, tmp_path):
    chance = random.Random(seed)
    spec = resolve_defaults(parse_job(tiny_job(
        tmp_path, dataset={"prompt": None, "completion": None, "messages": "m", "answerFormat": None,
                           "maxSamples": chance.choice((None, 5, 20)), "evaluationFraction": 0.4},
        training={"maxLength": 100, "longRows": chance.choice(("drop", "cutPrompt")), "seed": seed},
        evaluation={"samples": chance.choice((1, 3, 100))})).spec)
    learn = numbered_rows(_rows(chance), "train")
    held = numbered_rows(_rows(chance), "test") if chance.random() < 0.5 else None
    try:
        data = prepare_rows(learn, held, spec, ChatFormat(tiny_tokenizer(), None))
    except BadData as error:
        assert "no rows are left" in str(error) or "at least 2" in str(error)
        return
    counts = data.counts
    assert counts["read"] == len(learn) + len(held or ())
    assert counts["read"] == counts["train"] + counts["heldOut"] + sum(counts[reason] for reason in LEFT_OUT)
    assert (counts["train"], counts["heldOut"]) == (len(data.train), len(data.held_out))
    assert set(counts) == {"read", "train", "heldOut", "cut", *LEFT_OUT}
    assert all(isinstance(finding, Finding) for finding in data.findings)
    json.dumps(data.counts)


def test_rows_that_all_ask_the_same_are_learnt_from(tmp_path):
    rows = numbered_rows([{"q": "Tell a joke.", "a": f"Joke {number}."} for number in range(20)], "train")
    spec = resolve_defaults(parse_job(tiny_job(tmp_path, dataset={
        "prompt": "{{ q }}", "completion": "{{ a }}", "answerFormat": None, "evaluationFraction": 0.1})).spec)
    data = prepare_rows(rows, None, spec, ChatFormat(tiny_tokenizer(), None))
    assert (data.counts["train"], data.counts["heldOut"], data.counts["duplicates"]) == (18, 2, 0)
