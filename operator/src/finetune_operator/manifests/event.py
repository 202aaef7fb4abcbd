"""The Event that reports a change of a job or an experiment. Pure."""

from __future__ import annotations

import hashlib
from datetime import datetime

from finetune_api.values.api_model import GROUP, VERSION

from finetune_operator.manifests.child import Manifest, Owner
from finetune_operator.names import MANAGER

_LONGEST_MESSAGE = 1024
"""Characters of a message that the apiserver accepts."""


def event(subject: Owner, kind: str, reason: str, message: str, key: str, now: datetime) -> Manifest:
    """An Event about a job or an experiment. Its name is a digest of its content: the same is never written twice.

    Args:
        subject: the job or the experiment.
        kind: `Normal` or `Warning`.
        reason: one word.
        message: one or more sentences.
        key: differs between Events that have the same reason and message but report different changes.
        now: the time, in UTC.
    """
    digest = hashlib.sha256(f"{subject.uid} {reason} {message} {key}".encode()).hexdigest()[:16]
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1", "kind": "Event", "type": kind, "reason": reason, "message": message[:_LONGEST_MESSAGE],
        "metadata": {"namespace": subject.namespace, "name": f"{subject.name}.{digest}"},
        "involvedObject": {"apiVersion": f"{GROUP}/{VERSION}", "kind": subject.kind, "namespace": subject.namespace,
                           "name": subject.name, "uid": subject.uid},
        "source": {"component": MANAGER}, "reportingComponent": MANAGER, "reportingInstance": MANAGER,
        "count": 1, "firstTimestamp": stamp, "lastTimestamp": stamp,
    }
