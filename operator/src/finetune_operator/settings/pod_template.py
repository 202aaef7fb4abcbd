"""An administrator's pod template: how it is merged into a trainer's, and what of it a check on a CPU gets. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]

_TELLS_APART = {"volumeMounts": "mountPath"}
"""What tells a list's items apart where that is not their name: as Kubernetes itself merges them."""

_HOLD_ONE_OF = ("volumes", "env")
"""Their items have a name and one of several sources; another source takes the place of the one that was there."""

_ON_EVERY_NODE = {"configMap", "secret", "projected", "downwardAPI"}
"""Volumes that need no device, no node's folder and no claim."""


def merged(template: Object, *patches: Mapping[str, Any]) -> Object:
    """A pod template with others merged in, one after the other: objects by key, lists by their items' names."""
    made = dict(template)
    for patch in patches:
        for key, value in patch.items():
            made[key] = _merged_value(key, made.get(key), value)
    return made


def _merged_value(key: str, below: Any, value: Any) -> Any:
    if isinstance(below, dict) and isinstance(value, Mapping):
        return merged(below, value)
    if isinstance(below, list) and isinstance(value, list):
        return _merged_list(key, below, value)
    return value


def _merged_list(key: str, below: list[Any], patch: list[Any]) -> list[Any]:
    by = _TELLS_APART.get(key, "name")
    if not all(isinstance(item, Mapping) and by in item for item in (*below, *patch)):
        return [*below, *(item for item in patch if item not in below)]
    items = {_identity(item, by): item for item in below}
    for item in patch:
        there = items.get(_identity(item, by))
        replaces = there is None or (key in _HOLD_ONE_OF and not (set(there) & set(item)) - {by})
        items[_identity(item, by)] = item if there is None or replaces else merged(there, item)
    return list(items.values())


def _identity(item: Mapping[str, Any], by: str) -> str:
    text = str(item[by])
    return text.rstrip("/") if by == "mountPath" else text


def for_check(template: Mapping[str, Any]) -> Object:
    """What a check gets of a trainers' template: what the network needs, and nothing that belongs to their nodes.

    That is the trainer container's environment, the ConfigMaps and Secrets that it mounts (a proxy, an authority's
    certificates), and the Secrets of its registry. No runtime class, device, sidecar, folder of a node or label.
    """
    spec = template.get("spec") or {}
    container: Object = next((one for one in spec.get("containers") or () if one.get("name") == "trainer"), {})
    volumes = [one for one in spec.get("volumes") or () if _ON_EVERY_NODE & set(one)]
    names = {one["name"] for one in volumes}
    mounts = [one for one in container.get("volumeMounts") or () if one.get("name") in names]
    kept = {key: container[key] for key in ("env", "envFrom") if key in container}
    made: Object = {"containers": [{"name": "trainer", **kept, "volumeMounts": mounts}], "volumes": volumes}
    if "imagePullSecrets" in spec:
        made["imagePullSecrets"] = spec["imagePullSecrets"]
    return {"spec": made}


def checked(template: Object) -> Object:
    """A pod template of the settings; what is in the wrong place would be passed over without a word.

    Raises:
        ValueError: what is in the wrong place, and where it belongs.
    """
    if unknown := sorted(set(template) - {"metadata", "spec"}):
        raise ValueError(f"a pod template has metadata and spec, not {', '.join(unknown)}: write "
                         "{spec: {containers: [{name: trainer, …}]}}")
    spec = _mapping(template.get("spec", {}), "spec")
    _mapping(template.get("metadata", {}), "metadata")
    for field in ("containers", "initContainers", "volumes"):
        for item in _items(spec.get(field, []), f"spec.{field}", "name"):
            _items(item.get("env", []), f"spec.{field}[].env", "name")
            _items(item.get("volumeMounts", []), f"spec.{field}[].volumeMounts", "mountPath")
    return template


def _mapping(value: Any, where: str) -> Object:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is an object, not {value!r}")
    return value


def _items(value: Any, where: str, key: str) -> list[Object]:
    if not isinstance(value, list) or not all(isinstance(item, dict) and key in item for item in value):
        raise ValueError(f"{where} is a list of objects, each with a {key}")
    return value
