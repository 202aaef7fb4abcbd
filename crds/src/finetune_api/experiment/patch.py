"""The patch of a variant, or of a point of its sweep, on the spec of a job. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.methods.method import Method
from finetune_api.rule import merge_patch
from finetune_api.spec.method import METHODS

_EXCLUSIVE: tuple[tuple[str, tuple[frozenset[str], ...]], ...] = (
    ("training", (frozenset({"epochs"}), frozenset({"maxSteps"}))),
    ("dataset", (frozenset({"evaluationSplit"}), frozenset({"evaluationFraction"}))),
    ("dataset", (frozenset({"prompt", "completion"}), frozenset({"messages"}))),
)
"""Sections, and the groups of fields in them that exclude each other."""


def patched(spec: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A spec with a merge patch. What the patch sets removes the spec's own field that excludes it.

    So `training: {maxSteps: 10}` is enough where the spec has `epochs`. A null says the same, but `kubectl apply`
    without `--server-side` drops nulls.
    """
    merged = merge_patch(spec, patch)
    for section, groups in _EXCLUSIVE:
        written = _section(patch, section)
        for group in groups:
            if any(written.get(name) is not None for name in group):
                others = frozenset().union(*groups) - group - {key for key in written if written[key] is not None}
                merged[section] = {key: value for key, value in merged[section].items() if key not in others}
    return _without_other_methods(merged, _section(patch, "method"))


def _without_other_methods(spec: dict[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """The spec without settings of other methods than its own, except those that the patch has."""
    chosen: Method[Any] | None = next((method for name, method in METHODS.items() if written.get("type") == name), None)
    if chosen is None:
        return spec
    others = {method.block for method in METHODS.values()} - {chosen.block} - set(written)
    return {**spec, "method": {key: value for key, value in spec["method"].items() if key not in others}}


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree.get(name)
    return section if isinstance(section, Mapping) else {}
