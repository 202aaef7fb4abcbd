"""The classes of a field's values, as numbers: what F1 is made of. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.messages import NO_CLASS, OTHER_CLASS

from finetune_trainer.data.answers.json_values import class_of, is_empty

_DIGITS = 16


def class_digest(value: str) -> str:
    """The first digits of the SHA-256 digest of a class: a file of scores holds no text of a row."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


EMPTY_CLASSES = frozenset({class_digest("0"), class_digest("null")})
"""The digests of the classes whose values are empty."""


@dataclass(frozen=True)
class FieldColumn:
    """The values of one field in each row, as numbers of classes. F1 scores are made of them.

    Attributes:
        classes: the digest of each class that is expected in a row.
        expected: the class that is expected in each row; NO_CLASS where none is.
        given: the class of each answer; NO_CLASS where it is empty, OTHER_CLASS where its class is expected nowhere.
        is_count: whether the field has a micro F1, in which 0 means none.
    """

    classes: tuple[str, ...]
    expected: tuple[int, ...]
    given: tuple[int, ...]
    is_count: bool

    @classmethod
    def of(cls, expected: Sequence[Any], given: Sequence[Any], is_count: bool) -> FieldColumn:
        """The column of the values of a field, the expected and the given ones."""
        right = [class_of(value) for value in expected]
        numbers = {one: number for number, one in enumerate(dict.fromkeys(one for one in right if one is not None))}
        return cls(tuple(map(class_digest, numbers)),
                   tuple(NO_CLASS if one is None else numbers[one] for one in right),
                   tuple(numbers.get(class_of(value) or "", NO_CLASS if is_empty(value) else OTHER_CLASS)
                         for value in given), is_count)
