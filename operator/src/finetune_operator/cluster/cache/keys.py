"""The job that an object belongs to."""

from __future__ import annotations

import re

from finetune_operator.cluster.apiserver.decoding import OUR_KINDS, RawObject
from finetune_operator.names import INDEX_ANNOTATION, JOB_LABEL, NUMBER_LABELS, UID_LABEL

Key = tuple[str, str]
"""Namespace and name of a job."""

_NUMBER = re.compile("[1-9][0-9]{0,8}")
_INDEX = re.compile("[0-9]{1,9}")


def key_of(raw: RawObject) -> Key | None:
    """The job that an object is or belongs to, or an experiment; None for an object that the operator did not create.

    Whoever may create a Job or a pod can give it our labels. An object with only some of them is ignored.
    """
    metadata = raw["metadata"]
    if raw["kind"] in OUR_KINDS:
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
