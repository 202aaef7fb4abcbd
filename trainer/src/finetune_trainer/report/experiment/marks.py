"""How variants are told apart in charts without colour: a shape and a line style for each, and labels that are free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_SHAPES = (
    "M-6,0A6,6 0 1,0 6,0A6,6 0 1,0 -6,0Z", "M-5.5,-5.5H5.5V5.5H-5.5Z", "M0,-7.5L7,5.5H-7Z",
    "M0,-7.5L7.5,0L0,7.5L-7.5,0Z", "M0,7.5L7,-5.5H-7Z",
    "M-2.2,-7H2.2V-2.2H7V2.2H2.2V7H-2.2V2.2H-7V-2.2H-2.2Z",
)
MOST_STYLES = len(_SHAPES)
"""So many variants have a style of their own."""

LABEL_HEIGHT, CHARACTER_WIDTH = 17.0, 9.0
"""Of a label, in pixels; the width is that of a wide character."""

PLOT_WIDTHS = (220.0, 253.0, 300.0, 360.0, 440.0, 540.0, 660.0, 720.0, 850.0)
"""Widths of a plot, in pixels, on a phone and up to the widest page: a label must have room at each of them."""

_GAP = 10.0

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""


def mark(x: float, y: float, style: int) -> str:
    """A mark of the shape of a style, at a share of the plot's width and height."""
    return (f'<svg class="mark style-{style % MOST_STYLES}" x="{x:.2%}" y="{y:.2%}" overflow="visible">'
            f'<path d="{_SHAPES[style % MOST_STYLES]}"/></svg>')


def key(style: int) -> Markup:
    """The line and the mark of a style, for a legend."""
    style %= MOST_STYLES
    return Markup(f'<svg class="sample" width="44" height="16" aria-hidden="true"><g class="style-{style}">'
                  f'<path class="curve" d="M0,8H44"/><g transform="translate(22 8)"><path class="shape" '
                  f'd="{_SHAPES[style]}"/></g></g></svg>')


@dataclass(frozen=True)
class Labelled:
    """A point of a plot that wants a label.

    Attributes:
        x: its place, as a share of the plot's width.
        y: its place, as a share of the plot's height, from the top.
        texts: what the label may say, the best first.
        line: the ends of a vertical line through the point, as shares of the plot's height; None without one.
    """

    x: float
    y: float
    texts: tuple[str, ...]
    line: tuple[float, float] | None = None

    def boxes(self, width: float, height: float) -> Iterator[Box]:
        """What the mark and its line cover in a plot of a size, in pixels."""
        x, y = self.x * width, self.y * height
        yield x - 7, y - 7, x + 7, y + 7
        if self.line is not None:
            yield x - 2, self.line[0] * height, x + 2, self.line[1] * height


@dataclass(frozen=True)
class Label:
    """A label at a point.

    Attributes:
        point: the point.
        text: what it says.
        dx: the distance of the text's anchor to the point, in pixels.
        dy: that of the text's middle.
        anchor: which end of the text is there: `start` or `end`.
    """

    point: Labelled
    text: str
    dx: float
    dy: float
    anchor: str

    def box(self, width: float, height: float) -> Box:
        """What it covers in a plot of a size."""
        long = CHARACTER_WIDTH * len(self.text)
        start = self.point.x * width + self.dx - (long if self.anchor == "end" else 0.0)
        middle = self.point.y * height + self.dy
        return start, middle - LABEL_HEIGHT / 2, start + long, middle + LABEL_HEIGHT / 2

    def drawn(self) -> str:
        """The label as SVG."""
        return (f'<text class="label" x="{self.point.x:.2%}" y="{self.point.y:.2%}" dx="{self.dx:g}" '
                f'dy="{self.dy + 5:g}" text-anchor="{self.anchor}">{escape(self.text)}</text>')


def place_labels(points: Sequence[Labelled], height: float) -> list[Label]:
    """Labels beside their points that overlap neither each other nor a point, at any width of the plot.

    A point gets the first of its texts that has room; without room it gets none.

    Args:
        points: the most important first.
        height: of the plot, in pixels.
    """
    placed: list[Label] = []
    for point in points:
        candidates = (Label(point, text, dx, dy, anchor) for text in point.texts for dx, dy, anchor in (
            (_GAP, 0.0, "start"), (-_GAP, 0.0, "end"),
            (_GAP, -14.0, "start"), (_GAP, 14.0, "start"), (-_GAP, -14.0, "end"), (-_GAP, 14.0, "end")))
        free = next((label for label in candidates if _is_free(label, placed, points, height)), None)
        if free is not None:
            placed.append(free)
    return placed


def _is_free(label: Label, placed: Sequence[Label], points: Sequence[Labelled], height: float) -> bool:
    for width in PLOT_WIDTHS:
        left, top, right, bottom = label.box(width, height)
        if left < 0 or top < 0 or right > width or bottom > height:
            return False
        covered = (box for one in points if one is not label.point for box in one.boxes(width, height))
        for other in (*covered, *(one.box(width, height) for one in placed)):
            if left < other[2] and other[0] < right and top < other[3] and other[1] < bottom:
                return False
    return True
