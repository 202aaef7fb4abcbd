"""The CustomResourceDefinition of FineTuneExperiment, made from the models."""

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
from finetune_api.experiment.resource import EXPERIMENT_KIND, FineTuneExperiment
from finetune_api.experiment.rules import RULES
from finetune_api.experiment.spec import FineTuneExperimentSpec
from finetune_api.experiment.status import UNSEEN_EXPERIMENT, FineTuneExperimentStatus

EXPERIMENT_PLURAL = "finetuneexperiments"
_COLUMNS: tuple[Column, ...] = (
    ("Phase", "string", ".status.phase"),
    ("Done", "string", ".status.done"),
    ("Best", "string", ".status.ranking[0].variant"),
    ("Metric", "string", ".spec.rankBy.metric"),
    ("Score", "number", ".status.ranking[0].score"),
    ("Winner", "string", ".status.winner"),
    ("Cost", "string", ".status.cost.spent"),
    ("Age", "date", ".metadata.creationTimestamp"),
)
_WIDE_COLUMNS: tuple[Column, ...] = (
    ("Reason", "string", f"{NEWEST_CONDITION}.reason"),
    ("Message", "string", f"{NEWEST_CONDITION}.message"),
)


def experiment_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of FineTuneExperiment.

    The template has no defaults: a patch is merged into what the user wrote. The rules of a job are judged on each
    variant, by the operator.
    """
    spec = with_rules(schema_of(FineTuneExperimentSpec), RULES)
    spec["properties"]["template"] = _without_defaults(spec["properties"]["template"])
    return definition(DefinedResource(
        kind=EXPERIMENT_KIND, plural=EXPERIMENT_PLURAL, short_name="fte", description=FineTuneExperiment.__doc__ or "",
        columns=_COLUMNS, wide_columns=_WIDE_COLUMNS, spec=spec,
        status={**schema_of(FineTuneExperimentStatus), "default": UNSEEN_EXPERIMENT}))


def _without_defaults(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_defaults(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    stripped = {key: _without_defaults(value) for key, value in schema.items() if key not in ("default", "properties")}
    if "properties" in schema:
        stripped["properties"] = {name: _without_defaults(one) for name, one in schema["properties"].items()}
    return stripped
