"""The apiserver's paths of objects and collections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PLURALS = {"Job": "jobs", "ConfigMap": "configmaps", "Service": "services", "Event": "events", "Pod": "pods",
            "Lease": "leases", "NetworkPolicy": "networkpolicies",
            "PersistentVolumeClaim": "persistentvolumeclaims", "FineTuneJob": "finetunejobs",
            "FineTuneExperiment": "finetuneexperiments"}


def list_path(api_version: str, kind: str, namespace: str | None) -> str:
    """The path of a collection in one namespace, or in all if `namespace` is None."""
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    return f"{root}/namespaces/{namespace}/{_PLURALS[kind]}" if namespace else f"{root}/{_PLURALS[kind]}"


def collection_path(manifest: Mapping[str, Any]) -> str:
    """The path of the collection that an object belongs to."""
    return list_path(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["namespace"])


def object_path(manifest: Mapping[str, Any]) -> str:
    """The path of an object."""
    return f"{collection_path(manifest)}/{manifest['metadata']['name']}"
