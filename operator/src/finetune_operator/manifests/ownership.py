"""What every child of a job carries: its labels, its owner, and a digest where it may be applied again. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from finetune_api.base import GROUP, VERSION
from finetune_api.spec.job import KIND

from finetune_operator.names import HASH_ANNOTATION, labels
from finetune_operator.observed.objects import JobView

Object = dict[str, Any]


def child_metadata(job: JobView, name: str, number: int | None = None) -> Object:
    """Metadata of a job's child; `number` is that of the attempt it belongs to, if it belongs to one."""
    return {
        "namespace": job.namespace, "name": name, "labels": labels(job.name, job.uid, number),
        "ownerReferences": [{
            "apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "name": job.name, "uid": job.uid,
            "controller": True, "blockOwnerDeletion": True,
        }],
    }


def hashed(content: Object) -> Object:
    """A child with the digest by which a pass sees whether it is still as it should be."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    content["metadata"]["annotations"] = {HASH_ANNOTATION: digest}
    return content


def identity(manifest: Object) -> tuple[str, str, str]:
    """Kind, name and digest of an applied child."""
    metadata = manifest["metadata"]
    return manifest["kind"], metadata["name"], metadata["annotations"][HASH_ANNOTATION]
