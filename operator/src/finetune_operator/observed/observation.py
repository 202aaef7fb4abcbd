"""Everything that one decision rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from finetune_api.messages import ProgressMessage

from finetune_operator.observed.objects import AttemptView, JobView


@dataclass(frozen=True)
class Checks:
    """How many other jobs are being checked.

    Attributes:
        working: everywhere, without those that wait for a node, a quota or a queue.
        in_namespace: in the job's own namespace, all of them.
    """

    working: int = 0
    in_namespace: int = 0


@dataclass(frozen=True)
class Observation:
    """What is known of one job.

    Attributes:
        job: the resource.
        attempts: its attempts whose Jobs exist, by number.
        preflights: checks whose Jobs exist, numbered by the generation that they check.
        taken: numbers whose Job name belongs to somebody else (an earlier job of this name).
        applied: digests of the applied children that exist, by kind and name.
        maps: names of its ConfigMaps that exist.
        addresses: of its Services, by name.
        bound_claims: claims that are known to have a volume; they are asked for only where a check is made.
        checks: of other jobs.
        progress: what the running trainer said last.
        polled_at: when the trainer was asked last; costs of a running attempt are counted up to then, so that an idle
            pass changes nothing.
        earlier_run: the run configuration of an earlier attempt, empty where there is none; None where it was not read.
    """

    job: JobView
    attempts: tuple[AttemptView, ...] = ()
    preflights: tuple[AttemptView, ...] = ()
    taken: frozenset[int] = frozenset()
    applied: frozenset[tuple[str, str, str]] = frozenset()
    maps: frozenset[str] = frozenset()
    addresses: Mapping[str, str] = field(default_factory=dict)
    bound_claims: frozenset[str] = frozenset()
    checks: Checks = Checks()
    progress: ProgressMessage | None = None
    polled_at: datetime | None = None
    earlier_run: Mapping[str, Any] | None = None
