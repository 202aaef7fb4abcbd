"""The charts of a job: loss, learning rate, time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from finetune_trainer.report.facts import human_seconds
from finetune_trainer.report.svg import Frame, Plot, Point, chart, rounded, svg, ticks

MOST_POINTS = 400


def thin_points(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` (4 or more) of the points, in their order.

    The first and the last point are kept, and the lowest and the highest of equal parts between, so that every spike
    stays visible.
    """
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    stretches = (most - 2) // 2
    bounds = [index * len(inner) // stretches for index in range(stretches + 1)]
    thinned = [points[0]]
    for start, end in pairwise(bounds):
        stretch = inner[start:end]
        thinned += sorted({min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])})
    return [*thinned, points[-1]]


def moving_average(points: Sequence[Point], window: int) -> list[Point]:
    """The mean of each point and the points before it, at most `window` of them."""
    averages, total = [], 0.0
    for index, (x, y) in enumerate(points):
        total += y - (points[index - window][1] if index >= window else 0.0)
        averages.append((x, total / min(index + 1, window)))
    return averages


def average_window(steps: Sequence[Mapping[str, Any]]) -> int:
    """The number of steps in the average of the loss: a twentieth of all, 5 to 50; 0 if there are too few steps."""
    count = len(_points(steps, "loss"))
    return max(5, min(50, count // 20)) if count > 5 else 0


def mean_losses(steps: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The training loss over steps as one calm line: the mean of as many steps as in the chart of a job, thinned."""
    points, window = _points(steps, "loss"), average_window(steps)
    return thin_points(moving_average(points, window) if window else points)


def loss_chart(steps: Sequence[Mapping[str, Any]], before: float | None, after: float | None, resumed: int) -> Markup:
    """Training loss over steps, with the loss on held-out rows before and after; empty if no step was logged.

    Args:
        steps: one mapping a step, with `step` and `loss`.
        before: loss on held-out rows before training.
        after: the same after training.
        resumed: the step of the checkpoint that the run resumed from, or 0.
    """
    points = _points(steps, "loss")
    if not points:
        return Markup("")
    first, last = points[0], points[-1]
    held_out = [(x, y) for x, y in ((0.0, before), (last[0], after)) if y is not None and math.isfinite(y)]
    y_ticks = ticks(min(y for _, y in points + held_out), max(y for _, y in points + held_out))
    plot = Plot(0, last[0], y_ticks[0], y_ticks[-1])
    window = average_window(steps)
    lines = [plot.line(thin_points(points), "raw" if window else "mean")]
    if window:
        lines.append(plot.line(thin_points(moving_average(points, window)), "mean"))
    marks = [plot.dot(point, "held-out") for point in held_out]
    if len(points) == 1:
        marks.append(plot.dot(first, "single"))
    if 0 < resumed < last[0]:
        marks.insert(0, plot.upright(resumed, f"resumed at step {resumed:,}"))
    words = f"Training loss went from {first[1]:.3f} at step {first[0]:,.0f} to {last[1]:.3f} at step {last[0]:,.0f}."
    if len(held_out) == 2:
        words += f" On held-out rows it was {held_out[0][1]:.3f} before and {held_out[1][1]:.3f} after."
    return chart(Frame("loss", "Loss over steps", words, 260),
                 plot.axes(y_ticks, [f"{tick:g}" for tick in rounded(y_ticks)]), lines, marks)


def learning_rate_chart(steps: Sequence[Mapping[str, Any]]) -> Markup:
    """The learning rate over steps; empty if fewer than two steps were logged."""
    points = _points(steps, "learningRate")
    if len(points) < 2:
        return Markup("")
    peak = max(points, key=lambda point: point[1])
    top = ticks(0, peak[1])[-1]
    plot = Plot(0, points[-1][0], 0, top)
    words = (f"The learning rate peaked at {_power(peak[1])} at step {peak[0]:,.0f} and ended at "
             f"{_power(points[-1][1])}.")
    return chart(Frame("rate", "Learning rate over steps", words, 110), plot.axes([0, top], ["0", _power(top)]),
                 [plot.line(thin_points(points), "rate")])


def line_chart(name: str, title: str, steps: Sequence[Mapping[str, Any]], key: str) -> Markup:
    """One value over steps; empty if fewer than two steps have it."""
    points = _points(steps, key)
    if len(points) < 2:
        return Markup("")
    values = [y for _, y in points]
    y_ticks = ticks(min(values), max(values))
    plot = Plot(points[0][0], points[-1][0], y_ticks[0], y_ticks[-1])
    words = (f"{title} went from {values[0]:.3g} at step {points[0][0]:,.0f} to {values[-1]:.3g} at step "
             f"{points[-1][0]:,.0f}.")
    labels = [f"{tick:g}" for tick in rounded((y_ticks[0], y_ticks[-1]))]
    return chart(Frame(name, f"{title} over steps", words, 110), plot.axes((y_ticks[0], y_ticks[-1]), labels),
                 [plot.line(thin_points(points), "mean")])


def stage_bars(stages: Mapping[str, float]) -> Markup:
    """The time of each stage, one bar for each; empty if no stage has a time."""
    times = {name: seconds for name, seconds in stages.items() if math.isfinite(seconds) and seconds >= 0}
    total, longest = sum(times.values()), max(times.values(), default=0.0)
    if not total:
        return Markup("")
    rows = []
    for index, (name, seconds) in enumerate(times.items()):
        top, share = index * 46, f"{100 * seconds / total:.0f}"
        if seconds and share == "0":
            share = "&lt; 1"
        rows.append(
            f'<text x="0" y="{top + 17}">{escape(name)}</text>'
            f'<text class="value" x="100%" y="{top + 17}" text-anchor="end">{human_seconds(seconds)}'
            f' · {share} %</text>'
            f'<rect class="groove" x="0" y="{top + 25}" width="100%" height="8" rx="4"/>'
            f'<rect class="bar" x="0" y="{top + 25}" width="{100 * seconds / longest:.2f}%" height="8" rx="4"/>'
        )
    words = ", ".join(f"{name} {human_seconds(seconds)}" for name, seconds in times.items())
    return svg(Frame("stages", "Time of each stage", f"{words}.", len(times) * 46 - 8, "bars"), rows)


def _points(steps: Sequence[Mapping[str, Any]], key: str) -> list[Point]:
    """The steps with a finite number under this key."""
    pairs = [(float(step["step"]), step.get(key)) for step in steps]
    return [(x, float(y)) for x, y in pairs if y is not None and math.isfinite(y)]


def _power(value: float) -> str:
    """A number in scientific notation: 2e-4, not 0.0002."""
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}" if value else "0"
