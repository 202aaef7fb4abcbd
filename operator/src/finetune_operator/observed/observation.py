"""Everything that is known about one job. A decision uses nothing else but the settings and the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_api.messages import ProgressMessage

from finetune_operator.names import HASH_ANNOTATION
from finetune_operator.observed.attempt import AttemptView
from finetune_operator.observed.job import JobView


@dataclass(frozen=True)
class OtherPreflights:
    """How many preflight checks of other jobs exist.

    Attributes:
        running: in all namespaces, without checks that wait for a node, a quota or a queue.
        in_namespace: in the job's own namespace, in any state.
    """

    running: int = 0
    in_namespace: int = 0


@dataclass(frozen=True)
class Observation:
    """What is known about one job.

    Attributes:
        job: the FineTuneJob.
        attempts: the attempts whose Jobs or pods exist, by number.
        preflights: the checks whose Jobs exist, numbered by the generation that they check.
        taken_numbers: numbers of attempts whose Job name belongs to an earlier job of this name.
        applied_children: kind, name and digest of each applied child that exists.
        config_maps: names of the job's ConfigMaps that exist.
        service_addresses: cluster IP of each of its Services, by name.
        bound_claims: claims that are known to have a volume; the operator asks only before it creates a check.
        other_preflights: the checks of other jobs.
        progress: the running trainer's last message.
        polled_at: when the operator last asked the trainer. The cost of a running attempt counts up to this time, so
            that a pass without news changes nothing.
        earlier_run: the run configuration of an earlier attempt, empty if there is none; None if it was not read.
    """

    job: JobView
    attempts: tuple[AttemptView, ...] = ()
    preflights: tuple[AttemptView, ...] = ()
    taken_numbers: frozenset[int] = frozenset()
    applied_children: frozenset[tuple[str, str, str]] = frozenset()
    config_maps: frozenset[str] = frozenset()
    service_addresses: Mapping[str, str] = field(default_factory=dict)
    bound_claims: frozenset[str] = frozenset()
    other_preflights: OtherPreflights = OtherPreflights()
    progress: ProgressMessage | None = None
    polled_at: datetime | None = None
    earlier_run: Mapping[str, Any] | None = None


def child_hash(raw: Mapping[str, Any]) -> str | None:
    """The digest in the annotation of a child that the operator applied; None if it has none."""
    return (raw["metadata"].get("annotations") or {}).get(HASH_ANNOTATION)
