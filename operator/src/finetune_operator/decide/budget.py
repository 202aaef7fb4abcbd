"""What a job may still cost, how long it may still run, and when one of these limits is reached. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from finetune_api.spec.policy import BudgetSpec
from finetune_api.status import Attempt, FineTuneJobStatus
from finetune_api.values.quantities import format_duration

from finetune_operator.decide import cost

RESERVE = timedelta(hours=2)
"""A trainer stops by itself at a limit, evaluates and publishes. If that takes longer than this, it hangs."""


def pod_deadline(budget: BudgetSpec) -> timedelta | None:
    """The time on its node after which the kubelet ends a pod that hangs; None without budget.maxDuration."""
    return budget.max_duration + RESERVE if budget.max_duration else None


def budget_spent(budget: BudgetSpec, status: FineTuneJobStatus, accelerators: int) -> str | None:
    """Why the budget permits no further attempt, in words; None if it permits one."""
    known = status.cost
    if budget.max_cost is not None and known and known.spent and known.spent >= budget.max_cost:
        price = known.price(accelerators)
        return (f"budget.maxCost is {price.in_words(budget.max_cost)}; {price.in_words(known.spent)} are spent and "
                "nothing is published yet. Raise budget.maxCost in a new job")
    used = cost.time_of_ended_attempts(status)
    if budget.max_duration and used >= budget.max_duration:
        return (f"budget.maxDuration is {format_duration(budget.max_duration)}; {format_duration(used)} are used and "
                "nothing is published yet. Raise budget.maxDuration in a new job")
    return None


def with_limit_reached(budget: BudgetSpec, status: FineTuneJobStatus, accelerators: int, now: datetime
                       ) -> FineTuneJobStatus:
    """The status of a running job with the time since when a limit of its budget is reached, if one is."""
    if status.cost is None:
        return status
    since = (status.cost.used_up_at or now) if _reached_limit(budget, status, accelerators, now) else None
    return status.model_copy(update={"cost": status.cost.model_copy(update={"used_up_at": since})})


def overdue_reason(budget: BudgetSpec, status: FineTuneJobStatus, accelerators: int, now: datetime) -> str | None:
    """Why the operator stops the running attempt, in words; None if it may continue.

    The trainer stops by itself when it reaches a limit. An attempt that still runs long after that hangs.
    """
    since = status.cost.used_up_at if status.cost else None
    if since is None or now - since < RESERVE:
        return None
    reached = _reached_limit(budget, status, accelerators, now)
    return reached and f"{reached}, and two hours later the trainer still runs. The operator stops it"


def _reached_limit(budget: BudgetSpec, status: FineTuneJobStatus, accelerators: int, now: datetime) -> str | None:
    if budget.max_cost is not None and status.cost and cost.amount_spent(status, accelerators, now) >= budget.max_cost:
        return f"budget.maxCost ({status.cost.price(accelerators).in_words(budget.max_cost)}) is spent"
    running = running_attempt(status)
    if budget.max_duration and running and (
            cost.time_of_ended_attempts(status) + (now - running.start_time) >= budget.max_duration):
        return f"budget.maxDuration ({format_duration(budget.max_duration)}) is used"
    return None


def running_attempt(status: FineTuneJobStatus) -> Attempt | None:
    """The attempt that has no end yet, if there is one."""
    return next((one for one in status.attempts if one.end_time is None), None)
