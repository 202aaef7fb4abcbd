"""The JSON Schema that an editor validates an experiment's YAML with, also in its patches and its sweep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune_api.experiment.resource import FineTuneExperiment
from finetune_api.spec.job import FineTuneJobSpec

_REFERENCE = "#/$defs/"
_NOT_OF_A_PATCH = ("required", "minProperties", "maxProperties")
"""What holds for a whole section, and not for a patch on it."""


def experiment_editor_schema() -> dict[str, Any]:
    """The schema of the models, with the fields of a job where an experiment has them as free text.

    A variant's patch may have every field of a job's spec, or null. A sweep may have every field with one value, by its
    path. What a patch and its template are together, an editor cannot know.
    """
    schema = FineTuneExperiment.model_json_schema(mode="validation")
    defined, spec = schema["$defs"], FineTuneJobSpec.__name__
    swept = dict(_single_values(spec, defined))
    defined["Sweep"]["properties"]["grid"]["anyOf"][0] |= _of_paths({
        path: {"type": "array", "minItems": 1, "maxItems": 100, "items": {"$ref": reference}}
        for path, reference in swept.items()})
    defined["RandomSearch"]["properties"]["fields"] |= _of_paths(
        {path: {"$ref": f"{_REFERENCE}SampledField"} for path in swept})
    patch = defined["Variant"]["properties"]["patch"]
    defined["Variant"]["properties"]["patch"] = {"description": patch["description"],
                                                 "$ref": _patch_on(spec, defined)}
    required = ["apiVersion", "kind", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "required": required}


def _of_paths(properties: dict[str, Any]) -> dict[str, Any]:
    return {"patternProperties": {}, "properties": properties, "additionalProperties": False}


def _single_values(section: str, defined: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """The fields of a section and below that have one value: the path and the reference of each."""
    for name, schema in defined[section]["properties"].items():
        choices = schema.get("anyOf", (schema,))
        below = [one["$ref"].removeprefix(_REFERENCE) for one in choices if "$ref" in one]
        sections = [one for one in below if "properties" in defined[one]]
        for one in sections:
            yield from _single_values(one, defined, f"{path}{name}.")
        if not sections and not any(one.get("type") in ("array", "object") for one in choices):
            yield f"{path}{name}", f"{_REFERENCE}{section}/properties/{name}"


def _patch_on(section: str, defined: dict[str, Any]) -> str:
    """A reference to the schema of a merge patch on a section, which is defined with those below it where it is not."""
    name = f"{section}Patch"
    if name not in defined:
        whole = {key: value for key, value in defined[section].items() if key not in _NOT_OF_A_PATCH}
        defined[name] = whole | {"title": name, "properties": {
            field: _patched(schema, defined) for field, schema in whole["properties"].items()}}
    return f"{_REFERENCE}{name}"


def _patched(schema: dict[str, Any], defined: dict[str, Any]) -> dict[str, Any]:
    """What a patch may write for a field: its value, a patch on its section, or null."""
    about = {key: schema[key] for key in ("description", "title") if key in schema}
    value = {key: one for key, one in schema.items() if key not in (*about, "default")}
    choices = [_patched_value(one, defined) for one in value.get("anyOf", (value,))]
    return about | {"anyOf": [*(one for one in choices if one != {"type": "null"}), {"type": "null"}]}


def _patched_value(value: dict[str, Any], defined: dict[str, Any]) -> dict[str, Any]:
    section = value.get("$ref", "").removeprefix(_REFERENCE)
    if "properties" in defined.get(section, {}):
        return {"$ref": _patch_on(section, defined)}
    if "patternProperties" in value:  # A mapping of the user's own keys, such as labels: null removes one.
        return value | {"patternProperties": {
            key: {"anyOf": [one, {"type": "null"}]} for key, one in value["patternProperties"].items()}}
    return value
