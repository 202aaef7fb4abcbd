"""Rows that are longer than `maxLength`: their question is cut, or they are dropped or refused, as `longRows` says."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

from finetune_api.spec.training import LongRows, TrainingSpec

from finetune_trainer.data.chat.chat_format import ChatFormat, TokenizedExample
from finetune_trainer.data.rows import Example, Finding, Severity

_MIN_QUESTION_TOKENS = 16
_TRIES = 12


def fit(example: Example, chat: ChatFormat, training: TrainingSpec) -> tuple[TokenizedExample | None, Finding | None]:
    """A row of at most `maxLength` tokens, or None where the row is left out; and a finding where it was too long.

    Only the text of questions is cut: never the answer, the system prompt or what the template writes.

    Raises:
        RowFault: the template can't write the row.
    """
    written = chat.tokenize(example)
    most = training.max_length or sys.maxsize  # Resolving the defaults sets it.
    if len(written.tokens) <= most:
        return written, None
    length = f"{len(written.tokens)} tokens, more than maxLength {most}"
    if training.long_rows is LongRows.DROP:
        return None, Finding(Severity.WARNING, example.location, f"{length}, so it is dropped")
    cut = training.long_rows is LongRows.CUT_PROMPT
    shorter = _cut(example, chat, most, len(written.tokens) - most) if cut else None
    if shorter is not None:
        return shorter, Finding(Severity.WARNING, example.location, f"{length}, so the middle of its question is cut")
    why = "" if training.long_rows is LongRows.REFUSE else f" (the answer alone has {len(written.tokens.answer)})"
    return None, Finding(Severity.ERROR, example.location, f"{length}{why}: raise spec.training.maxLength, or write "
                                                        "longRows: drop")


def _cut(example: Example, chat: ChatFormat, most: int, over: int) -> TokenizedExample | None:
    """The row without the middle of its longest questions; None where that does not make it short enough."""
    messages = [dict(message) for message in example.messages]
    for _ in range(_TRIES):
        longest = max((message for message in messages if message["role"] in ("user", "tool")),
                      key=lambda message: len(message["content"]), default=None)
        if longest is None:
            return None
        text = longest["content"]
        tokens = chat.length(text)
        kept_tokens = max(tokens - over, min(_MIN_QUESTION_TOKENS, tokens))
        characters = min(len(text) - 1, math.floor(len(text) * kept_tokens / tokens))
        if kept_tokens == tokens or characters < 2:
            return None
        head = (characters + 1) // 2
        longest["content"] = text[:head] + text[len(text) - (characters - head):]
        written = chat.tokenize(replace(example, messages=tuple(messages)))
        over = len(written.tokens) - most
        if over <= 0:
            return written
    return None
