"""The JSON Schema of the chart's values: strict everywhere; the operator's settings come from its own models."""

from __future__ import annotations

from typing import Any

from finetune_operator.settings import Allowed, PreflightSettings, Settings
from pydantic.json_schema import GenerateJsonSchema

Schema = dict[str, Any]
STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
FREE: Schema = {"type": "object"}
"""An object of Kubernetes' own, which the apiserver judges."""
STRINGS: Schema = {"type": "object", "additionalProperties": STRING}
NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
INTERVAL: Schema = {"type": "string", "pattern": "^[0-9]+(s|m)$"}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}


class _WithoutDefaults(GenerateJsonSchema):
    """Says nothing of defaults (values.yaml has them), and no name twice."""

    def default_schema(self, schema: Any) -> Any:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _image(**more: Schema) -> Schema:
    digest = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
    return _object(repository={"type": "string", "minLength": 1}, tag=STRING, digest=digest, **more)


def _monitor() -> Schema:
    return _object(enabled=BOOLEAN, interval=INTERVAL, labels=STRINGS)


def _settings() -> tuple[Schema, Schema]:
    """The schema of the operator's settings without what the chart fills in, and the definitions that it needs."""
    schema = Settings.model_json_schema(mode="validation", schema_generator=_WithoutDefaults)
    definitions: Schema = schema.pop("$defs")
    for image in ("trainerImage", "unslothImage"):
        del schema["properties"][image]
    # Helm drops a null, so that an empty string stands for one.
    for properties, name in ((schema["properties"], "modelCacheClaim"),
                             (definitions[PreflightSettings.__name__]["properties"], "queueName")):
        properties[name] = {"anyOf": [properties[name], {"const": ""}]}
    # The template reads these: they are there, or the section is not.
    definitions[Allowed.__name__]["required"] = [field.alias for field in Allowed.model_fields.values()]
    return schema, definitions


def values_schema() -> Schema:
    """The whole schema."""
    settings, definitions = _settings()
    peer = _object(namespaceLabels=STRINGS, podLabels=STRINGS)
    schema = _object(
        replicaCount={"type": "integer", "minimum": 1, "maximum": 2},
        image=_image(pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]}),
        trainerImage=_image(),
        unslothImage=_image(),
        imagePullSecrets=_list(_object(name=STRING)),
        fullnameOverride={"type": "string", "pattern": "^([a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?)?$"},
        namespaces=_list(NAME, uniqueItems=True),
        crds=_object(install=BOOLEAN, keep=BOOLEAN),
        serviceAccount=_object(create=BOOLEAN, name=STRING, annotations=STRINGS),
        rbac=_object(create=BOOLEAN, userRoles=BOOLEAN),
        log=_object(format={"enum": ["json", "text"]}, level={"enum": ["debug", "info", "warning"]}),
        resources=FREE, nodeSelector=STRINGS, tolerations=_list(FREE), affinity=FREE,
        topologySpreadConstraints=_list(FREE), priorityClassName=STRING, podLabels=STRINGS, podAnnotations=STRINGS,
        podDisruptionBudget=_object(enabled=BOOLEAN),
        admissionPolicy=_object(enabled=BOOLEAN),
        networkPolicy=_object(enabled=BOOLEAN, apiServer=_object(
            cidrs=_list(STRING, minItems=1), ports=_list(PORT, minItems=1))),
        monitoring=_object(
            prometheus=peer, podMonitor=_monitor(), serviceMonitor=_monitor(), trainerMonitor=_monitor(),
            prometheusRule=_object(enabled=BOOLEAN, labels=STRINGS),
            dashboard=_object(enabled=BOOLEAN, labels=STRINGS)),
        settings=settings,
    )
    # Helm hands these to every chart.
    schema["properties"]["global"] = FREE
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": definitions}
