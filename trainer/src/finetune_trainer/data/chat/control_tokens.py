"""Control tokens in data are plain text: `<|im_end|>` in a row must not end the turn."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OPEN, _CLOSE = "\U000f0000", "\U000f0001"
_HIDDEN = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_MARKS = re.compile(f"[{_OPEN}{_CLOSE}]")
REASONING = re.compile(r"[<\[◁](?P<close>/?)(?:\w+:)?(?:think|thinking|thought|reason|reasoning)[>\]▷]", re.IGNORECASE)
"""The tags around a model's reasoning. They are part of answers, even if the tokenizer calls them special tokens."""
_SHORTEST = 3
"""Shorter special tokens are common text in data, so they are not taken for control tokens."""


def _any_of(names: list[str]) -> str:
    """A pattern that finds the longest of many names. It branches by character: many alternatives would be slow."""
    following: dict[str, list[str]] = {}
    for name in names:
        following.setdefault(name[:1], []).append(name[1:])
    branches = [re.escape(first) + _any_of(rest) for first, rest in following.items() if first]
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)})" + ("?" if "" in following else "")


class ControlTokens:
    """The control tokens of a model's template, and how data may contain their names.

    `hide` replaces the names by stand-ins, which pass through the template as text. `ids` tokenises the template's
    text: its own control tokens as control tokens, and stand-ins as the plain text of the names.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        special = {str(token) for token in tokenizer.all_special_tokens}
        special |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        names = sorted((name for name in special if len(name.strip()) >= _SHORTEST and not REASONING.fullmatch(name)),
                       key=lambda name: (-len(name), name))
        self._names = [_OPEN, _CLOSE, *names]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._pattern = re.compile(_any_of(self._names))
        self._special = {name: int(tokenizer.convert_tokens_to_ids(name)) for name in names}
        self._newline = self._plain("\n")

    def found(self, text: str) -> str | None:
        """The first control token in a text."""
        match = self._pattern.search(text)
        return match[0] if match else None

    def is_text(self, name: str) -> bool:
        """Whether the tokenizer can write a control token's name as plain text."""
        return self._special.get(name) not in self._within(name, split=True)

    def hide(self, value: Any, marks_alone: bool = False) -> Any:
        """A text, or all texts in a list or mapping, with stand-ins for control tokens.

        Args:
            value: data of a row.
            marks_alone: replace only the characters that stand-ins are made of, which a row may contain too.
        """
        if isinstance(value, str):
            pattern = _MARKS if marks_alone else self._pattern
            return pattern.sub(lambda match: f"{_OPEN}{self._numbers[match[0]]}{_CLOSE}", value)
        if isinstance(value, dict):
            return {key: self.hide(item, marks_alone) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item, marks_alone) for item in value]
        return value

    def show(self, text: str) -> str:
        """A text with the names behind its stand-ins."""
        return _HIDDEN.sub(lambda match: self._names[int(match[1])], text)

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without special tokens that do not stand in it."""
        if _OPEN not in text:
            return self._plain(text)
        pieces = _HIDDEN.split(text)
        found = self._plain(pieces[0])
        for number, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            found += self._within(self._names[int(number)], split=True)
            found += self._within(piece, split=False) if piece else []
        return found

    def ids_within(self, text: str) -> list[int]:
        """The ids of a text that is not at the start, where some tokenizers add a blank before it."""
        ids = self.ids("\n" + text)
        length = len(self._newline)
        return ids[length:] if ids[:length] == self._newline else self.ids(text)

    def _within(self, text: str, split: bool) -> list[int]:
        ids = self._plain("\n" + text, split)
        length = len(self._newline)
        return ids[length:] if ids[:length] == self._newline else self._plain(text, split)

    def _plain(self, text: str, split: bool = False) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False,
                                         **({"split_special_tokens": True} if split else {}))["input_ids"]
        return ids
