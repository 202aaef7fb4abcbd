"""What a reader takes home: who won and why, or what would settle it; and the money. Pure."""

from __future__ import annotations

import math
from decimal import Decimal
from statistics import NormalDist

from finetune_api.experiment.comparison import SIGNIFICANCE, VariantComparison

from finetune_trainer.report.experiment.facts import ExperimentFacts, VariantLine, variant_lines

_MOST_TIMES = 1000
"""More than so many times the rows is no advice."""


def take_home(facts: ExperimentFacts) -> tuple[str, str]:
    """Two sentences: the winner with the reason, or what would settle it; and the money."""
    conclusion = facts.status.conclusion or "No variant has a result."
    settle = what_would_settle_it(facts)
    return f"{conclusion} {settle}" if settle else conclusion, _money(facts)


def what_would_settle_it(facts: ExperimentFacts) -> str:
    """How to find out who is better, where nobody has clearly won; empty where somebody has.

    If a difference stays as it is, its distance from chance in standard errors grows with the square root of the number
    of rows (normal approximation).
    """
    unclear = [one for one in facts.comparison.variants[1:] if not one.is_clear]
    if facts.status.winner is not None or not unclear:
        return ""
    if any(one.is_clear is None for one in unclear):
        return ("To know whether the difference is chance, give all variants the same held-out rows. A result of an "
                "earlier version may have no scores of single rows; then train that variant again.")
    comparisons = len(facts.comparison.variants) - 1
    times = {one.variant: _times_the_rows(one, comparisons) for one in unclear}
    closest = max(unclear, key=lambda one: times[one.variant])
    if times[closest.variant] > _MOST_TIMES:
        return f"{closest.variant} scores the same: choose by cost, or set rankBy.tolerance."
    rows = closest.compared_rows
    wanted = max(_rounded_up(rows * times[closest.variant]), closest.needed_rows or 0, rows + 1)
    return (f"If the differences stay as they are, about {wanted:,} held-out rows instead of {rows:,} would settle it; "
            "rankBy.tolerance would choose by cost.")


def _times_the_rows(one: VariantComparison, comparisons: int) -> float:
    """How many times the rows it takes until the test calls the difference clear."""
    distance = _standard_errors((one.p_value if one.p_value is not None else 1.0) / comparisons)
    return max(1.0, (_standard_errors(SIGNIFICANCE / comparisons) / distance) ** 2) if distance else math.inf


def _standard_errors(p_value: float) -> float:
    """How many standard errors from 0 a difference is whose two-sided test has this p-value."""
    return -NormalDist().inv_cdf(p_value / 2)


def _rounded_up(value: float) -> int:
    """A number with two digits that count."""
    size = int(10 ** max(0, math.floor(math.log10(value)) - 1))
    return math.ceil(value / size) * size


def _money(facts: ExperimentFacts) -> str:
    cost, lines = facts.status.cost, variant_lines(facts.status)
    if cost is None or not cost.spent:
        return ("Nothing was charged: this machine has no price per hour. spec.template.spec.budget.hourlyRate sets "
                "one.")
    budget = facts.resource.spec.budget.max_cost
    of = f" of a budget of {budget:f} {cost.currency}" if budget is not None else ""
    words = f"All jobs together cost {cost.spent:f} {cost.currency}{of}"
    if cost.saved:
        words += f", and early stop saved about {cost.saved:f} {cost.currency}"
    return f"{words}{_beside(lines, facts.status.winner, cost.currency)}."


def _beside(lines: list[VariantLine], winner: str | None, currency: str) -> str:
    """What the winner, or the best, costs beside the cheapest of the others."""
    others = [line for line in lines if line.name != (winner or lines[0].name)]
    if not others:
        return ""
    chosen = next(line for line in lines if line.name == (winner or lines[0].name))
    cheapest = min(others, key=lambda line: line.cost)
    role = "the winner" if winner else "the best score"
    words = f"; {chosen.name}, {role}, cost {chosen.cost:f} {currency}, "
    return words + _compared(chosen.cost, cheapest, currency)


def _compared(cost: Decimal, cheapest: VariantLine, currency: str) -> str:
    difference = cost - cheapest.cost
    if not difference:
        return f"as much as the cheapest other one, {cheapest.name}"
    words = f"{abs(difference):f} {currency} {'more' if difference > 0 else 'less'}"
    return f"{words} than the cheapest other one, {cheapest.name}"
