"""A pydantic JSON Schema as the structural schema that Kubernetes asks for."""

from __future__ import annotations

from typing import Any

_NOT_STRUCTURAL = {"title", "$defs", "additionalProperties", "discriminator", "propertyNames"}


def structural_schema(schema: Any, definitions: dict[str, Any]) -> Any:
    """A schema without references, without `anyOf` with null, and without closed objects.

    Args:
        schema: a JSON Schema as pydantic writes it, or a part of one.
        definitions: the schemas that its references name.
    """
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
        result |= _structural_keyword(key, value, definitions)
    if result.get("x-kubernetes-preserve-unknown-fields") and "properties" in result:
        del result["x-kubernetes-preserve-unknown-fields"]
    return result


def _structural_keyword(key: str, value: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """One keyword of a schema as the keywords that stand for it; none where Kubernetes has none."""
    match key:
        case "properties":
            return {key: {name: structural_schema(below, definitions) for name, below in value.items()}}
        case "description":
            return {key: " ".join(value.split())}
        case "additionalProperties" if isinstance(value, dict):
            return {key: structural_schema(value, definitions)}
        case "patternProperties":
            (of_values,) = value.values()
            return {"additionalProperties": structural_schema(of_values, definitions)}
        case "const":
            return {"enum": [value]}
        case "exclusiveMinimum" | "exclusiveMaximum":
            return {key.replace("exclusiveM", "m"): value, key: True}
        case "default":
            default = _structural_default(value)
            return {} if default is None else {key: default}
        case _:
            return {} if key in _NOT_STRUCTURAL else {key: structural_schema(value, definitions)}


def _structural_default(value: Any) -> Any:
    """The default that the CustomResourceDefinition gives, or None.

    A section gets `{}`, which the apiserver fills from the defaults below it. Nothing stands for `auto`: what the
    trainer decides must not look like something that the user wrote.
    """
    if isinstance(value, dict):
        return {} if any(below is not None for below in value.values()) else None
    return None if value in ([], "auto") else value
