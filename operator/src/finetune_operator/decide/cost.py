"""What a job costs: derived from the records of its attempts, never added up from pass to pass. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from finetune_api.messages import ProgressMessage
from finetune_api.spec.compute import ComputeSpec
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.status import Attempt, Cost, FineTuneJobStatus
from finetune_api.values.money import cost_of, rounded_amount

from finetune_operator.settings import Accelerator

LISTED_ATTEMPTS = 10
"""How many attempts the status lists; `cost.earlier` and `cost.earlierSeconds` sum up earlier ones."""

_LONGEST_SECONDS = 10**10


def price_per_accelerator_hour(spec: FineTuneJobSpec, accelerator: Accelerator) -> Decimal:
    """The price of one accelerator for one hour: `budget.hourlyRate`, or the price in the catalogue."""
    return accelerator.hourly_price if spec.budget.hourly_rate is None else spec.budget.hourly_rate


def accelerator_count(compute: ComputeSpec, accelerator: Accelerator) -> int:
    """How many accelerators a job holds while it runs, on all its nodes. A node without any counts as one."""
    return compute.nodes * (compute.gpus_per_node if accelerator.resource else 1)


def amount_spent(status: FineTuneJobStatus, accelerators: int, until: datetime | None) -> Decimal:
    """What all attempts of a job cost.

    Args:
        status: with the attempts and the price.
        accelerators: how many accelerators the job holds.
        until: a running attempt counts up to this time; None to leave running attempts out.
    """
    if status.cost is None:
        return Decimal(0)
    time = sum((_time_on_nodes(attempt, until) for attempt in status.attempts), timedelta())
    return rounded_amount((status.cost.earlier or Decimal(0)) + cost_of(time, status.cost.price(accelerators)))


def _time_on_nodes(attempt: Attempt, until: datetime | None = None) -> timedelta:
    # The clock of a node may be behind that of the scheduler: no time is negative.
    end = attempt.end_time or until or attempt.start_time
    return max(end - attempt.start_time, timedelta())


def time_of_ended_attempts(status: FineTuneJobStatus) -> timedelta:
    """How long all ended attempts together held their nodes."""
    seconds = (status.cost.earlier_seconds or 0) if status.cost else 0
    # Other clients may write any number into a status: limit it to what a timedelta holds.
    earlier = timedelta(seconds=min(max(seconds, 0), _LONGEST_SECONDS))
    return _time_of_ended(status.attempts) + earlier


def _time_of_ended(attempts: Sequence[Attempt]) -> timedelta:
    return sum((_time_on_nodes(attempt) for attempt in attempts if attempt.end_time), timedelta())


def with_listed_attempts(status: FineTuneJobStatus, accelerators: int) -> FineTuneJobStatus:
    """The status with its last ten attempts; the sums in `cost` take in the earlier ones."""
    surplus = status.attempts[:-LISTED_ATTEMPTS]
    if not surplus or status.cost is None:
        return status
    earlier = amount_spent(status.model_copy(update={"attempts": surplus}), accelerators, None)
    seconds = (status.cost.earlier_seconds or 0) + int(_time_of_ended(surplus).total_seconds())
    return _with_cost(status, status.cost, attempts=status.attempts[-LISTED_ATTEMPTS:],
                      cost={"earlier": earlier, "earlier_seconds": seconds})


def with_current_cost(status: FineTuneJobStatus, accelerators: int, progress: ProgressMessage | None,
                      polled_at: datetime | None) -> FineTuneJobStatus:
    """The status with what is spent so far and what the job is expected to cost.

    Args:
        status: with the attempts as they are now.
        accelerators: how many accelerators the job holds.
        progress: the running trainer's last message.
        polled_at: when the operator last asked the trainer: a running attempt counts up to then.
    """
    if status.cost is None:
        return status
    until = polled_at.replace(microsecond=0) if polled_at else None
    spent = amount_spent(status, accelerators, until)
    if polled_at is None and any(one.end_time is None for one in status.attempts):
        # The operator has just started and has not asked the trainer yet. The amount must not drop meanwhile.
        spent = max(spent, status.cost.spent)
    remaining = _remaining_time(progress, until)
    projected = status.cost.projected if remaining is None else rounded_amount(
        spent + cost_of(remaining, status.cost.price(accelerators)))
    return _with_cost(status, status.cost, cost={"spent": spent, "projected": projected})


def _remaining_time(progress: ProgressMessage | None, polled_at: datetime | None) -> timedelta | None:
    """How long the training still takes by the trainer's estimate; None if there is no estimate."""
    steps = progress.progress if progress else None
    if polled_at is None or steps is None or steps.estimated_completion_time is None:
        return None
    return max(steps.estimated_completion_time - polled_at, timedelta())


def with_amount_spent(status: FineTuneJobStatus, accelerators: int, until: datetime | None) -> FineTuneJobStatus:
    """The status with what all attempts cost. A node that is still held counts until `until`."""
    if status.cost is None:
        return status
    return _with_cost(status, status.cost, cost={"spent": amount_spent(status, accelerators, until)})


def _with_cost(status: FineTuneJobStatus, known: Cost, *, cost: dict[str, object], **fields: object
               ) -> FineTuneJobStatus:
    return status.model_copy(update={**fields, "cost": known.model_copy(update=cost)})
