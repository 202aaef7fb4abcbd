"""The CustomResourceDefinition of FineTuneJob, and its JSON Schema for editors, made from the models."""

from __future__ import annotations

from typing import Any

from finetune_api.definition.resource_definition import (
    NEWEST_CONDITION,
    Column,
    DefinedResource,
    definition,
    schema_of,
    with_rules,
)
from finetune_api.job import KIND, FineTuneJob
from finetune_api.rules import FIXED_SECTIONS, RULES, STORED_RULES
from finetune_api.spec.job import FineTuneJobSpec
from finetune_api.status import UNSEEN_STATUS, FineTuneJobStatus

PLURAL = "finetunejobs"
_COLUMNS: tuple[Column, ...] = (
    ("Phase", "string", ".status.phase"),
    ("Reason", "string", f"{NEWEST_CONDITION}.reason"),
    ("Method", "string", ".spec.method.type"),
    ("Model", "string", ".spec.model.source"),
    ("Progress", "integer", ".status.progress.percent"),
    ("Loss", "number", ".status.progress.loss"),
    ("Cost", "string", ".status.cost.spent"),
    ("ETA", "string", ".status.progress.estimatedCompletionTime"),
    ("Age", "date", ".metadata.creationTimestamp"),
)
_WIDE_COLUMNS: tuple[Column, ...] = (
    ("Message", "string", f"{NEWEST_CONDITION}.message"),
)


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
    return definition(DefinedResource(
        kind=KIND, plural=PLURAL, short_name="ftj", description=FineTuneJob.__doc__ or "", columns=_COLUMNS,
        wide_columns=_WIDE_COLUMNS, spec=with_rules(schema_of(FineTuneJobSpec), (*RULES, *STORED_RULES)),
        status={**schema_of(FineTuneJobStatus), "default": UNSEEN_STATUS}, root_rules=_lifecycle_rules()))


def editor_schema() -> dict[str, Any]:
    """The JSON Schema that an editor validates a job's YAML with."""
    schema = FineTuneJob.model_json_schema(mode="validation")
    required = ["apiVersion", "kind", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "required": required}
