"""The rows of each training step, and their layout in micro-batches.

A step takes the next `batch_size` rows of a stream of shuffled epochs. The layout (micro-batches, packing, padding)
changes only speed and memory: the loss is a sum over answer tokens divided by their number in the whole step, so the
gradient is the same. This is why a run can halve the micro-batch when memory does not suffice.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Line = tuple[int, ...]
"""Indices of the rows that stand one after another in one line of a micro-batch."""


@dataclass(frozen=True)
class Layout:
    """The layout of a step's rows in memory.

    Attributes:
        micro_batch_size: the most rows in one forward pass.
        packing: whether several rows may share a line.
        hidden_size: the model's width; it decides how much attention (quadratic in a line's length) costs.
        processes: the number of processes that share each step (the world size).
        one_line: whether all rows of a micro-batch share one line: there, attention costs a row its own length only.
    """

    micro_batch_size: int
    packing: bool
    hidden_size: int
    processes: int = 1
    one_line: bool = False

    def micro_batches(self, batch_size: int) -> int:
        """Forward passes of a step in each process.

        Args:
            batch_size: rows of the step in all processes, a multiple of `processes`.
        """
        return -(-(batch_size // self.processes) // self.micro_batch_size)


def total_steps(rows: int, batch_size: int, epochs: float | None, max_steps: int | None) -> int:
    """Optimizer steps of a whole run; at least 1."""
    return max_steps if max_steps is not None else max(1, round((epochs or 1.0) * rows / batch_size))


def stop_step(steps: int, share: float) -> int:
    """The step after which a run stops that trains a share of its steps: never the last one, if there is another."""
    return max(1, min(steps - 1, round(steps * share)))


def step_rows(rows: int, batch_size: int, seed: int, steps: int) -> Iterator[tuple[int, ...]]:
    """The row indices of each step, epoch after epoch; each epoch has its own random order."""
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
    """A step's rows as micro-batches of lines: `layout.micro_batches(len(indices))` of them for each process.

    Neighbours in the list cost about the same, so that processes that take turns wait little for each other.

    Args:
        indices: the step's rows.
        lengths: the length in tokens of every row of the data set.
        layout: the limits of a micro-batch.
    """
    count = layout.processes * layout.micro_batches(len(indices))
    by_length = sorted(indices, key=lambda index: (-lengths[index], index))
    if not layout.packing:
        # Rows of similar length together: little padding.
        return [[(index,) for index in by_length[start:end]] for start, end in _even_parts(len(by_length), count)]
    groups = _balance(by_length, lengths, count, layout.micro_batch_size)
    if layout.one_line:
        return [[tuple(group)] for group in groups]
    return [_lines(group, lengths, layout.hidden_size) for group in groups]


def _even_parts(items: int, parts: int) -> list[tuple[int, int]]:
    edges = [items * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _balance(by_length: Sequence[int], lengths: Sequence[int], count: int, most: int) -> list[list[int]]:
    """Groups with about the same number of tokens, none empty: each row, longest first, goes to the lightest group."""
    groups: list[list[int]] = [[] for _ in range(count)]
    weights = [0] * count
    for index in by_length:
        target = min((g for g in range(count) if len(groups[g]) < most), key=lambda g: (weights[g], g))
        groups[target].append(index)
        weights[target] += lengths[index]
    return groups


def _lines(group: Sequence[int], lengths: Sequence[int], hidden_size: int) -> list[Line]:
    """The lines that cost least under a mask: fewer lines need less padding, but attention grows with their length.

    A token's linear layers cost about 24·h² operations and its attention 4·h·width, so a micro-batch costs in
    proportion to lines × width × (6·h + width).
    """
    def cost(lines: Sequence[Sequence[int]]) -> int:
        width = max(sum(lengths[index] for index in line) for line in lines)
        return len(lines) * width * (6 * hidden_size + width)

    layouts = (_balance(group, lengths, count, len(group)) for count in range(1, len(group) + 1))
    return [tuple(line) for line in min(layouts, key=cost)]
