"""The job or the experiment that an object belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune_operator.cluster.apiserver.decoding import OUR_KINDS, RawObject
from finetune_operator.names import (
    EXPERIMENT_LABEL,
    EXPERIMENT_UID_LABEL,
    INDEX_ANNOTATION,
    JOB_LABEL,
    NUMBER_LABELS,
    REPORT_LABEL,
    UID_LABEL,
)

Key = tuple[str, str]
"""Namespace and name of a job or of an experiment."""

_NUMBER = re.compile("[1-9][0-9]{0,8}")
_INDEX = re.compile("[0-9]{1,9}")


def key_of(raw: RawObject) -> Key | None:
    """The job that an object is or belongs to, or the experiment that it is; None if it is neither.

    Whoever may create a Job or a pod can give it our labels. An object with only some of them is ignored.
    """
    if raw["kind"] in OUR_KINDS:
        return raw["metadata"]["namespace"], raw["metadata"]["name"]
    return _owner(raw, (JOB_LABEL, UID_LABEL), NUMBER_LABELS)


def experiment_key_of(raw: RawObject) -> Key | None:
    """The experiment that a child belongs to which is no FineTuneJob; None for any other object."""
    return _owner(raw, (EXPERIMENT_LABEL, EXPERIMENT_UID_LABEL), (REPORT_LABEL,))


def _owner(raw: RawObject, named: tuple[str, str], numbered: Sequence[str]) -> Key | None:
    """Namespace and name of the owner by the labels that have its name and its uid, and a number in Jobs and pods."""
    metadata = raw["metadata"]
    labels = metadata.get("labels") or {}
    if not all(label in labels for label in named):
        return None
    if raw["kind"] in ("Job", "Pod"):
        numbers = [labels[label] for label in numbered if label in labels]
        index = (metadata.get("annotations") or {}).get(INDEX_ANNOTATION, "0")
        if not numbers or not all(map(_NUMBER.fullmatch, numbers)) or not _INDEX.fullmatch(index):
            return None
    return metadata["namespace"], labels[named[0]]
