"""What each job of an experiment may spend. Pure.

The invariant: what ended jobs have spent, and the limits of those that run, are together at most `budget.maxCost`. A
trainer stops at its limit, so the experiment passes its own by no more than its running jobs do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from finetune_api.experiment.observed import ObservedExperiment, ObservedJob

_SMALLEST = Decimal("0.0001")


def rounded_down(amount: Decimal) -> Decimal:
    """An amount with four decimals, never more than it was."""
    return max(amount, Decimal(0)).quantize(_SMALLEST, rounding=ROUND_DOWN)


def committed(observed: ObservedExperiment) -> Decimal:
    """What is spent, or may still be spent by jobs that run."""
    return observed.spent_before + sum((_committed(job) for job in observed.jobs.values()), Decimal(0))


def _committed(job: ObservedJob) -> Decimal:
    return job.spent if job.has_ended else max(job.spent, job.max_cost or Decimal(0))


@dataclass(frozen=True)
class Candidate:
    """A job that may be started.

    Attributes:
        weight: its part of the money, relative to the others'.
        own_limit: its own `budget.maxCost`, by the template or a patch.
        estimate: what it is estimated to cost; None if that is not known.
    """

    weight: Decimal
    own_limit: Decimal | None
    estimate: Decimal | None


def limit_of_new_job(candidate: Candidate, left: Decimal, weights: Decimal) -> Decimal | None:
    """What a job may spend: its share of what is left, and at least its estimate; None if what is left does not pay it.

    Args:
        candidate: the job.
        left: what is left of the budget.
        weights: the weights of all jobs that are not started yet, its own included.
    """
    share = left * candidate.weight / weights if weights else left
    if candidate.estimate is not None:
        share = min(left, max(share, candidate.estimate))
    limit = rounded_down(share if candidate.own_limit is None else min(share, candidate.own_limit))
    needed = candidate.estimate or Decimal(0)
    if candidate.own_limit is not None:  # The user's own limit may be below the estimate.
        needed = min(needed, candidate.own_limit)
    return limit if limit > 0 and limit >= rounded_down(needed) else None


def _filled(room: Mapping[str, Decimal], caps: Mapping[str, Decimal], more: Decimal) -> dict[str, Decimal]:
    """What each job gets if all get the same of `more`, but none more than its cap: the others get the rest at once."""
    filled, growing = dict(room), set(room)
    while growing:
        share = more / len(growing)
        capped = {name for name in growing if name in caps and filled[name] + share >= caps[name]}
        if not capped:
            return {name: one + share if name in growing else one for name, one in filled.items()}
        for name in capped:
            more -= max(caps[name] - filled[name], Decimal(0))
            filled[name] = caps[name]
        growing -= capped
    return filled


def limits_of_running_jobs(jobs: Mapping[str, ObservedJob], own_limits: Mapping[str, Decimal | None],
                           allowed: Decimal, may_rise: bool) -> dict[str, Decimal]:
    """The limits that running jobs need, where these differ from those that they have.

    They fall where the budget was lowered: what is above the money spent so far shrinks by the same share for all. They
    rise where no other job will need what is left.

    Args:
        jobs: the jobs that run, by name.
        own_limits: each job's own `budget.maxCost`, by the template or a patch.
        allowed: what all of them together may spend.
        may_rise: whether no other job is left to be started.
    """
    spent = sum((job.spent for job in jobs.values()), Decimal(0))
    room: Mapping[str, Decimal | None] = {
        name: max(job.max_cost - job.spent, Decimal(0)) if job.max_cost is not None else None
        for name, job in jobs.items()}
    known = [one for one in room.values() if one is not None]
    if len(known) < len(room):  # The budget is newer than the job: all get an equal share of what is left.
        equal = max(allowed - spent, Decimal(0)) / len(jobs)
        room = dict.fromkeys(room, equal)
        known = [equal] * len(jobs)
    free, total = allowed - spent, sum(known, Decimal(0))
    if total > free:
        factor = max(free, Decimal(0)) / total if total else Decimal(0)
        room = {name: (one or Decimal(0)) * factor for name, one in room.items()}
    elif may_rise:
        caps = {name: max(own - jobs[name].spent, Decimal(0)) for name, own in own_limits.items() if own is not None}
        room = _filled({name: one or Decimal(0) for name, one in room.items()}, caps, free - total)
    wanted: dict[str, Decimal] = {}
    for name, job in jobs.items():
        if not room[name] and job.max_cost is not None and job.max_cost <= job.spent:
            continue  # Its limit stops it already.
        limit, own = rounded_down(job.spent + (room[name] or Decimal(0))), own_limits.get(name)
        limit = limit if own is None else min(limit, own)
        if limit != job.max_cost:
            wanted[name] = limit
    return wanted
