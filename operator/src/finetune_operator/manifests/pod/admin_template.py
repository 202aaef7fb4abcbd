"""Merging an administrator's pod template into a pod, as Kubernetes merges, and the part that a check gets. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_operator.manifests.child import Manifest

_MERGE_KEYS = {"volumeMounts": "mountPath"}
"""The field that identifies a list's items, if it is not their name. Kubernetes merges by the same fields."""

_ONE_SOURCE = ("volumes", "env")
"""Lists whose items have a name and exactly one of several sources. Another source replaces the present one."""

_ON_EVERY_NODE = {"configMap", "secret", "projected", "downwardAPI"}
"""Volumes that need no device, no folder of a node and no claim."""


def merged(template: Manifest, *patches: Mapping[str, Any]) -> Manifest:
    """A pod template with patches merged in, one after the other: objects by key, lists by their items' names."""
    made = dict(template)
    for patch in patches:
        for key, value in patch.items():
            made[key] = _merged_value(key, made.get(key), value)
    return made


def _merged_value(key: str, present: Any, value: Any) -> Any:
    if isinstance(present, dict) and isinstance(value, Mapping):
        return merged(present, value)
    if isinstance(present, list) and isinstance(value, list):
        return _merged_list(key, present, value)
    return value


def _merged_list(key: str, present: list[Any], patch: list[Any]) -> list[Any]:
    by = _MERGE_KEYS.get(key, "name")
    if not all(isinstance(item, Mapping) and by in item for item in (*present, *patch)):
        return [*present, *(item for item in patch if item not in present)]
    items = {_identity(item, by): item for item in present}
    for item in patch:
        there = items.get(_identity(item, by))
        replaces = there is None or (key in _ONE_SOURCE and not (set(there) & set(item)) - {by})
        items[_identity(item, by)] = item if there is None or replaces else merged(there, item)
    return list(items.values())


def _identity(item: Mapping[str, Any], by: str) -> str:
    text = str(item[by])
    return text.rstrip("/") if by == "mountPath" else text


def template_for_check(template: Mapping[str, Any]) -> Manifest:
    """The part of the trainers' template that a check needs to reach the network.

    That is the environment of the container `trainer`, the ConfigMaps and Secrets that it mounts (a proxy, the
    certificates of an authority) and the registry's Secrets. A check gets no runtime class, device, sidecar, folder of
    a node or label: these belong to the trainers' nodes.
    """
    spec = template.get("spec") or {}
    container: Manifest = next((one for one in spec.get("containers") or () if one.get("name") == "trainer"), {})
    volumes = [one for one in spec.get("volumes") or () if _ON_EVERY_NODE & set(one)]
    names = {one["name"] for one in volumes}
    mounts = [one for one in container.get("volumeMounts") or () if one.get("name") in names]
    environment = {key: container[key] for key in ("env", "envFrom") if key in container}
    made: Manifest = {"containers": [{"name": "trainer", **environment, "volumeMounts": mounts}], "volumes": volumes}
    if "imagePullSecrets" in spec:
        made["imagePullSecrets"] = spec["imagePullSecrets"]
    return {"spec": made}
