"""Attempts, checks and reports, read from the Jobs and pods that the cache holds. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from finetune_operator.cluster.apiserver.decoding import RawObject
from finetune_operator.names import ATTEMPT_LABEL, JOB_LABEL, PREFLIGHT_LABEL, REPORT_LABEL, attempt_name
from finetune_operator.observed.attempt import AttemptView, view_attempt
from finetune_operator.observed.pod import PodView, view_pod
from finetune_operator.observed.timestamps import time_of


def attempts_of(children: Sequence[RawObject], gone: Collection[str]) -> Iterator[AttemptView]:
    """The attempts of a job, by number.

    Args:
        children: of the job.
        gone: uids of pods that have been deleted.
    """
    children = [child for child in children if ATTEMPT_LABEL in child["metadata"]["labels"]]
    pods: defaultdict[int, list[PodView]] = defaultdict(list)
    raw_pods: dict[int, RawObject] = {}
    for child in children:
        if child["kind"] == "Pod":
            pods[_number(child)].append(view_pod(child, child["metadata"]["uid"] in gone))
            raw_pods[_number(child)] = child
    jobs = {_number(child): child for child in children if child["kind"] == "Job"}
    for number in sorted({*jobs, *pods}):
        if number in jobs:
            yield view_attempt(jobs[number], pods[number])
        elif (orphan := _without_job(raw_pods[number], tuple(pods[number]))) is not None:
            yield orphan


def _number(child: RawObject) -> int:
    return int(child["metadata"]["labels"][ATTEMPT_LABEL])


def _without_job(pod: RawObject, pods: tuple[PodView, ...]) -> AttemptView | None:
    """An attempt whose Job somebody deleted, while its pods still end."""
    created = time_of(pod["metadata"]["creationTimestamp"])
    if created is None:
        return None
    number = _number(pod)
    return AttemptView(number, attempt_name(pod["metadata"]["labels"][JOB_LABEL], number), created, suspended=False,
                       suspended_at=None, unsuspended_at=created, deleting=True, complete=False, failed=None,
                       finished_at=None, pods=pods)


def checks_of(children: Sequence[RawObject], gone: Collection[str]) -> Iterator[AttemptView]:
    """The checks of a job whose Jobs exist, the newest generation last. A pod without its Job does not matter.

    Args:
        children: of the job.
        gone: uids of pods that have been deleted.
    """
    # A generation may have several checks: one that failed and is not gone yet, and the next.
    return _numbered_jobs(children, gone, PREFLIGHT_LABEL)


def reports_of(children: Sequence[RawObject], gone: Collection[str]) -> Iterator[AttemptView]:
    """The Jobs that write the report of an experiment. A pod without its Job does not matter.

    Args:
        children: of the experiment.
        gone: uids of pods that have been deleted.
    """
    return _numbered_jobs(children, gone, REPORT_LABEL)


def _numbered_jobs(children: Sequence[RawObject], gone: Collection[str], label: str) -> Iterator[AttemptView]:
    """The Jobs with a label, by its number, each with the pods that it owns."""
    children = [child for child in children
                if label in child["metadata"]["labels"] and child["kind"] in ("Job", "Pod")]
    for child in sorted(children, key=lambda one: int(one["metadata"]["labels"][label])):
        if child["kind"] == "Job":
            pods = (pod for pod in children if pod["kind"] == "Pod" and any(
                owner["uid"] == child["metadata"]["uid"] for owner in pod["metadata"]["ownerReferences"]))
            yield view_attempt(child, (view_pod(pod, pod["metadata"]["uid"] in gone) for pod in pods), label)
