"""The points of a sweep: combinations of values, each as a merge patch."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.experiment.spec import MOST_RUNS, RandomSearch, SampledField, Scale, Sweep
from finetune_api.explain.fields import document_field
from finetune_api.spec.job import FineTuneJobSpec

_DIGITS = 6
_SIGNIFICANT = 4


@dataclass(frozen=True)
class Point:
    """One combination of values.

    Attributes:
        name: digits that follow from the values alone, so that a point keeps its name when others come or go.
        values: the value of each field, by its path below the job's spec.
    """

    name: str
    values: Mapping[str, Any]

    @property
    def patch(self) -> dict[str, Any]:
        """The values as a merge patch on a job's spec."""
        patch: dict[str, Any] = {}
        for path, value in self.values.items():
            below = patch
            *parents, last = path.split(".")
            for part in parents:
                below = below.setdefault(part, {})
            below[last] = value
        return patch

    @property
    def words(self) -> str:
        """The values as text: `training.learningRate=0.0002, method.lora.rank=8`."""
        return ", ".join(f"{path}={json.dumps(value) if not isinstance(value, str) else value}"
                         for path, value in self.values.items())


def points(sweep: Sweep) -> tuple[Point, ...]:
    """The points of a sweep in their order, each once.

    Raises:
        ValueError: the grid has more than `MOST_RUNS` points; the message says how many.
    """
    found = _grid(sweep.grid) if sweep.grid else _random(sweep.random) if sweep.random else []
    return _named(list({json.dumps(values): values for values in found}.values()))


def _grid(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    count = math.prod(len(values) for values in grid.values())
    if count > MOST_RUNS:
        raise ValueError(f"the grid has {count} points; an experiment has at most {MOST_RUNS} jobs. Write fewer "
                         "values, or use sweep.random")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _random(search: RandomSearch) -> list[dict[str, Any]]:
    """One generator for each sample and field: neither more samples nor another field changes what was drawn."""
    whole = {path: _is_whole(path) for path in search.fields}
    return [{path: _drawn(field, whole[path], random.Random(f"{search.seed}/{number}/{path}").random())
             for path, field in search.fields.items()} for number in range(search.samples)]


def _is_whole(path: str) -> bool:
    """Whether a field takes whole numbers only. A field that does not exist has an error of its own."""
    try:
        return document_field(FineTuneJobSpec, path).type == "integer"
    except KeyError:
        return False


def _drawn(field: SampledField, whole: bool, share: float) -> Any:
    """The value at a share, from 0 to 1, of the list or the range."""
    if field.values is not None:
        return field.values[int(share * len(field.values))]
    low, high = field.minimum or 0.0, field.maximum or 0.0
    if whole:
        low, high = math.ceil(low), math.floor(high) + 1  # Each number has the interval up to the next one.
    value = math.exp(math.log(low) + share * (math.log(high) - math.log(low))) if field.scale is Scale.LOG \
        else low + share * (high - low)
    if whole:
        return min(math.floor(value), int(high) - 1)
    return min(high, max(low, float(f"{value:.{_SIGNIFICANT}g}")))


def _named(found: Sequence[dict[str, Any]]) -> tuple[Point, ...]:
    digests = [hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest() for values in found]
    digits = _DIGITS
    while len({digest[:digits] for digest in digests}) < len(digests):
        digits += 1
    return tuple(Point(digest[:digits], values) for digest, values in zip(digests, found, strict=True))
