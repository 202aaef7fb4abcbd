"""The form of a pod template that an administrator writes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator


def _check_form(template: dict[str, Any]) -> dict[str, Any]:
    """Refuse what is in the wrong place: merging would ignore it silently.

    Raises:
        ValueError: names the wrong part and the right place.
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


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is an object, not {value!r}")
    return value


def _items(value: Any, where: str, key: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) and key in item for item in value):
        raise ValueError(f"{where} is a list of objects, each with a {key}")
    return value


PodTemplate = Annotated[dict[str, Any], AfterValidator(_check_form)]
"""Metadata and spec of a pod, in part."""
