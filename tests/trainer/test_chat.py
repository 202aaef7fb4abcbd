"""From question and answer to tokens, by the model's own template."""

from datetime import date, datetime, timedelta

import pytest
from finetune_trainer.data.chat.chat_format import ChatFormat
from finetune_trainer.data.rows import Example
from finetune_trainer.errors import BadConfig

from tests.models import CHATML, NO_SYSTEM, tiny_tokenizer


def _example(question="what?", answer="this"):
    return Example("train row 1", ({"role": "user", "content": question},), answer)


def _text(tokenizer, ids):
    return tokenizer.decode(list(ids))


def test_the_end_of_turn_token_is_trained_and_what_the_template_writes_after_it_is_not():
    tokenizer = tiny_tokenizer(CHATML)
    chat = ChatFormat(tokenizer, None)
    row = chat.row(_example())
    assert _text(tokenizer, row.answer) == "this<|im_end|>"
    assert row.answer[-1] == chat.end_of_turn == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert _text(tokenizer, row.prompt) == "<|im_start|>user\nwhat?<|im_end|>\n<|im_start|>assistant\n"


def test_the_end_of_turn_token_is_trained_even_where_it_is_the_pad_token_too():
    tokenizer = tiny_tokenizer(NO_SYSTEM)
    tokenizer.pad_token = tokenizer.eos_token
    row = ChatFormat(tokenizer, None).row(_example())
    assert row.answer[-1] == tokenizer.pad_token_id == tokenizer.eos_token_id


def test_a_prompt_is_tokenised_as_it_is_when_the_model_generates():
    chat = ChatFormat(tiny_tokenizer(), "be brief")
    assert chat.row(_example()).prompt == chat.prompt_ids(_example().messages)


def test_a_system_prompt_has_its_role_where_the_template_has_one():
    tokenizer = tiny_tokenizer(CHATML)
    row = ChatFormat(tokenizer, "be brief").row(_example())
    assert _text(tokenizer, row.prompt).startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nwhat?")


@pytest.mark.parametrize("template", [
    NO_SYSTEM,
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}<|end|>{% endif %}{% endfor %}",
], ids=["refuses it", "drops it"])
def test_a_system_prompt_opens_the_question_where_the_template_has_no_role_for_it(template):
    tokenizer = tiny_tokenizer(template)
    assert "be brief\n\nwhat?" in _text(tokenizer, ChatFormat(tokenizer, "be brief").row(_example()).prompt)


def test_a_model_without_a_template_gets_plain_text_and_its_end_token():
    tokenizer = tiny_tokenizer(None)
    row = ChatFormat(tokenizer, "be brief").row(_example())
    assert _text(tokenizer, row.prompt) == "be brief\n\nwhat?\n"
    assert _text(tokenizer, row.answer) == "this<|end|>"


def test_a_longer_conversation_keeps_its_turns():
    tokenizer = tiny_tokenizer()
    messages = ({"role": "system", "content": "s"}, {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"})
    row = ChatFormat(tokenizer, "not used: the row has its own").row(Example("x", messages, "d"))
    assert _text(tokenizer, row.prompt) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_refuses_the_conversation_is_said():
    tokenizer = tiny_tokenizer("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(BadConfig, match="chat template refuses this conversation: roles must alternate"):
        ChatFormat(tokenizer, None)


def test_a_tokenizer_without_an_end_token_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(BadConfig, match="no end token"):
        ChatFormat(tokenizer, None)


def test_korean_survives_tokenising_and_decoding():
    tokenizer = tiny_tokenizer()
    chat = ChatFormat(tokenizer, None)
    answer = '{"벌금": 1, "이유": "음주 운전"}'
    assert chat.text(chat.row(_example("피고인은 술을 마셨다", answer)).answer) == answer


DATED = ("\n{% macro today() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}"
         "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = today() %}"
         "{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}<|im_start|>{{ date_string }}"
         "{% for m in messages %}{% if loop.first %} ({{ strftime_now(format='%-d/%m, %A') ~ '!' }}){% endif %}"
         "{% endfor %}<|im_end|>" + CHATML)


def test_a_template_that_writes_todays_date_writes_that_of_the_job():
    tokenizer = tiny_tokenizer(DATED)
    chats = [ChatFormat(tokenizer, None, date(2026, 3, day)) for day in (4, 4, 5)]
    rows = [chat.row(_example()) for chat in chats]
    wanted = tokenizer.apply_chat_template(list(_example().messages), tokenize=False, add_generation_prompt=True)
    now = datetime.now()
    for frozen in (now, now + timedelta(days=1)):
        wanted = wanted.replace(frozen.strftime("%d %b %Y"), "04 Mar 2026").replace(
            frozen.strftime("%-d/%m, %A"), "4/03, Wednesday")
    assert _text(tokenizer, rows[0].prompt) == wanted
    assert rows[0] == rows[1] != rows[2]
    assert all(chat.is_dated for chat in chats)
    assert tokenizer.chat_template == DATED, "what is published is the model's own"
    plain = ChatFormat(tiny_tokenizer(), None, date(2026, 3, 14))
    plain.row(_example())
    assert not plain.is_dated
    assert ChatFormat(tokenizer, None).row(_example()).prompt, "an earlier operator froze no date"
