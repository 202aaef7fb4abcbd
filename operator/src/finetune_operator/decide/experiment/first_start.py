"""Whether the first job of an experiment may start: every job is checked, and all together fit the budget. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

from finetune_api.experiment.expansion import Run
from finetune_api.experiment.halving import stages
from finetune_api.experiment.spec import FineTuneExperimentSpec
from finetune_api.experiment.status import ExperimentPhase, ExperimentReason
from finetune_api.experiment.summary import ExperimentState
from finetune_api.values.money import estimated_amount

from finetune_operator.decide.experiment.known_jobs import KnownJobs, refusal

_SHOWN = 5


def why_not_started(spec: FineTuneExperimentSpec, runs: Sequence[Run], known: KnownJobs, currency: str
                    ) -> ExperimentState | None:
    """Why no job may start yet, or at all; None if the first ones may.

    Args:
        spec: the experiment's spec.
        runs: its jobs.
        known: what is known of them; none was started.
        currency: of the budget.
    """
    refused = {run.name: (run, why) for run in runs
               if (job := known.held.get(run.name)) is not None and (why := refusal(job)) is not None}
    waiting = [run for run in runs if run.name not in known.rows and run.name not in refused
               and not known.is_checked(run.name)]
    if refused:
        words = [f"variant {run.variant}: {why}" for run, why in list(refused.values())[:_SHOWN]]
        more = [f"and {len(refused) - _SHOWN} others"] if len(refused) > _SHOWN else []
        return ExperimentState(ExperimentPhase.PENDING, ExperimentReason.INVALID_VARIANT,
                               "; ".join((*words, *more)), valid=False)
    if waiting:
        return ExperimentState(
            ExperimentPhase.PENDING, ExperimentReason.PREFLIGHT,
            f"{len(runs) - len(waiting)} of {len(runs)} jobs are checked. No accelerator is requested before all are")
    total = estimated_total(spec, runs, known.observed.estimates)
    limit = spec.budget.max_cost
    if limit is not None and total > limit:
        return ExperimentState(
            ExperimentPhase.PENDING, ExperimentReason.ESTIMATE_ABOVE_BUDGET,
            f"spec.budget.maxCost is {limit:f} {currency}; all jobs together are estimated to cost "
            f"{estimated_amount(total):f} {currency}. Raise it, or write fewer variants, repeats or steps", valid=False)
    return None


def estimated_total(spec: FineTuneExperimentSpec, runs: Sequence[Run], estimates: Mapping[str, Decimal]) -> Decimal:
    """What all jobs together are estimated to cost; with halving, of each stage the most expensive jobs that go on.

    A job without an estimate counts as 0: one that needs no check, or whose result is published already.
    """
    total, going_on = Decimal(0), math.inf
    for stage in stages(runs):
        costs = sorted((_estimate(run, estimates) for run in stage), reverse=True)
        variants = len({run.variant for run in stage})
        share = min(going_on / variants, 1.0)
        total += sum(costs[:math.ceil(len(costs) * share)], Decimal(0))
        if spec.early_stop is not None:
            going_on = math.ceil(min(going_on, variants) * spec.early_stop.keep)
    return total


def _estimate(run: Run, estimates: Mapping[str, Decimal]) -> Decimal:
    estimate, own = run.own_part(estimates.get(run.name, Decimal(0))), run.job.spec.budget.max_cost
    return estimate if own is None else min(estimate, own)
