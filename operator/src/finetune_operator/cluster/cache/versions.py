"""Which of two states of an object is newer."""

from __future__ import annotations

from finetune_operator.cluster.apiserver.decoding import RawObject


def is_newer(raw: RawObject, held: RawObject | None) -> bool:
    """Whether a state follows the recorded one.

    The resource versions of one object grow: Kubernetes promises it since 1.35, and earlier versions behaved so.
    """
    if held is None or held["metadata"]["uid"] != raw["metadata"]["uid"]:
        return True
    return int(raw["metadata"]["resourceVersion"]) > int(held["metadata"]["resourceVersion"])
