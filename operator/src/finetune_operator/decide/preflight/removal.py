"""The deletion of preflight checks, with their ConfigMaps. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_operator.decide.actions import Action, Delete, delete_job
from finetune_operator.names import preflight_run_name
from finetune_operator.observed.attempt import AttemptView
from finetune_operator.observed.observation import Observation


def remove_preflights(observation: Observation) -> tuple[Action, ...]:
    """Delete every check of a job. The status has what they found by then."""
    return remove_some_preflights(observation, observation.preflights)


def remove_some_preflights(observation: Observation, preflights: Iterable[AttemptView]) -> tuple[Action, ...]:
    """Delete those of a job's checks that are not being deleted yet."""
    uid = observation.job.uid
    return tuple(action for one in preflights if not one.deleting for action in (
        delete_job(one.name), Delete("v1", "ConfigMap", preflight_run_name(one.name, uid))))
