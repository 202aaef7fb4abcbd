"""What charts are drawn with: inline SVG, in plain Python.

A chart has no viewBox: it takes the width of the page, and its texts have the size of the page's texts, so that it can
be read on a phone. Lines are in an inner SVG of 1000 × 1000 units, which is stretched to the plot. Everything that must
not be stretched has its position in percent. CSS classes of the page give the colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Point = tuple[float, float]
_UNITS = 1000
_TICKS = 4


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """About five round values; the first is at most `low`, the last at least `high`."""
    if high <= low:
        high = low + (abs(low) * 0.1 or 1.0)
    rough = (high - low) / _TICKS
    size = 10.0 ** math.floor(math.log10(rough))
    stride = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough * 0.999)
    if whole:
        stride = max(1.0, float(math.ceil(stride)))
    first, last = math.floor(low / stride + 1e-9), math.ceil(high / stride - 1e-9)
    return [index * stride for index in range(first, last + 1)]


def rounded(values: Sequence[float]) -> list[float]:
    """The values without the rounding error of a multiplied stride."""
    return [round(value, 10) + 0.0 for value in values]


class Plot:
    """The positions of points in a plot."""

    def __init__(self, left: float, right: float, bottom: float, top: float) -> None:
        """
        Args:
            left: the x value at the left edge.
            right: that at the right edge.
            bottom: the y value at the bottom.
            top: that at the top.
        """
        self._left, self._width = left, (right - left) or 1.0
        self._bottom, self._height = bottom, (top - bottom) or 1.0
        self._right = right

    def line(self, points: Sequence[Point], style: str) -> str:
        """A line through points."""
        path = " ".join(f"{self.x(x) * _UNITS:.1f},{self.y(y) * _UNITS:.1f}" for x, y in points)
        return f'<polyline class="{style}" points="{path}"/>'

    def dot(self, point: Point, style: str) -> str:
        """A round mark at a point."""
        return f'<circle class="{style}" cx="{self.x(point[0]):.2%}" cy="{self.y(point[1]):.2%}" r="5"/>'

    def upright(self, x: float, label: str) -> str:
        """A labelled vertical line over the whole height."""
        at = self.x(x)
        side = "start" if at < 0.5 else "end"
        return (f'<line class="upright" x1="{at:.2%}" x2="{at:.2%}" y1="0" y2="100%"/>'
                f'<text x="{at:.2%}" dx="{6 if side == "start" else -6}" y="14" text-anchor="{side}">'
                f'{escape(label)}</text>')

    def axes(self, values: Sequence[float], labels: Sequence[str]) -> list[str]:
        """Labelled values of the y axis, and whole numbers on the x axis."""
        inside = [tick for tick in ticks(self._left, self._right, whole=True) if tick <= self._right]
        return [*self.y_axis(values, labels), *self.x_axis(inside, [f"{tick:,.0f}" for tick in inside])]

    def y_axis(self, values: Sequence[float], labels: Sequence[str]) -> list[str]:
        """Labelled lines across the plot."""
        drawn = []
        for value, label in zip(values, labels, strict=True):
            at = f"{self.y(value):.2%}"
            drawn.append(f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>'
                         f'<text x="0" dx="-8" y="{at}" dy="0.32em" text-anchor="end">{label}</text>')
        return drawn

    def x_axis(self, values: Sequence[float], labels: Sequence[str]) -> list[str]:
        """Labelled marks below the plot."""
        drawn = []
        for value, label in zip(values, labels, strict=True):
            at = f"{self.x(value):.2%}"
            drawn.append(f'<line class="tick" x1="{at}" x2="{at}" y1="100%" y2="100%" transform="translate(0 5)"/>'
                         f'<text x="{at}" y="100%" dy="1.7em" text-anchor="middle">{label}</text>')
        return drawn

    def x(self, x: float) -> float:
        """The place of an x value: 0 at the left edge, 1 at the right one."""
        return (x - self._left) / self._width

    def y(self, y: float) -> float:
        """The place of a y value: 0 at the top, 1 at the bottom."""
        return 1 - (y - self._bottom) / self._height


@dataclass(frozen=True)
class Frame:
    """A chart without its content.

    Attributes:
        name: its name, unique on the page.
        title: its title.
        words: what it shows, for those who cannot see it.
        height: its height in pixels.
        style: its CSS class.
    """

    name: str
    title: str
    words: str
    height: int
    style: str = "plot"


def chart(frame: Frame, axes: Sequence[str], lines: Sequence[str], marks: Sequence[str] = ()) -> Markup:
    """A chart whose lines are stretched to the plot, and whose axes and marks are not."""
    stretched = (f'<svg width="100%" height="100%" viewBox="0 0 {_UNITS} {_UNITS}" preserveAspectRatio="none">'
                 f'{"".join(lines)}</svg>')
    return svg(frame, [*axes, stretched, *marks])


def svg(frame: Frame, content: Sequence[str]) -> Markup:
    """A chart with its title and its words."""
    name = frame.name
    # The content consists of numbers and of escaped text.
    return Markup(f'<svg class="{frame.style}" width="100%" height="{frame.height}" role="img" '
                  f'aria-labelledby="{name}-title {name}-words"><title id="{name}-title">{escape(frame.title)}</title>'
                  f'<desc id="{name}-words">{escape(frame.words)}</desc>{"".join(content)}</svg>')
