"""The last state of every job and of every child, as the watches delivered it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from finetune_api.experiment.resource import EXPERIMENT_KIND
from finetune_api.job import KIND
from finetune_api.messages import ProgressMessage

from finetune_operator.cluster.apiserver.decoding import RawObject, trim
from finetune_operator.cluster.cache.attempts import attempts_of, checks_of
from finetune_operator.cluster.cache.children import Children
from finetune_operator.cluster.cache.experiments import ExperimentCache
from finetune_operator.cluster.cache.keys import Key, experiment_key_of, key_of
from finetune_operator.cluster.cache.settled import is_settled
from finetune_operator.cluster.cache.versions import is_newer
from finetune_operator.decide.preflight.turns import PreflightTurns, stored_preflight_reason
from finetune_operator.names import API_VERSIONS, ATTEMPT_LABEL, UID_LABEL
from finetune_operator.observed.attempt import AttemptView
from finetune_operator.observed.job import JobView, view_job
from finetune_operator.observed.observation import Observation, OtherPreflights, child_hash


@dataclass(frozen=True)
class Polled:
    """The progress of a trainer, and when the operator asked for it.

    Attributes:
        attempt: number of the attempt.
        at: when the operator asked.
        message: the answer; None if there was none yet.
    """

    attempt: int
    at: datetime
    message: ProgressMessage | None


class Cache:
    """The last state of every object. Only the event loop's thread uses it."""

    def __init__(self) -> None:
        self._jobs: dict[Key, RawObject] = {}
        self._children = Children(UID_LABEL)
        # Resource versions of deletions, by uid: since the last sweep began, and between the two sweeps before.
        self._deleted: dict[str, int] = {}
        self._deleted_before: dict[str, int] = {}
        self.polled: dict[str, Polled] = {}
        self.experiments = ExperimentCache(self._jobs)
        self.turns = PreflightTurns()

    def begin_sweep(self) -> None:
        """Forget the deletions before the last sweep: no page that was read then can arrive any more."""
        self._deleted_before, self._deleted = self._deleted, {}

    def _is_deleted(self, uid: str, version: int) -> bool:
        """Whether a state is older than the deletion of its object: from a page of a list, or the answer to a write."""
        return version <= max(self._deleted.get(uid, -1), self._deleted_before.get(uid, -1))

    def record(self, raw: RawObject, deleted: bool = False) -> Key | None:
        """Record the state of an object that a watch, a list or a write delivered.

        A state that is not newer than the recorded one is ignored: watches and answers to writes overtake each other,
        and the watch delivers again what a write answered.

        Returns:
            The key of the object's job; None if the state is no news, or of an experiment.
        """
        key = key_of(raw)
        owner = experiment_key_of(raw) if key is None else key
        if owner is None:
            return None
        metadata = raw["metadata"]
        version = int(metadata["resourceVersion"])
        if deleted:
            self._deleted[metadata["uid"]] = version
        elif self._is_deleted(metadata["uid"], version):
            return None
        if key is None:
            self.experiments.record_child(owner, raw, deleted)
            return None
        if raw["kind"] == EXPERIMENT_KIND:
            self.experiments.record(key, raw, deleted)
            return None
        update = self._update_job if raw["kind"] == KIND else self._children.update
        return key if update(key, raw, deleted) else None

    def _update_job(self, key: Key, raw: RawObject, deleted: bool) -> bool:
        held = self._jobs.get(key)
        if deleted:
            if held is None or held["metadata"]["uid"] == raw["metadata"]["uid"]:
                self._jobs.pop(key, None)
                self.polled.pop(raw["metadata"]["uid"], None)
                self.turns.record(key, None)
                self.experiments.record_job(key, held or raw, None)
            return True
        if not is_newer(raw, held):
            return False
        self._jobs[key] = trim(raw)
        self.experiments.record_job(key, held, self._jobs[key])
        self.turns.record(key, stored_preflight_reason(self._jobs[key]))
        return True

    def keep_only(self, kind: str, uids: set[str], version: int, namespace: str | None) -> Iterator[Key]:
        """Drop objects that a list does not have: a gap between two watches hides deletions.

        Args:
            kind: of the list's objects.
            uids: of the list's objects.
            version: the list's resource version. Newer objects were created after it.
            namespace: of the list; None for all namespaces.

        Returns:
            The keys of the dropped objects.
        """
        stale = [raw for raw in self._all(kind)
                 if raw["metadata"]["uid"] not in uids and not self._is_gone(raw["metadata"]["uid"])
                 and int(raw["metadata"]["resourceVersion"]) <= version
                 and namespace in (None, raw["metadata"]["namespace"])]
        for raw in stale:
            key = self.record(raw, deleted=True)
            self._deleted[raw["metadata"]["uid"]] = version
            if key is not None:
                yield key

    def _is_gone(self, uid: str) -> bool:
        return uid in self._children.gone or uid in self.experiments.children.gone

    def _all(self, kind: str) -> Iterator[RawObject]:
        if kind == EXPERIMENT_KIND:
            yield from self.experiments.all()
        elif kind == KIND:
            yield from self._jobs.values()
        else:
            yield from self._children.all(kind)
            yield from self.experiments.children.all(kind)

    def jobs(self) -> list[tuple[Key, RawObject]]:
        """A copy of the list of jobs: the thread of /metrics reads it while the event loop changes the cache."""
        return list(self._jobs.items())

    def next_checks(self, key: Key) -> tuple[Key, ...]:
        """After a pass over a job, however it ended: the jobs whose check may start now."""
        self.turns.record(key, stored_preflight_reason(self._jobs[key]) if key in self._jobs else None)
        return self.turns.next_in_turn()

    def stored_status(self, key: Key) -> Mapping[str, object]:
        """A job's status as the apiserver has it; empty if there is none."""
        return self._jobs.get(key, {}).get("status") or {}

    def is_settled(self, key: Key) -> bool:
        """Whether a job exists and nothing is left to do about it."""
        job = self._jobs.get(key)
        return job is not None and is_settled(job, self._children.of(key))

    def view(self, key: Key) -> JobView | None:
        """A job without its children; None if it does not exist."""
        raw = self._jobs.get(key)
        return None if raw is None else view_job(raw)

    def observe(self, key: Key) -> Observation | None:
        """Everything that is known of a job; None if it does not exist."""
        job = self.view(key)
        return None if job is None else self.around(job)

    def around(self, job: JobView) -> Observation:
        """A job with its children."""
        key = job.namespace, job.name
        own, gone = self._children.owned_by(key, job.uid), self._children.gone
        taken = {int(labels[ATTEMPT_LABEL]) for child in self._children.of(key)
                 if child["kind"] == "Job" and ATTEMPT_LABEL in (labels := child["metadata"]["labels"])
                 and labels[UID_LABEL] != job.uid}
        attempts = tuple(attempts_of(own, gone))
        polled = self.polled.get(job.uid)
        current = polled if polled and attempts and attempts[-1].number == polled.attempt else None
        return Observation(
            job=job, attempts=attempts, preflights=tuple(checks_of(own, gone)),
            taken_numbers=frozenset(taken),
            applied_children=frozenset((child["kind"], child["metadata"]["name"], digest) for child in own
                                       if child["kind"] in API_VERSIONS and (digest := child_hash(child))),
            config_maps=frozenset(child["metadata"]["name"] for child in own if child["kind"] == "ConfigMap"),
            service_addresses={child["metadata"]["name"]: child["spec"]["clusterIP"] for child in own
                               if child["kind"] == "Service" and child["spec"]["clusterIP"]},
            other_preflights=OtherPreflights() if job.status.start_time else self.turns.others_of(key),
            progress=current.message if current else None, polled_at=current.at if current else None,
        )

    def newest_attempt(self, key: Key) -> AttemptView | None:
        """The existing attempt of a job with the highest number."""
        raw = self._jobs.get(key)
        if raw is None:
            return None
        own = self._children.owned_by(key, raw["metadata"]["uid"])
        return next(reversed(list(attempts_of(own, self._children.gone))), None)
