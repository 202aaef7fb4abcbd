"""Decoding what the apiserver sends: from JSON of any depth to usable objects, and the part that the operator reads.

One object that cannot be decoded or used must not stop the reading of the others.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.experiment.resource import EXPERIMENT_KIND
from finetune_api.job import KIND
from finetune_api.values.nesting import leaves

from finetune_operator.names import HASH_ANNOTATION, HELD_ANNOTATION, OUR_ANNOTATIONS, OUR_LABELS
from finetune_operator.telemetry.metrics import UNREADABLE

OUR_KINDS = (KIND, EXPERIMENT_KIND)
"""The kinds of this project's own resources."""

RawObject = dict[str, Any]
"""A Kubernetes object as the apiserver sends it, decoded from JSON."""

MAX_DEPTH = 100
"""Levels of objects and lists that are kept. `dataset.answerFormat.jsonSchema` may have 64 of them."""

_LONGEST_NUMBER = 4000
"""Digits of a whole number that Python decodes."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def decode(content: bytes) -> Any:
    """The value of a JSON text of any depth.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        return json.loads(content)
    except (RecursionError, ValueError):
        text = "".join(_cut_text(content.decode("utf-8", "replace")))
        return json.loads(text, parse_int=_number, strict=False)


def _cut_text(text: str) -> Iterator[str]:
    """The JSON text with null instead of what is nested deeper than `MAX_DEPTH`, in pieces."""
    depth = start = 0
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                yield text[start:token.start()]
                yield "null"
        elif sign in "]}":
            if depth == MAX_DEPTH + 1:
                start = token.end()
            depth -= 1
    yield text[start:]


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < _LONGEST_NUMBER else float(digits)


def cut_depth(value: Any, levels: int = MAX_DEPTH) -> Any:
    """A decoded value with None instead of what is nested deeper than some levels."""
    if isinstance(value, dict):
        return {key: cut_depth(below, levels - 1) for key, below in value.items()} if levels else None
    if isinstance(value, list):
        return [cut_depth(below, levels - 1) for below in value] if levels else None
    return value


_METADATA = ("namespace", "name", "uid", "generation", "resourceVersion", "creationTimestamp", "deletionTimestamp")
_POD_STATUS = ("podIP", "phase", "reason", "message", "conditions", "containerStatuses")
_LONGEST_NAME = 80
_log = logging.getLogger(__name__)


def usable(raw: Any) -> RawObject | None:
    """The part of a received object that the operator reads; None if it is not a Kubernetes object.

    An object that is not usable is logged and counted. The rest of a usable object is dropped: it takes most of the
    memory, and kopf would copy it.
    """
    if not _is_object(raw):
        UNREADABLE.inc()
        _log.warning("ignored a received value that is not a Kubernetes object: %s", _name_of(raw))
        return None
    trimmed = trim(raw)
    if raw["kind"] in OUR_KINDS:  # The apiserver limits the depth of objects of every other kind.
        try:
            for _ in leaves(trimmed, MAX_DEPTH):
                pass
        except ValueError:
            return {key: cut_depth(value) for key, value in trimmed.items()}
    return trimmed


def _name_of(raw: Any) -> str:
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    if not isinstance(metadata, dict):
        return type(raw).__name__
    parts = (raw.get("kind"), metadata.get("namespace"), metadata.get("name"))
    return " ".join(repr(one)[:_LONGEST_NAME] for one in parts if isinstance(one, str)) or "without a name"


def _is_object(raw: Any) -> bool:
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    return (
        isinstance(metadata, dict) and isinstance(raw.get("kind"), str)
        and all(isinstance(metadata.get(key), str) for key in ("namespace", "name", "uid", "creationTimestamp"))
        and str(metadata.get("resourceVersion")).isdecimal()
        and all(isinstance(raw.get(key) or {}, dict) for key in ("spec", "status"))
        and all(_is_string_map(metadata.get(key)) for key in ("labels", "annotations"))
    )


def _is_string_map(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(isinstance(text, str) for text in value.values()))


def trim(raw: Mapping[str, Any]) -> RawObject:
    """The part of an object that the operator reads. A trimmed object stays as it is."""
    metadata = {key: raw["metadata"][key] for key in _METADATA if key in raw["metadata"]}
    if raw["kind"] in OUR_KINDS:
        return {**raw, "metadata": {**metadata, **_ownership(raw["metadata"])},
                "status": _typed_status(raw.get("status") or {})}
    # The author of the object may have written a megabyte beside our labels and annotations.
    for field, ours in ("labels", OUR_LABELS), ("annotations", OUR_ANNOTATIONS):
        texts = raw["metadata"].get(field) or {}
        metadata[field] = {key: texts[key] for key in ours if key in texts}
    metadata["ownerReferences"] = [
        {"uid": one["uid"], "controller": True} for one in raw["metadata"].get("ownerReferences") or ()
        if one.get("controller")]
    return {"kind": raw["kind"], "metadata": metadata, **_trim_content(raw)}


def _ownership(metadata: Mapping[str, Any]) -> RawObject:
    """Which experiment owns a job, what it was created from, and whether the experiment holds it."""
    owners = [{key: str(one.get(key)) for key in ("kind", "name", "uid")} | {"controller": True}
              for one in metadata.get("ownerReferences") or () if one.get("controller")]
    texts = metadata.get("annotations") or {}
    ours = {name: texts[name] for name in (HELD_ANNOTATION, HASH_ANNOTATION) if name in texts}
    return {**({"ownerReferences": owners} if owners else {}), **({"annotations": ours} if ours else {})}


def _trim_content(raw: Mapping[str, Any]) -> RawObject:
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    if raw["kind"] == "Job":
        return {"spec": {"suspend": spec.get("suspend", False), "parallelism": spec.get("parallelism", 1)},
                "status": {"conditions": status.get("conditions") or []}}
    if raw["kind"] == "Service":
        return {"spec": {"clusterIP": spec.get("clusterIP")}}
    if raw["kind"] == "Pod":
        return {"spec": {"nodeName": spec.get("nodeName")},
                "status": {key: status[key] for key in _POD_STATUS if key in status}}
    return {}


def _typed_status(status: RawObject) -> RawObject:
    """The status without a phase or conditions of the wrong type: the operator reads these without a model."""
    conditions = status.get("conditions", [])
    well_formed = isinstance(conditions, list) and all(map(_is_condition, conditions))
    if well_formed and isinstance(status.get("phase", ""), str):
        return status
    rest = {key: value for key, value in status.items() if key != "phase" or isinstance(value, str)}
    listed = conditions if isinstance(conditions, list) else ()
    return {**rest, "conditions": [one for one in listed if _is_condition(one)]}


def _is_condition(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("type", "status", "reason"))
