"""Text without control sequences, so that a terminal shows it and does not execute it."""

from __future__ import annotations

import re

# The control characters of ASCII and Latin-1 but tab and line feed; what turns the direction of text; line separators;
# and half surrogate pairs, which cannot be encoded.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text with control characters as escapes (`\\u001b`), which mean the same in JSON.

    Names, columns, keys and answers come from others: a terminal that got their control characters would colour, move,
    overwrite or answer. Everything that is printed goes through here.
    """
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
