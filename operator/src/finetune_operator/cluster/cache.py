"""What the watches have delivered: jobs and their children, held by uid, with what nobody reads left out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from finetune_api.messages import ProgressMessage

from finetune_operator.cluster.decoding import Object, shortened
from finetune_operator.decide.attempts import RUNNING
from finetune_operator.decide.check_turns import CheckTurns, reason_in
from finetune_operator.names import (
    API_VERSIONS,
    ATTEMPT_LABEL,
    INDEX_ANNOTATION,
    JOB_LABEL,
    NUMBER_LABELS,
    PREFLIGHT_LABEL,
    UID_LABEL,
    attempt_name,
)
from finetune_operator.observed.objects import (
    AttemptView,
    JobView,
    PodView,
    child_hash,
    time_of,
    view_attempt,
    view_job,
    view_pod,
)
from finetune_operator.observed.observation import Checks, Observation

_NUMBER = re.compile("[1-9][0-9]{0,8}")
_INDEX = re.compile("[0-9]{1,9}")
Key = tuple[str, str]
"""Namespace and name of a job."""


@dataclass(frozen=True)
class Polled:
    """What a trainer said, and when it was asked."""

    attempt: int
    at: datetime
    message: ProgressMessage | None


class Cache:
    """The last state of every object that was seen. One thread only: the event loop's."""

    def __init__(self) -> None:
        self._jobs: dict[Key, Object] = {}
        self._children: defaultdict[Key, dict[str, Object]] = defaultdict(dict)
        self._gone: set[str] = set()
        # Resource versions of deletions by uid: since the last sweep began, and in the time of the sweep before.
        self._deleted: dict[str, int] = {}
        self._deleted_before: dict[str, int] = {}
        self.polled: dict[str, Polled] = {}
        self.turns = CheckTurns()

    def begin_sweep(self) -> None:
        """Forget the deletions of the time before the last sweep: no page that was read then can come any more."""
        self._deleted_before, self._deleted = self._deleted, {}

    def _is_deleted(self, uid: str, version: int) -> bool:
        """Whether a state is older than the deletion of its object: a page of a list, or the answer to a write."""
        return version <= max(self._deleted.get(uid, -1), self._deleted_before.get(uid, -1))

    def note(self, raw: Object, deleted: bool = False) -> Key | None:
        """Take in an object as a watch or a write delivered it; its job's key, or None for no news.

        A state that is not newer than the one that is held is passed over: watches and answers to writes overtake each
        other, and what a write answered comes again by the watch.
        """
        key = key_of(raw)
        if key is None:
            return None
        metadata = raw["metadata"]
        version = int(metadata["resourceVersion"])
        if deleted:
            self._deleted[metadata["uid"]] = version
        elif self._is_deleted(metadata["uid"], version):
            return None
        if raw["kind"] == "FineTuneJob":
            held = self._jobs.get(key)
            if deleted:
                if held is None or held["metadata"]["uid"] == metadata["uid"]:
                    self._jobs.pop(key, None)
                    self.polled.pop(metadata["uid"], None)
                    self.turns.note(key, None)
            elif _is_newer(raw, held):
                self._jobs[key] = shortened(raw)
                self.turns.note(key, reason_in(self._jobs[key]))
            else:
                return None
            self._tidy(key)
            return key
        children = self._children[key]
        uid = metadata["uid"]
        if deleted and raw["kind"] == "Pod":
            # Its last state tells how the trainer ended: kept until its Job is gone too.
            children[uid] = shortened(raw)
            self._gone.add(uid)
        elif deleted:
            children.pop(uid, None)
        elif uid not in self._gone and _is_newer(raw, children.get(uid)):
            children[uid] = shortened(raw)
        else:
            return None
        self._tidy(key)
        return key

    def _tidy(self, key: Key) -> None:
        """Forget the gone pods whose Jobs are gone, and keys without anything."""
        children = self._children.get(key, {})
        jobs = {_owner(child) for child in children.values() if child["kind"] == "Job"}
        for uid in [uid for uid in children if uid in self._gone]:
            if _owner(children[uid]) not in jobs:
                del children[uid]
                self._gone.discard(uid)
        if not children:
            self._children.pop(key, None)

    def keep_only(self, kind: str, uids: set[str], version: int, namespace: str | None) -> Iterator[Key]:
        """Drop what a list no longer has (a watch gap hides deletions); the keys that this concerns.

        Args:
            kind: what was listed.
            uids: what the list has.
            version: the list's resource version; what is newer was made since.
            namespace: where it was listed; None for everywhere.
        """
        stale = [raw for raw in self._all(kind)
                 if raw["metadata"]["uid"] not in uids and raw["metadata"]["uid"] not in self._gone
                 and int(raw["metadata"]["resourceVersion"]) <= version
                 and namespace in (None, raw["metadata"]["namespace"])]
        for raw in stale:
            key = self.note(raw, deleted=True)
            self._deleted[raw["metadata"]["uid"]] = version
            if key is not None:
                yield key

    def _all(self, kind: str) -> Iterator[Object]:
        if kind == "FineTuneJob":
            yield from self._jobs.values()
            return
        for children in self._children.values():
            yield from (child for child in children.values() if child["kind"] == kind)

    def jobs(self) -> list[tuple[Key, Object]]:
        """Every job, as of now: a thread of its own serves /metrics, while the event loop changes what is here."""
        return list(self._jobs.items())

    def next_checks(self, key: Key) -> tuple[Key, ...]:
        """After a pass over a job, whatever came of it: the jobs whose turn it may be to be checked."""
        self.turns.note(key, reason_in(self._jobs[key]) if key in self._jobs else None)
        return self.turns.next()

    def stored_status(self, key: Key) -> Mapping[str, object]:
        """A job's status as the apiserver has it; empty for none."""
        return self._jobs.get(key, {}).get("status") or {}

    def is_settled(self, key: Key) -> bool:
        """Whether nothing is left to do about a job: it is finished, that is told, and nothing of it is left to go."""
        raw = self._jobs.get(key)
        if raw is None:
            return False
        status, spec = raw.get("status") or {}, raw.get("spec") or {}
        children = self._children.get(key, {}).values()
        told = status.get("observedGeneration") == raw["metadata"].get("generation")
        if "completionTime" not in status or not told or any(map(_holds_node, status.get("attempts") or ())):
            return False
        if (spec.get("runPolicy") or {}).get("ttlSecondsAfterFinished") is not None:
            return not children
        return all(ATTEMPT_LABEL in child["metadata"]["labels"] and _is_over(child)
                   for child in children if child["kind"] == "Job")

    def view(self, key: Key) -> JobView | None:
        """A job without what belongs to it; None for one that is not there."""
        raw = self._jobs.get(key)
        return None if raw is None else view_job(raw)

    def observe(self, key: Key) -> Observation | None:
        """Everything that is known of a job; None for one that is not there."""
        job = self.view(key)
        return None if job is None else self.around(job)

    def around(self, job: JobView) -> Observation:
        """A job with what belongs to it."""
        key = job.namespace, job.name
        ours = self._ours(key, job.uid)
        taken = {int(labels[ATTEMPT_LABEL]) for child in self._children.get(key, {}).values()
                 if child["kind"] == "Job" and ATTEMPT_LABEL in (labels := child["metadata"]["labels"])
                 and labels[UID_LABEL] != job.uid}
        checks = [child for child in ours if PREFLIGHT_LABEL in child["metadata"]["labels"]
                  and child["kind"] in ("Job", "Pod")]
        attempts = tuple(self._attempts(ours))
        polled = self.polled.get(job.uid)
        fresh = polled if polled and attempts and attempts[-1].number == polled.attempt else None
        return Observation(
            job=job, attempts=attempts, preflights=tuple(self._preflights(checks)), taken=frozenset(taken),
            applied=frozenset((child["kind"], child["metadata"]["name"], digest) for child in ours
                              if child["kind"] in API_VERSIONS and (digest := child_hash(child))),
            maps=frozenset(child["metadata"]["name"] for child in ours if child["kind"] == "ConfigMap"),
            addresses={child["metadata"]["name"]: child["spec"]["clusterIP"] for child in ours
                       if child["kind"] == "Service" and child["spec"]["clusterIP"]},
            checks=Checks() if job.status.start_time else self.turns.beside(key),
            progress=fresh.message if fresh else None, polled_at=fresh.at if fresh else None,
        )

    def newest_attempt(self, key: Key) -> AttemptView | None:
        """The attempt of a job that was made last and is there."""
        raw = self._jobs.get(key)
        attempts = [] if raw is None else list(self._attempts(self._ours(key, raw["metadata"]["uid"])))
        return attempts[-1] if attempts else None

    def _ours(self, key: Key, uid: str) -> list[Object]:
        children = self._children.get(key, {}).values()
        return [child for child in children if child["metadata"]["labels"][UID_LABEL] == uid]

    def _attempts(self, children: list[Object]) -> Iterator[AttemptView]:
        children = [child for child in children if ATTEMPT_LABEL in child["metadata"]["labels"]]
        pods: defaultdict[int, list[PodView]] = defaultdict(list)
        raw_pods: dict[int, Object] = {}
        for child in children:
            if child["kind"] == "Pod":
                number = int(child["metadata"]["labels"][ATTEMPT_LABEL])
                pods[number].append(view_pod(child, child["metadata"]["uid"] in self._gone))
                raw_pods[number] = child
        jobs = {int(child["metadata"]["labels"][ATTEMPT_LABEL]): child for child in children if child["kind"] == "Job"}
        for number in sorted({*jobs, *pods}):
            if number in jobs:
                yield view_attempt(jobs[number], pods[number])
            else:  # Its Job was deleted by somebody, and its pods are on their way out.
                pod = raw_pods[number]
                created = time_of(pod["metadata"]["creationTimestamp"])
                if created is None:
                    continue
                name = attempt_name(pod["metadata"]["labels"][JOB_LABEL], number)
                yield AttemptView(number, name, created, suspended=False, suspended_at=None, released_at=created,
                                  deleting=True, complete=False, failed=None, finished_at=None,
                                  pods=tuple(pods[number]))

    def _preflights(self, children: list[Object]) -> Iterator[AttemptView]:
        """The checks whose Jobs exist, the newest generation last; nothing depends on a pod that has lost its Job."""
        for child in sorted(children, key=lambda one: int(one["metadata"]["labels"][PREFLIGHT_LABEL])):
            if child["kind"] == "Job":
                # A generation may have several: one that failed and is not gone yet, and the next.
                pods = (pod for pod in children if pod["kind"] == "Pod" and any(
                    owner["uid"] == child["metadata"]["uid"] for owner in pod["metadata"]["ownerReferences"]))
                yield view_attempt(child, (view_pod(pod, pod["metadata"]["uid"] in self._gone) for pod in pods),
                                   PREFLIGHT_LABEL)


def _holds_node(record: object) -> bool:
    """Whether an attempt's record is without its end still: a container beside the trainer held its node for longer."""
    return isinstance(record, Mapping) and record.get("reason") != RUNNING and "endTime" not in record


def _is_over(job: Object) -> bool:
    conditions = job["status"]["conditions"]
    return any(one["type"] in ("Complete", "Failed") and one.get("status") == "True" for one in conditions)


def _owner(child: Object) -> tuple[str, str | None, str | None]:
    """Which job's which attempt or check a Job or a pod is, or belongs to."""
    labels = child["metadata"]["labels"]
    return labels[UID_LABEL], labels.get(ATTEMPT_LABEL), labels.get(PREFLIGHT_LABEL)


def key_of(raw: Object) -> Key | None:
    """The job that an object concerns; None for what the operator has not made.

    Whoever may make a Job or a pod can give it our labels: where they are not whole, it is none of ours.
    """
    metadata = raw["metadata"]
    if raw["kind"] == "FineTuneJob":
        return metadata["namespace"], metadata["name"]
    labels = metadata.get("labels") or {}
    if JOB_LABEL not in labels or UID_LABEL not in labels:
        return None
    if raw["kind"] in ("Job", "Pod"):
        numbers = [labels[label] for label in NUMBER_LABELS if label in labels]
        index = (metadata.get("annotations") or {}).get(INDEX_ANNOTATION, "0")
        if not numbers or not all(map(_NUMBER.fullmatch, numbers)) or not _INDEX.fullmatch(index):
            return None
    return metadata["namespace"], labels[JOB_LABEL]


def _is_newer(raw: Object, held: Object | None) -> bool:
    """Whether a state follows the one that is held.

    Of one object, resource versions grow: since Kubernetes 1.35 that is promised, and every version before kept it.
    """
    if held is None or held["metadata"]["uid"] != raw["metadata"]["uid"]:
        return True
    return int(raw["metadata"]["resourceVersion"]) > int(held["metadata"]["resourceVersion"])
