"""The charts of an experiment: scores with their intervals, quality against cost and memory, and the loss curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

from finetune_trainer.report.experiment.facts import ExperimentFacts, VariantLine
from finetune_trainer.report.experiment.marks import (
    CHARACTER_WIDTH,
    MOST_STYLES,
    PLOT_WIDTHS,
    Labelled,
    mark,
    place_labels,
)
from finetune_trainer.report.facts import METRIC_LABELS, SHARES, score_text
from finetune_trainer.report.svg import Frame, Plot, Point, chart, rounded, svg, ticks

MOST_SCORES = 20
"""So many variants are in the chart of scores."""
_ROW, _TOP = 46, 26
_SCATTER = 300
_NARROWEST = 0.8
"""An axis starts at most here, as a share of the largest value: smaller differences are not magnified."""


def score_chart(facts: ExperimentFacts, lines: Sequence[VariantLine]) -> Markup:
    """The score of each variant before and after training, with the interval of the latter; empty without variants."""
    if not lines:
        return Markup("")
    shown, reference = lines[:MOST_SCORES], facts.reference_score
    values = [value for line in shown for value in (line.before, line.ranked.score, line.ranked.low, line.ranked.high)]
    known = [value for value in (*values, reference) if value is not None and math.isfinite(value)]
    if not known:
        return Markup("")
    x_ticks = ticks(min(known), max(known))
    plot, height = Plot(x_ticks[0], x_ticks[-1], 0, 1), _TOP + _ROW * len(shown)
    drawn = []
    for tick, label in zip(x_ticks, _with_room(_labels(facts, x_ticks)), strict=True):
        at = f"{plot.x(tick):.2%}"
        drawn.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{_TOP}" y2="100%"/>'
                     f'<text x="{at}" y="100%" dy="1.7em" text-anchor="middle">{label}</text>')
    if reference is not None and math.isfinite(reference):
        share = plot.x(reference)
        side = "start" if share < 0.5 else "end"
        drawn.append(f'<line class="upright" x1="{share:.2%}" x2="{share:.2%}" y1="{_TOP}" y2="100%"/>'
                     f'<text x="{share:.2%}" y="16" text-anchor="{side}">reference model '
                     f'{score_text(facts.metric, reference)}</text>')
    for place, line in enumerate(shown):
        drawn += _score_row(facts, plot, line, _TOP + _ROW * place)
    words = "; ".join(f"{line.name} {_interval_words(facts, line)}" for line in shown)
    return svg(Frame("scores", "Scores with their intervals", f"{words}.", height, "scores"), drawn)


def _score_row(facts: ExperimentFacts, plot: Plot, line: VariantLine, top: int) -> list[str]:
    one, middle = line.ranked, top + 33
    drawn = [f'<text class="name" x="0" y="{top + 17}">{one.rank} {escape(one.variant)}</text>',
             f'<text x="100%" y="{top + 17}" text-anchor="end">{score_text(facts.metric, one.score)}</text>',
             f'<line class="groove" x1="0" x2="100%" y1="{middle}" y2="{middle}"/>']
    if one.low is not None and one.high is not None:
        ends = [f"{plot.x(value):.2%}" for value in (one.low, one.high)]
        drawn.append(f'<line class="interval" x1="{ends[0]}" x2="{ends[1]}" y1="{middle}" y2="{middle}"/>')
        drawn += [f'<line class="interval" x1="{end}" x2="{end}" y1="{middle - 5}" y2="{middle + 5}"/>' for end in ends]
    if line.before is not None and math.isfinite(line.before):
        drawn.append(f'<circle class="hollow" cx="{plot.x(line.before):.2%}" cy="{middle}" r="5"/>')
    if math.isfinite(one.score):
        drawn.append(f'<circle class="filled" cx="{plot.x(one.score):.2%}" cy="{middle}" r="6"/>')
    return drawn


def _interval_words(facts: ExperimentFacts, line: VariantLine) -> str:
    one = line.ranked
    words = score_text(facts.metric, one.score)
    if one.low is not None and one.high is not None:
        words += f" ({score_text(facts.metric, one.low)} to {score_text(facts.metric, one.high)})"
    return words


def scatter(facts: ExperimentFacts, lines: Sequence[VariantLine], x_of: Callable[[VariantLine], float | None],
            name: str, title: str) -> Markup:
    """The score against what a variant took, a labelled mark for each; empty unless two variants differ in it.

    Args:
        facts: the facts.
        lines: the variants, the best first.
        x_of: what a variant took; None if that is not known.
        name: of the chart, unique on the page.
        title: of the chart, with the unit.
    """
    known = [(line, x) for line in lines if (x := x_of(line)) is not None and math.isfinite(line.ranked.score)]
    if len({x for _, x in known}) < 2:
        return Markup("")
    scores = [value for line, _ in known for value in (line.ranked.score, line.ranked.low, line.ranked.high)]
    y_ticks = ticks(min(value for value in scores if value is not None),
                    max(value for value in scores if value is not None))
    least, most = min(x for _, x in known), max(x for _, x in known)
    x_ticks = ticks(min(least, _NARROWEST * most) if least > most / 2 else 0, most)
    plot = Plot(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    whiskers, marks = [], []
    for line, x in known:
        at, one = plot.x(x), line.ranked
        if one.low is not None and one.high is not None:
            whiskers.append(f'<line class="whisker" x1="{at:.2%}" x2="{at:.2%}" y1="{plot.y(one.low):.2%}" '
                            f'y2="{plot.y(one.high):.2%}"/>')
        marks.append(mark(at, plot.y(one.score), one.rank - 1))
    labels = place_labels([_labelled(plot, line, x) for line, x in known], _SCATTER)
    words = "; ".join(f"{line.name}: {x:.3g}, {score_text(facts.metric, line.ranked.score)}" for line, x in known)
    axes = [*plot.y_axis(y_ticks, _labels(facts, y_ticks)),
            *plot.x_axis(x_ticks, _with_room([f"{tick:g}" for tick in rounded(x_ticks)]))]
    return svg(Frame(name, title, f"{words}.", _SCATTER), [*axes, *whiskers, *marks,
                                                           *(label.drawn() for label in labels)])


def _labelled(plot: Plot, line: VariantLine, x: float) -> Labelled:
    one = line.ranked
    whisker = (plot.y(one.high), plot.y(one.low)) if one.low is not None and one.high is not None else None
    return Labelled(plot.x(x), plot.y(one.score), (f"{one.rank} {one.variant}", str(one.rank)), whisker)


def loss_curves(facts: ExperimentFacts, lines: Sequence[VariantLine]) -> Markup:
    """Training loss over steps, with the loss on held-out rows before and after, of the best variants; empty without.

    A variant with repeats is shown by its first job.
    """
    curves: list[tuple[VariantLine, Sequence[Point], list[Point]]] = []
    for line in lines[:MOST_STYLES]:
        result = facts.results.get(line.jobs[0]) if line.jobs else None
        if result is None or not result.losses:
            continue
        # After the warm-up of ReFT come steps that have no such loss.
        last = max(result.losses[-1][0], result.manifest.result.step if result.manifest else 0)
        held_out = [(x, y) for x, y in ((0.0, result.scores("before").get("loss")),
                                        (last, result.scores("after").get("loss"))) if y is not None
                    and math.isfinite(y)]
        curves.append((line, result.losses, held_out))
    if not curves:
        return Markup("")
    points = [point for _, losses, held_out in curves for point in (*losses, *held_out)]
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points))
    plot = Plot(0, max(x for x, _ in points), y_ticks[0], y_ticks[-1])
    drawn, marks = [], []
    for line, losses, held_out in curves:
        style = line.ranked.rank - 1
        drawn.append(plot.line(losses, f"curve style-{style}"))
        if len(losses) == 1:
            marks.append(plot.dot(losses[0], "single"))
        marks += [mark(plot.x(x), plot.y(y), style) for x, y in held_out]
    words = "; ".join(f"{line.name} from {losses[0][1]:.3f} to {losses[-1][1]:.3f}" +
                      (f", on held-out rows from {held_out[0][1]:.3f} to {held_out[-1][1]:.3f}"
                       if len(held_out) == 2 else "") for line, losses, held_out in curves)
    return chart(Frame("losses", "Loss over steps", f"Training loss: {words}.", 300),
                 plot.axes(y_ticks, [f"{tick:g}" for tick in rounded(y_ticks)]), drawn, marks)


def _labels(facts: ExperimentFacts, values: Sequence[float]) -> list[str]:
    """Scores at an axis: shares in percent."""
    shares = facts.metric in SHARES
    return [f"{100 * value:.4g} %" if shares else f"{value:g}" for value in rounded(values)]


def _with_room(labels: Sequence[str]) -> list[str]:
    """Labels below a plot; on a phone all would touch, so then some are left out."""
    stride = math.ceil(len(labels) * (max(map(len, labels)) + 1) * CHARACTER_WIDTH / PLOT_WIDTHS[0])
    return [label if place % stride == 0 else "" for place, label in enumerate(labels)]


def metric_title(facts: ExperimentFacts) -> str:
    """What the experiment ranks by, in words."""
    return METRIC_LABELS[facts.metric]
