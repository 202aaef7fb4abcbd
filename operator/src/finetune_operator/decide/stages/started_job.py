"""What every decision about a started job depends on, and how it is reported. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus, Retries

from finetune_operator.decide.actions import Action, Plan
from finetune_operator.decide.conditions import ConditionReport, set_conditions
from finetune_operator.decide.cost import accelerator_count
from finetune_operator.observed.job import JobView
from finetune_operator.observed.observation import Observation
from finetune_operator.settings import Accelerator, Settings


@dataclass(frozen=True)
class StartedJob:
    """A job that has started and is not finished.

    Attributes:
        observation: everything that is known about it.
        spec: its spec, which can be read.
        status: its status with the attempts and the cost as they are now.
        settings: the administrator's settings.
        now: the time, in UTC.
    """

    observation: Observation
    spec: FineTuneJobSpec
    status: FineTuneJobStatus
    settings: Settings
    now: datetime

    @property
    def job(self) -> JobView:
        """The FineTuneJob as it is stored."""
        return self.observation.job

    @property
    def accelerator(self) -> Accelerator:
        """The job's accelerator in today's catalogue; one with defaults if an administrator has removed it."""
        return self.settings.accelerator(self.spec.compute)

    @property
    def accelerator_count(self) -> int:
        """How many accelerators the job holds while it runs."""
        return accelerator_count(self.spec.compute, self.accelerator)

    @property
    def retries(self) -> Retries:
        """The retries so far."""
        return self.status.retries or Retries()


def plan_reporting(started: StartedJob, condition_report: ConditionReport, actions: tuple[Action, ...] = (),
                   requeue_after: timedelta | None = None) -> Plan:
    """The plan that reports the decision in the conditions."""
    status = set_conditions(started.status, condition_report, started.job.generation, started.now)
    return Plan(status, actions, requeue_after=requeue_after)
