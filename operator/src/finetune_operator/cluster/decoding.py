"""What the apiserver sends, read so that no single object stops the reading of the others.

Any JSON is decoded: what is nested too deeply is cut off, bytes that are no UTF-8 and numbers that Python refuses are
replaced. What is cut is deeper than any field that is used, so that the field's own limit refuses the rest.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.nesting import leaves
from finetune_api.spec.job import KIND

from finetune_operator.names import OUR_ANNOTATIONS, OUR_LABELS
from finetune_operator.telemetry.metrics import UNREADABLE

Object = dict[str, Any]
DEEPEST = 100
"""Levels of objects and lists that are kept; `dataset.answerFormat.jsonSchema` may have 64 of them."""

_METADATA = ("namespace", "name", "uid", "generation", "resourceVersion", "creationTimestamp", "deletionTimestamp")
_LONGEST_NUMBER = 4000
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_SHOWN = 80
_log = logging.getLogger(__name__)


def decode(content: bytes) -> Any:
    """The value of a JSON text of any depth.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return json.loads(content)
    except (RecursionError, ValueError):
        text = "".join(_without_depths(content.decode("utf-8", "replace")))
        return json.loads(text, parse_int=_number, strict=False)


def _without_depths(text: str) -> Iterator[str]:
    """A JSON text with null in the place of what is nested deeper than `DEEPEST`."""
    depth = kept = 0
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in "[{":
            depth += 1
            if depth == DEEPEST + 1:
                yield text[kept:token.start()]
                yield "null"
        elif sign in "]}":
            if depth == DEEPEST + 1:
                kept = token.end()
            depth -= 1
    yield text[kept:]


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < _LONGEST_NUMBER else float(digits)


def _cut(value: Any, levels: int = DEEPEST) -> Any:
    if isinstance(value, dict):
        return {key: _cut(below, levels - 1) for key, below in value.items()} if levels else None
    if isinstance(value, list):
        return [_cut(below, levels - 1) for below in value] if levels else None
    return value


def readable(raw: Any) -> Object | None:
    """An object of the apiserver without what nobody here reads; None, told and counted, where it is none.

    What is left out is most of its memory, and of what kopf would copy.
    """
    if not _is_object(raw):
        UNREADABLE.inc()
        _log.warning("passed over what is no object of Kubernetes: %s", _named(raw))
        return None
    short = shortened(raw)
    if raw["kind"] == KIND:  # The others are typed by the apiserver.
        try:
            for _ in leaves(short, DEEPEST):
                pass
        except ValueError:
            return {key: _cut(value) for key, value in short.items()}
    return short


def _named(raw: Any) -> str:
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    if not isinstance(metadata, dict):
        return type(raw).__name__
    kind, namespace, name = raw.get("kind"), metadata.get("namespace"), metadata.get("name")
    return " ".join(repr(one)[:_SHOWN] for one in (kind, namespace, name) if isinstance(one, str)) or "without a name"


def _is_object(raw: Any) -> bool:
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    return (
        isinstance(metadata, dict) and isinstance(raw.get("kind"), str)
        and all(isinstance(metadata.get(key), str) for key in ("namespace", "name", "uid", "creationTimestamp"))
        and str(metadata.get("resourceVersion")).isdecimal()
        and all(isinstance(raw.get(key) or {}, dict) for key in ("spec", "status"))
        and all(_is_texts(metadata.get(key)) for key in ("labels", "annotations"))
    )


def _is_texts(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(isinstance(text, str) for text in value.values()))


def _told(status: Object) -> Object:
    """A status whose phase and conditions, which are read as they stand, are of the types that they should be."""
    conditions = status.get("conditions", [])
    whole = isinstance(conditions, list) and all(map(_is_condition, conditions))
    if whole and isinstance(status.get("phase", ""), str):
        return status
    kept = {key: value for key, value in status.items() if key != "phase" or isinstance(value, str)}
    listed = conditions if isinstance(conditions, list) else ()
    return {**kept, "conditions": [one for one in listed if _is_condition(one)]}


def _is_condition(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("type", "status", "reason"))


def shortened(raw: Mapping[str, Any]) -> Object:
    """An object without what nobody here reads; it is most of its memory."""
    metadata = {key: raw["metadata"][key] for key in _METADATA if key in raw["metadata"]}
    if raw["kind"] == KIND:
        return {**raw, "metadata": metadata, "status": _told(raw.get("status") or {})}
    # Whoever made the object may have written a megabyte beside what is ours.
    for place, ours in ("labels", OUR_LABELS), ("annotations", OUR_ANNOTATIONS):
        texts = raw["metadata"].get(place) or {}
        metadata[place] = {key: texts[key] for key in ours if key in texts}
    metadata["ownerReferences"] = [
        {"uid": one["uid"], "controller": True} for one in raw["metadata"].get("ownerReferences") or ()
        if one.get("controller")]
    short: Object = {"kind": raw["kind"], "metadata": metadata}
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    if raw["kind"] == "Job":
        short["spec"] = {"suspend": spec.get("suspend", False), "parallelism": spec.get("parallelism", 1)}
        short["status"] = {"conditions": status.get("conditions") or []}
    elif raw["kind"] == "Service":
        short["spec"] = {"clusterIP": spec.get("clusterIP")}
    elif raw["kind"] == "Pod":
        short["spec"] = {"nodeName": spec.get("nodeName")}
        short["status"] = {key: status[key] for key in ("podIP", "phase", "reason", "message", "conditions",
                                                         "containerStatuses") if key in status}
    return short
