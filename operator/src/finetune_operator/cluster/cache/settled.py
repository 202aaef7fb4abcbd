"""Whether nothing is left to do about a job. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from finetune_operator.cluster.apiserver.decoding import RawObject
from finetune_operator.decide.attempts.records import RUNNING
from finetune_operator.names import ATTEMPT_LABEL


def is_settled(job: RawObject, children: Collection[RawObject]) -> bool:
    """Whether a job is finished, its status is complete, and no child of it is left to delete.

    Args:
        job: as it is stored.
        children: those that exist.
    """
    status, spec = job.get("status") or {}, job.get("spec") or {}
    observed = status.get("observedGeneration") == job["metadata"].get("generation")
    if "completionTime" not in status or not observed or any(map(_holds_node, status.get("attempts") or ())):
        return False
    if (spec.get("runPolicy") or {}).get("ttlSecondsAfterFinished") is not None:
        return not children
    return all(ATTEMPT_LABEL in child["metadata"]["labels"] and _is_over(child)
               for child in children if child["kind"] == "Job")


def _holds_node(attempt: object) -> bool:
    """Whether an attempt's record has no end yet: another container held the node longer than the trainer."""
    return isinstance(attempt, Mapping) and attempt.get("reason") != RUNNING and "endTime" not in attempt


def _is_over(job: RawObject) -> bool:
    conditions = job["status"]["conditions"]
    return any(one["type"] in ("Complete", "Failed") and one.get("status") == "True" for one in conditions)
