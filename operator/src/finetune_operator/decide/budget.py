"""What a job may still cost and last: what its trainer is told of it, and what follows when it is spent. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from finetune_api.messages import Limits, ProgressMessage
from finetune_api.money import cost_of, rounded_amount
from finetune_api.spec.policy import BudgetSpec
from finetune_api.status import Attempt, FineTuneJobStatus

from finetune_operator.decide import accounting

RESERVE = timedelta(hours=2)
"""A trainer stops by itself at its limits, evaluates and publishes. One that goes on for longer than this hangs."""


def deadline(budget: BudgetSpec) -> timedelta | None:
    """The time on its node after which the kubelet ends a pod that hangs; None without budget.maxDuration."""
    return budget.max_duration + RESERVE if budget.max_duration else None


def limits(budget: BudgetSpec, status: FineTuneJobStatus, accelerators: int) -> Limits:
    """What limits.json tells the running attempt."""
    ended = status.model_copy(update={"attempts": tuple(one for one in status.attempts if one.end_time)})
    running = _running(status)
    stop_at = None
    if budget.max_duration and running:
        stop_at = running.start_time + budget.max_duration - accounting.run_time(ended)
    return Limits(stop_at=stop_at, max_cost=budget.max_cost,
                  spent_before=accounting.spent(ended, accelerators, None),
                  hourly_rate=status.cost.price(accelerators).per_hour if status.cost else None)


def spent(budget: BudgetSpec, status: FineTuneJobStatus) -> str | None:
    """Why no further attempt may be made, in words; None where one may."""
    cost = status.cost
    if budget.max_cost is not None and cost and cost.spent and cost.spent >= budget.max_cost:
        price = cost.price(accelerators=1)
        return (f"budget.maxCost is {price.in_words(budget.max_cost)}; {price.in_words(cost.spent)} are spent and "
                "nothing is published yet. Raise budget.maxCost in a new job")
    if budget.max_duration and accounting.run_time(status) >= budget.max_duration:
        return "budget.maxDuration is used up, and nothing is published yet. Raise budget.maxDuration in a new job"
    return None


def watched(budget: BudgetSpec, status: FineTuneJobStatus, accelerators: int, now: datetime) -> FineTuneJobStatus:
    """The status of a job that runs, with the time since when a limit of its budget is reached."""
    if status.cost is None:
        return status
    since = (status.cost.used_up_at or now) if _used_up(budget, status, accelerators, now) else None
    return status.model_copy(update={"cost": status.cost.model_copy(update={"used_up_at": since})})


def overdue(budget: BudgetSpec, status: FineTuneJobStatus, accelerators: int, now: datetime) -> str | None:
    """Why the running attempt hangs, in words: it goes on long after its trainer was told to stop."""
    since = status.cost.used_up_at if status.cost else None
    if since is None or now - since < RESERVE:
        return None
    reached = _used_up(budget, status, accelerators, now)
    return reached and f"{reached}, and the trainer has not stopped by itself in two hours: it is stopped"


def _used_up(budget: BudgetSpec, status: FineTuneJobStatus, accelerators: int, now: datetime) -> str | None:
    if budget.max_cost is not None and accounting.spent(status, accelerators, now) >= budget.max_cost:
        return f"budget.maxCost {budget.max_cost} is spent"
    running = _running(status)
    if budget.max_duration and running and (
            accounting.run_time(status) + (now - running.start_time) >= budget.max_duration):
        return "budget.maxDuration is used up"
    return None


def _running(status: FineTuneJobStatus) -> Attempt | None:
    return next((one for one in status.attempts if one.end_time is None), None)


def projected(status: FineTuneJobStatus, accelerators: int, so_far: Decimal, said: ProgressMessage | None,
              until: datetime | None) -> Decimal | None:
    """What the job will have cost when training is done, as far as the trainer can tell.

    Args:
        status: with the price.
        accelerators: how many are paid for.
        so_far: what is spent.
        said: the trainer's last words.
        until: when it said them.
    """
    if not status.cost:
        return None
    progress = said.progress if said else None
    if until is None or progress is None or progress.estimated_completion_time is None:
        return status.cost.projected
    left = max(progress.estimated_completion_time - until, timedelta())
    return rounded_amount(so_far + cost_of(left, status.cost.price(accelerators)))
