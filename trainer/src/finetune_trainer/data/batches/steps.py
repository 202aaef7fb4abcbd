"""Which rows a training step takes, and how they lie in micro-batches.

A step always takes the next `batch_size` rows of a stream of shuffled epochs. How these are laid out (micro-batches,
packing, padding) changes speed and memory only: the loss is a sum over answer tokens divided by their number in the
whole step, so the gradient is the same. That is what lets memory trouble halve the micro-batch in mid-run.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Line = tuple[int, ...]
"""Indices of the rows that lie side by side in one line of a micro-batch."""


@dataclass(frozen=True)
class Layout:
    """How a step's rows lie in memory.

    Attributes:
        micro_batch_size: most rows in one forward pass.
        packing: whether several rows may share a line.
        hidden_size: the model's width, which weighs attention (quadratic in a line's length) against the rest.
        processes: how many share each step.
    """

    micro_batch_size: int
    packing: bool
    hidden_size: int
    processes: int = 1

    def micro_batches(self, batch_size: int) -> int:
        """How many forward passes a step has in each process; `batch_size` rows over all, a multiple of `processes`."""
        return -(-(batch_size // self.processes) // self.micro_batch_size)


def total_steps(rows: int, batch_size: int, epochs: float | None, max_steps: int | None) -> int:
    """Optimizer steps of a whole run; at least 1."""
    return max_steps if max_steps is not None else max(1, round((epochs or 1.0) * rows / batch_size))


def step_rows(rows: int, batch_size: int, seed: int, steps: int) -> Iterator[tuple[int, ...]]:
    """The row indices of each step in turn: epoch after epoch, each in an order of its own."""
    pending: list[int] = []
    epoch = 0
    for _ in range(steps):
        while len(pending) < batch_size:
            order = list(range(rows))
            random.Random(f"{seed} epoch {epoch}").shuffle(order)
            pending += order
            epoch += 1
        yield tuple(pending[:batch_size])
        pending = pending[batch_size:]


def lay_out(indices: Sequence[int], lengths: Sequence[int], layout: Layout) -> list[list[Line]]:
    """A step's rows as micro-batches of lines: always `layout.micro_batches(len(indices))` of them for each process.

    Neighbours in the list cost about the same, so processes that take turns wait little for each other.

    Args:
        indices: the step's rows.
        lengths: length of every row of the data set in tokens.
        layout: how they may lie.
    """
    count = layout.processes * layout.micro_batches(len(indices))
    by_length = sorted(indices, key=lambda index: (-lengths[index], index))
    if not layout.packing:
        # Rows of like length together: little padding.
        return [[(index,) for index in by_length[start:end]] for start, end in _even_parts(len(by_length), count)]
    groups = _balance(by_length, lengths, count, layout.micro_batch_size)
    return [_lines(group, lengths, layout.hidden_size) for group in groups]


def _even_parts(items: int, parts: int) -> list[tuple[int, int]]:
    edges = [items * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _balance(by_length: Sequence[int], lengths: Sequence[int], count: int, most: int) -> list[list[int]]:
    """Groups of about equal tokens, none empty: longest first, each into the lightest group with room."""
    groups: list[list[int]] = [[] for _ in range(count)]
    weights = [0] * count
    for index in by_length:
        target = min((g for g in range(count) if len(groups[g]) < most), key=lambda g: (weights[g], g))
        groups[target].append(index)
        weights[target] += lengths[index]
    return groups


def _lines(group: Sequence[int], lengths: Sequence[int], hidden_size: int) -> list[Line]:
    """The number of lines that costs least: few lines pad less, but attention grows with their length.

    A token's linear layers cost about 24·h² operations and its attention 4·h·width, so a micro-batch costs in
    proportion to lines × width × (6·h + width).
    """
    best: tuple[int, list[Line]] | None = None
    for count in range(1, len(group) + 1):
        lines = _balance(group, lengths, count, len(group))
        width = max(sum(lengths[index] for index in line) for line in lines)
        cost = count * width * (6 * hidden_size + width)
        if best is None or cost < best[0]:
            best = cost, [tuple(line) for line in lines]
    assert best is not None
    return best[1]
