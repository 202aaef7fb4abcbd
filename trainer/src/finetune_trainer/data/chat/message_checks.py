"""Checks that a chat template writes each message once and as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from finetune_trainer.data.chat.control_tokens import REASONING
from finetune_trainer.data.rows import Message

_SHORTEST_DOUBLE = 16
"""A shorter text may stand in a template by chance, so it is not taken for a repeated message."""

_SHOWN = 160


class RowFault(ValueError):
    """The template can't write a row as it is; the message says why."""


def answer_fault(whole: str, mark: str) -> str:
    """What a template does to an answer that does not stand in its text once.

    Args:
        whole: the template's text of a question and the answer.
        mark: the answer.
    """
    if mark in whole:
        return "writes the assistant's message more than once"
    if mark.casefold() in whole.casefold():
        return "changes the assistant's message to other upper and lower case"
    if mark.strip("\u241f").casefold() in whole.casefold():
        return "rewrites the assistant's message"
    return "drops the assistant's message"


def check_messages(messages: Sequence[Message], prompt: str, tools: Any) -> None:
    """Check that each message stands in the prompt once.

    A template may leave out the reasoning of earlier answers, and may write calls and their results as JSON.

    Raises:
        RowFault: a message is missing, changed or repeated.
    """
    contents = [message["content"] for message in messages]
    for message in messages:
        text = message["content"].strip()
        if message["role"] == "tool" or message.get("tool_calls"):
            continue
        if message["role"] == "assistant":
            text = re.split(REASONING, text)[-1].strip()
        if text not in prompt:
            fault = "drops or changes"
        elif len(text) >= _SHORTEST_DOUBLE and not tools and \
                prompt.count(text) > sum(content.count(text) for content in contents):
            fault = "writes more than once"
        else:
            continue
        name = {"user": "question", "system": "system prompt"}.get(message["role"], "earlier answer")
        raise RowFault(f"the model's chat template {fault} the {name} {shortened(text)!r}: it makes "
                       f"{shortened(prompt)!r}")


def shortened(text: str) -> str:
    """A text for a message: its start and its end."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 2:]}"
