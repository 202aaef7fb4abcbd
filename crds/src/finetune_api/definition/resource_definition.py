"""What the CustomResourceDefinitions of this project have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from finetune_api.definition.structural import structural_schema
from finetune_api.job import Metadata
from finetune_api.rule import Rule
from finetune_api.values.api_model import GROUP, VERSION

NEWEST_CONDITION = '.status.conditions[?(@.type=="Progressing")]'
"""The JSON path of the condition that always has the newest reason and message."""

Column = tuple[str, str, str]
"""Heading, type and JSON path of a column of `kubectl get`."""


@dataclass(frozen=True)
class DefinedResource:
    """What one CustomResourceDefinition has that the others do not.

    Attributes:
        kind: of the resource.
        plural: in the apiserver's paths.
        short_name: for kubectl.
        description: of the resource.
        columns: that `kubectl get` prints.
        wide_columns: that `kubectl get -o wide` adds.
        spec: the schema of the spec.
        status: the schema of the status, with its default.
        root_rules: rules that see spec and status.
    """

    kind: str
    plural: str
    short_name: str
    description: str
    columns: Sequence[Column]
    wide_columns: Sequence[Column]
    spec: dict[str, Any]
    status: dict[str, Any]
    root_rules: Sequence[dict[str, Any]] = ()


def definition(resource: DefinedResource) -> dict[str, Any]:
    """The CustomResourceDefinition of a resource."""
    rules = {"x-kubernetes-validations": list(resource.root_rules)} if resource.root_rules else {}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": resource.kind, "listKind": f"{resource.kind}List", "plural": resource.plural,
                      "singular": resource.kind.lower(), "shortNames": [resource.short_name],
                      "categories": ["finetune"]},
            "versions": [{
                "name": VERSION,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": name, "type": kind, "jsonPath": path, **({"priority": 1} if wide else {})}
                    for wide, columns in enumerate((resource.columns, resource.wide_columns))
                    for name, kind, path in columns
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": resource.description,
                    "required": ["spec"],
                    **rules,
                    "properties": {
                        "apiVersion": {"type": "string", "description": "Version of the API."},
                        "kind": {"type": "string", "description": "Kind of the resource."},
                        "metadata": {"type": "object", "properties": {"name": _name_schema()}},
                        "spec": resource.spec,
                        "status": resource.status,
                    },
                }},
            }],
        },
    }


def schema_of(model: type[BaseModel]) -> Any:
    """The structural schema of a model."""
    raw = model.model_json_schema(mode="validation")
    return structural_schema(raw, raw.get("$defs", {}))


def with_rules(spec: dict[str, Any], rules: Sequence[Rule]) -> dict[str, Any]:
    """A spec's schema with every rule that can be written as CEL, at its section."""
    for rule in rules:
        if not rule.cel:
            continue
        node = spec
        for key in rule.section.split(".")[1:]:
            node = node["properties"][key]
        made: dict[str, Any] = {"rule": rule.cel, "message": rule.message, "fieldPath": f".{rule.field}"}
        if "oldSelf" in rule.cel:
            made["optionalOldSelf"] = True  # The rule applies to new objects; stored objects stay valid.
        node.setdefault("x-kubernetes-validations", []).append(made)
    return spec


def _name_schema() -> dict[str, Any]:
    name = Metadata.model_json_schema()["properties"]["name"]
    return {key: name[key] for key in ("type", "pattern", "description")}
