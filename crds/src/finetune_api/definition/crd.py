"""The CustomResourceDefinition and the JSON Schema for editors, made from the models."""

from __future__ import annotations

from typing import Any

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
_NOT_STRUCTURAL = {"title", "$defs", "additionalProperties", "discriminator"}


def structural_schema(schema: Any, definitions: dict[str, Any]) -> Any:
    """A pydantic JSON Schema as Kubernetes wants it: no references, no `anyOf` with null, no closed objects."""
    if isinstance(schema, list):
        return [structural_schema(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        own = {key: value for key, value in schema.items() if key != "$ref"}
        return structural_schema({**target, **own}, definitions)
    if "anyOf" in schema and "x-kubernetes-int-or-string" not in schema:
        (only,) = [option for option in schema["anyOf"] if option.get("type") != "null"]
        own = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return structural_schema({**only, **own}, definitions)
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {name: structural_schema(below, definitions) for name, below in value.items()}
        elif key == "description":
            result[key] = " ".join(value.split())
        elif key == "additionalProperties" and isinstance(value, dict):
            result[key] = structural_schema(value, definitions)
        elif key == "patternProperties":
            (of_values,) = value.values()
            result["additionalProperties"] = structural_schema(of_values, definitions)
        elif key == "const":
            result["enum"] = [value]
        elif key == "exclusiveMinimum" or key == "exclusiveMaximum":
            result[key.replace("exclusiveM", "m")] = value
            result[key] = True
        elif key == "default":
            if (kept := _default(value)) is not None:
                result[key] = kept
        elif key == "propertyNames":
            continue
        elif key not in _NOT_STRUCTURAL:
            result[key] = structural_schema(value, definitions)
    if result.get("x-kubernetes-preserve-unknown-fields") and "properties" in result:
        del result["x-kubernetes-preserve-unknown-fields"]
    return result


def _default(value: Any) -> Any:
    """The default that the CustomResourceDefinition gives, or None.

    A section gets `{}`, which the apiserver fills from the defaults below it. Nothing stands for `auto`: what the
    trainer decides must not look like something that the user wrote.
    """
    if isinstance(value, dict):
        return {} if any(below is not None for below in value.values()) else None
    return None if value in ([], "auto") else value


def _with_rules(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec's schema with every rule as CEL, at its section."""
    for rule in (*RULES, *STORED_RULES):
        node = spec
        for key in rule.section.split(".")[1:]:
            node = node["properties"][key]
        made: dict[str, Any] = {"rule": rule.cel, "message": rule.message, "fieldPath": f".{rule.field}"}
        if "oldSelf" in rule.cel:
            made["optionalOldSelf"] = True  # It judges what is made, and lets what is stored be as it is.
        node.setdefault("x-kubernetes-validations", []).append(made)
    return spec


def _lifecycle_rules() -> list[dict[str, Any]]:
    """What may not change once the job has started.

    Such a rule sees the status only at the root. It is written section by section, for CEL's cost limit, and passes
    wherever the sections stay as they are: a status write or the removal of a finalizer must never be refused.
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
