"""The CustomResourceDefinition and the JSON Schema for editors, made from the models."""

from __future__ import annotations

from typing import Any

from finetune_api.definition.structural import structural_schema
from finetune_api.job import KIND, FineTuneJob, Metadata
from finetune_api.rules import FIXED_SECTIONS, RULES, STORED_RULES
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.status import UNSEEN_STATUS, FineTuneJobStatus
from finetune_api.values.api_model import GROUP, VERSION

PLURAL = "finetunejobs"
_TOLD_LAST = '.status.conditions[?(@.type=="Progressing")]'
_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("Phase", "string", ".status.phase"),
    ("Reason", "string", f"{_TOLD_LAST}.reason"),
    ("Method", "string", ".spec.method.type"),
    ("Model", "string", ".spec.model.source"),
    ("Progress", "integer", ".status.progress.percent"),
    ("Loss", "number", ".status.progress.loss"),
    ("Cost", "string", ".status.cost.spent"),
    ("ETA", "string", ".status.progress.estimatedCompletionTime"),
    ("Age", "date", ".metadata.creationTimestamp"),
)
_WIDE_COLUMNS = (
    ("Message", "string", f"{_TOLD_LAST}.message"),
)
"""Those that `kubectl get -o wide` adds."""


def _with_rules(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec's schema with every rule as CEL, at its section."""
    for rule in (*RULES, *STORED_RULES):
        node = spec
        for key in rule.section.split(".")[1:]:
            node = node["properties"][key]
        made: dict[str, Any] = {"rule": rule.cel, "message": rule.message, "fieldPath": f".{rule.field}"}
        if "oldSelf" in rule.cel:
            made["optionalOldSelf"] = True  # The rule applies to new objects; stored objects stay valid.
        node.setdefault("x-kubernetes-validations", []).append(made)
    return spec


def _lifecycle_rules() -> list[dict[str, Any]]:
    """Rules about what cannot change once the job has started.

    Such a rule sees the status only at the root. It is written section by section, because of CEL's cost limit. It
    passes if the sections are unchanged: the apiserver must never reject a status write or the removal of a finalizer.
    """
    started = "has(oldSelf.status) && has(oldSelf.status.startTime)"
    fixed = [
        {
            "rule": f"!({started}) || (has(self.spec.{name}) == has(oldSelf.spec.{name}) && "
                    f"(!has(self.spec.{name}) || self.spec.{name} == oldSelf.spec.{name}))",
            "message": f"the job has started: spec.{name} can't change any more (only runPolicy and budget can); "
                       "apply it under another name, or delete this job first",
            "fieldPath": f".spec.{name}",
        }
        for name in FIXED_SECTIONS
    ]
    return [*fixed, {
        "rule": f"!({started}) || (has(self.status) && has(self.status.startTime) && "
                "self.status.startTime == oldSelf.status.startTime)",
        "message": "the time of the start is never cleared or changed",
    }]


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition of FineTuneJob."""

    def schema_of(model: type[FineTuneJobSpec] | type[FineTuneJobStatus]) -> Any:
        raw = model.model_json_schema(mode="validation")
        return structural_schema(raw, raw.get("$defs", {}))

    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": KIND, "listKind": f"{KIND}List", "plural": PLURAL, "singular": KIND.lower(),
                      "shortNames": ["ftj"], "categories": ["finetune"]},
            "versions": [{
                "name": VERSION,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": name, "type": kind, "jsonPath": path, **({"priority": 1} if wide else {})}
                    for wide, columns in enumerate((_COLUMNS, _WIDE_COLUMNS)) for name, kind, path in columns
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": FineTuneJob.__doc__,
                    "required": ["spec"],
                    "x-kubernetes-validations": _lifecycle_rules(),
                    "properties": {
                        "apiVersion": {"type": "string", "description": "Version of the API."},
                        "kind": {"type": "string", "description": "Kind of the resource."},
                        "metadata": {"type": "object", "properties": {"name": _name_schema()}},
                        "spec": _with_rules(schema_of(FineTuneJobSpec)),
                        "status": {**schema_of(FineTuneJobStatus), "default": UNSEEN_STATUS},
                    },
                }},
            }],
        },
    }


def _name_schema() -> dict[str, Any]:
    name = Metadata.model_json_schema()["properties"]["name"]
    return {key: name[key] for key in ("type", "pattern", "description")}


def editor_schema() -> dict[str, Any]:
    """The JSON Schema that an editor validates a job's YAML with."""
    schema = FineTuneJob.model_json_schema(mode="validation")
    required = ["apiVersion", "kind", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "required": required}
