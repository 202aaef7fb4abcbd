"""What a running trainer is told of its budget, in limits.json. Pure; budget.py says when the budget is spent."""

from __future__ import annotations

from finetune_api.messages import Limits
from finetune_api.spec.policy import BudgetSpec
from finetune_api.status import FineTuneJobStatus

from finetune_operator.decide import cost
from finetune_operator.decide.budget import running_attempt


def trainer_limits(budget: BudgetSpec, status: FineTuneJobStatus, accelerators: int) -> Limits:
    """What limits.json says to the running attempt."""
    ended = status.model_copy(update={"attempts": tuple(one for one in status.attempts if one.end_time)})
    running = running_attempt(status)
    stop_at = None
    if budget.max_duration and running:
        stop_at = running.start_time + budget.max_duration - cost.time_of_ended_attempts(ended)
    return Limits(stop_at=stop_at, max_cost=budget.max_cost,
                  spent_before=cost.amount_spent(ended, accelerators, None),
                  hourly_rate=status.cost.price(accelerators).per_hour if status.cost else None)
