"""What every child carries: labels, an owner, and a digest if the operator may apply it again. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from finetune_api.values.api_model import GROUP, VERSION

from finetune_operator.names import HASH_ANNOTATION, labels
from finetune_operator.observed.experiment import ExperimentView
from finetune_operator.observed.job import JobView

Owner = JobView | ExperimentView

Manifest = dict[str, Any]
"""A Kubernetes object that the operator creates, or a part of one, as plain JSON data."""


def child_metadata(job: JobView, name: str, number: int | None = None, more_labels: Mapping[str, str] | None = None
                   ) -> Manifest:
    """Metadata of a job's child.

    Args:
        job: the job that owns the child.
        name: of the child.
        number: of the attempt that the child belongs to, if it belongs to one.
        more_labels: labels beside those of every child.
    """
    return owned_metadata(job, name, {**labels(job.name, job.uid, number), **(more_labels or {})})


def owned_metadata(owner: Owner, name: str, labels: Mapping[str, str]) -> Manifest:
    """Metadata of an object that a job or an experiment owns: it is deleted with its owner.

    Args:
        owner: the job or the experiment.
        name: of the object.
        labels: of the object.
    """
    return {
        "namespace": owner.namespace, "name": name, "labels": dict(labels),
        "ownerReferences": [{
            "apiVersion": f"{GROUP}/{VERSION}", "kind": owner.kind, "name": owner.name, "uid": owner.uid,
            "controller": True, "blockOwnerDeletion": True,
        }],
    }


def digest_of(content: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 digest of plain data, as JSON with sorted names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def hashed(manifest: Manifest) -> Manifest:
    """The child with a digest of itself as an annotation, by which a pass sees whether the stored child is current."""
    annotated = {**manifest["metadata"], "annotations": {HASH_ANNOTATION: digest_of(manifest)}}
    return {**manifest, "metadata": annotated}


def identity(manifest: Manifest) -> tuple[str, str, str]:
    """Kind, name and digest of a child that `hashed` made."""
    metadata = manifest["metadata"]
    return manifest["kind"], metadata["name"], metadata["annotations"][HASH_ANNOTATION]
