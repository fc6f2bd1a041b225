"""`sweep schema`: SPACE.yaml as a JSON schema, from where its keys are defined."""

import math
from typing import Any

from sweep.space.hyperparameters import HYPERPARAMETERS, Hyperparameter
from sweep.space.settings import Settings

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The one that YAML editors know."""
KINDS = {int: "integer", float: "number", bool: "boolean", str: "string"}


def space_schema() -> dict[str, Any]:
    """Return the schema: every key with its type, bounds, default and what it means.

    What depends on other keys (a range's order, files that exist) is left to `sweep check`.
    """
    found: dict[str, Any] = Settings.model_json_schema()
    properties = _for_editors(found["properties"])
    properties["search"] = {
        "type": "object",
        "description": "Hyperparameters: one value is fixed, a list or a range is searched.",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {name: _domain(name, h) for name, h in HYPERPARAMETERS.items()},
    }
    properties["start_with"] = {
        "type": "array",
        "description": "Points to try first; the sampler fills in what one leaves out.",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: _value(h) for name, h in HYPERPARAMETERS.items()},
        },
    }
    required = [key for key in found["required"] if key != "name"]  # the file's name, by default
    return {
        "$schema": DRAFT,
        "title": "A search space of sweep",
        "type": "object",
        "additionalProperties": False,
        "required": [*required, "search"],
        "properties": properties,
        "definitions": _for_editors(found["$defs"]),
    }


def _for_editors(node: Any) -> Any:
    """Leave out generated titles, which hide descriptions, and refer to draft 7's place."""
    if isinstance(node, list):
        return [_for_editors(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {
        key: _for_editors(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
    }
    if "$ref" in found:  # draft 7 reads nothing beside a reference
        reference = found.pop("$ref").replace("#/$defs/", "#/definitions/")
        return {"allOf": [{"$ref": reference}], **found} if found else {"$ref": reference}
    return found


def _value(hyperparameter: Hyperparameter) -> dict[str, Any]:
    if hyperparameter.other is not None:  # target_modules
        text = {"type": "string"}
        preset = {**text, "enum": list(hyperparameter.names)}
        return {"anyOf": [preset, text, {"type": "array", "items": text, "minItems": 1}]}
    schema: dict[str, Any] = {"type": KINDS[hyperparameter.kind]}
    if hyperparameter.names:
        schema["enum"] = list(hyperparameter.names)
    bounds = {
        "exclusiveMinimum": hyperparameter.above,
        "minimum": hyperparameter.at_least,
        "maximum": hyperparameter.at_most,
        "exclusiveMaximum": hyperparameter.below,
    }
    return schema | {key: value for key, value in bounds.items() if math.isfinite(value)}


def _domain(name: str, hyperparameter: Hyperparameter) -> dict[str, Any]:
    """A value, a list of values, a range; of alpha also a multiple of the rank."""
    forms = _forms(hyperparameter)
    if name == "alpha":
        factor = Hyperparameter(float, 1.0, "", above=0, at_most=1000)
        forms.append(_object({"times_rank": {"anyOf": _forms(factor)}}, ["times_rank"]))
    schema: dict[str, Any] = {"description": _sentence(hyperparameter.meaning), "anyOf": forms}
    if hyperparameter.default is not None:
        schema["default"] = hyperparameter.default
    return schema


def _forms(hyperparameter: Hyperparameter) -> list[dict[str, Any]]:
    value = _value(hyperparameter)
    forms = [value, {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}]
    if hyperparameter.kind in (int, float):
        parts = {
            "min": value,
            "max": value,
            "log": {"type": "boolean", "description": "Sample on a log scale."},
            "step": {"type": "number", "exclusiveMinimum": 0},
        }
        forms.append(_object(parts, ["min", "max"]))
    return forms


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _sentence(meaning: str) -> str:
    return f"{meaning[0].upper()}{meaning[1:]}."
