"""What the watches have delivered: jobs and their children, held by uid, with what nobody reads left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.messages import ProgressMessage

from finetune_operator.check_turns import CheckTurns, reason_in
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
from finetune_operator.observation import Checks, Observation
from finetune_operator.views import AttemptView, PodView, child_hash, time_of, view_attempt, view_job, view_pod

Key = tuple[str, str]
"""Namespace and name of a job."""

Object = dict[str, Any]


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
        self.polled: dict[str, Polled] = {}
        self.turns = CheckTurns()

    def note(self, raw: Object, deleted: bool = False) -> Key | None:
        """Take in an object as a watch or a write delivered it; its job's key, or None for no news.

        A state that is not newer than the one that is held is passed over: watches and answers to writes overtake each
        other, and what a write answered comes again by the watch.
        """
        key = key_of(raw)
        if key is None:
            return None
        metadata = raw["metadata"]
        if raw["kind"] == "FineTuneJob":
            held = self._jobs.get(key)
            if deleted:
                if held is None or held["metadata"]["uid"] == metadata["uid"]:
                    self._jobs.pop(key, None)
                    self.polled.pop(metadata["uid"], None)
                    self.turns.note(key, None)
            elif _is_newer(raw, held):
                self._jobs[key] = _shortened(raw)
                self.turns.note(key, reason_in(raw.get("status") or {}))
            else:
                return None
            self._tidy(key)
            return key
        children = self._children[key]
        uid = metadata["uid"]
        if deleted and raw["kind"] == "Pod":
            # Its last state tells how the trainer ended: kept until its Job is gone too.
            children[uid] = _shortened(raw)
            self._gone.add(uid)
        elif deleted:
            children.pop(uid, None)
        elif uid not in self._gone and _is_newer(raw, children.get(uid)):
            children[uid] = _shortened(raw)
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
            if key is not None:
                yield key

    def _all(self, kind: str) -> Iterator[Object]:
        if kind == "FineTuneJob":
            yield from self._jobs.values()
            return
        for children in self._children.values():
            yield from (child for child in children.values() if child["kind"] == kind)

    def jobs(self) -> Iterable[tuple[Key, Object]]:
        """Every job."""
        return self._jobs.items()

    def next_checks(self, key: Key) -> tuple[Key, ...]:
        """After a pass over a job, whatever came of it: the jobs whose turn it may be to be checked."""
        self.turns.note(key, reason_in(self._jobs.get(key, {}).get("status") or {}))
        return self.turns.next()

    def observe(self, key: Key) -> Observation | None:
        """Everything that is known of a job; None for one that is not there."""
        raw = self._jobs.get(key)
        if raw is None:
            return None
        job = view_job(raw)
        ours: list[Object] = []
        taken: set[int] = set()
        for child in self._children.get(key, {}).values():
            labels = child["metadata"]["labels"]
            if labels.get(UID_LABEL) == job.uid:
                ours.append(child)
            elif child["kind"] == "Job" and ATTEMPT_LABEL in labels:
                taken.add(int(labels[ATTEMPT_LABEL]))
        checks = [child for child in ours if PREFLIGHT_LABEL in child["metadata"]["labels"]]
        attempts = tuple(self._attempts([child for child in ours if ATTEMPT_LABEL in child["metadata"]["labels"]]))
        polled = self.polled.get(job.uid)
        fresh = polled if polled and attempts and attempts[-1].number == polled.attempt else None
        return Observation(
            job=job, attempts=attempts, preflights=tuple(self._preflights(checks)), taken=frozenset(taken),
            applied=frozenset((child["kind"], child["metadata"]["name"], digest) for child in ours
                              if child["kind"] in API_VERSIONS and (digest := child_hash(child))),
            addresses={child["metadata"]["name"]: child["spec"]["clusterIP"] for child in ours
                       if child["kind"] == "Service" and child["spec"]["clusterIP"]},
            checks=Checks() if job.status.start_time else self.turns.beside(key),
            progress=fresh.message if fresh else None, polled_at=fresh.at if fresh else None,
        )

    def _attempts(self, children: list[Object]) -> Iterator[AttemptView]:
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
                assert created is not None
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
                    owner["uid"] == child["metadata"]["uid"] for owner in pod["metadata"].get("ownerReferences", ())))
                yield view_attempt(child, (view_pod(pod, pod["metadata"]["uid"] in self._gone) for pod in pods),
                                   PREFLIGHT_LABEL)


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
        if not numbers or not all(number.isdecimal() for number in (*numbers, index)):
            return None
    return metadata["namespace"], labels[JOB_LABEL]


def _is_newer(raw: Object, held: Object | None) -> bool:
    """Whether a state follows the one that is held.

    Of one object, resource versions grow: since Kubernetes 1.35 that is promised, and every version before kept it.
    """
    if held is None or held["metadata"]["uid"] != raw["metadata"]["uid"]:
        return True
    return int(raw["metadata"]["resourceVersion"]) > int(held["metadata"]["resourceVersion"])


def _shortened(raw: Object) -> Object:
    """An object without what nobody here reads; it is most of its memory."""
    metadata = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
    if raw["kind"] == "FineTuneJob":
        return {**raw, "metadata": {key: value for key, value in metadata.items() if key != "annotations"}}
    short: Object = {"kind": raw["kind"], "metadata": metadata}
    if raw["kind"] == "Job":
        short["spec"] = {"suspend": raw.get("spec", {}).get("suspend", False)}
        short["status"] = {"conditions": raw.get("status", {}).get("conditions", [])}
    elif raw["kind"] == "Service":
        short["spec"] = {"clusterIP": raw.get("spec", {}).get("clusterIP")}
    elif raw["kind"] == "Pod":
        spec, status = raw.get("spec", {}), raw.get("status", {})
        short["spec"] = {"nodeName": spec.get("nodeName")}
        short["status"] = {key: status[key] for key in ("podIP", "phase", "reason", "message", "conditions",
                                                         "containerStatuses")
                           if key in status}
    return short
