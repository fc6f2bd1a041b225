"""`sweep schema`: SPACE.yaml as a JSON schema, or as tables, from where its keys are defined."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from sweep.space.hyperparameters import HYPERPARAMETERS, Hyperparameter
from sweep.space.settings import UNSET, Settings

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


BEGIN, END = "<!-- keys: sweep schema --markdown -->", "<!-- end of keys -->"
"""What stands around the tables in search_spaces/README.md."""

_HEADINGS = ["| key | type | default | meaning |", "|---|---|---|---|"]
_BY_HAND = {
    "search.…": ("value, list, or range", "at least one", "hyperparameters, fixed or searched"),
    "start_with": (
        "list of points",
        "rank 16, alpha 16, 1 epoch at learning rates 2e-4, 3e-4 and 1e-3, or the nearest in the "
        "space",
        "points to try first; the sampler fills in what a point leaves out",
    ),
}


def tables() -> str:
    schema = space_schema()
    required = {*schema["required"], "data.train", "data.eval"}
    lines = [BEGIN, *_HEADINGS]
    for key, node in _keys(schema["properties"], schema["definitions"]):
        kind = _kind(node)
        lines.append(_row(key, kind, _default(key, node, required), node["description"]))
    lines += [_row(key, *cells) for key, cells in _BY_HAND.items()]
    lines += ["", "Under `search`:", "", *_HEADINGS]
    for name, node in schema["properties"]["search"]["properties"].items():
        kind = _kind(node["anyOf"][0])
        if name == "alpha":
            kind += ", or `{times_rank: …}`"
        default = _plain(node["default"]) if "default" in node else "the rank"
        lines.append(_row(name, kind, default, HYPERPARAMETERS[name].meaning))
    return "\n".join([*lines, END]) + "\n"


def _row(key: str, kind: str, default: str, meaning: str) -> str:
    text = " ".join(meaning.split()).rstrip(".")
    is_word = text.split(" ", 1)[0][1:].islower() or text[1:2] == " "  # else a name: LoRA
    text = text[0].lower() + text[1:] if is_word else text
    return f"| `{key}` | {kind} | {default} | {text} |"


def _keys(
    properties: Mapping[str, Any], definitions: Mapping[str, Any], parent: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key, sections flattened; of a section that can be switched off its own key too."""
    for name, node in properties.items():
        if not parent and name in ("search", "start_with"):
            continue
        section = _section(node, definitions)
        if section is None or any(_is_false(form) for form in node.get("anyOf", [])):
            yield f"{parent}{name}", node
        if section is not None:
            yield from _keys(section["properties"], definitions, f"{parent}{name}.")


def _section(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Any | None:
    forms = [*node.get("allOf", []), *node.get("anyOf", []), node]
    named = next((form["$ref"] for form in forms if "$ref" in form), None)
    return None if named is None else definitions[named.rpartition("/")[2]]


def _is_false(form: Mapping[str, Any]) -> bool:
    return form.get("const", None) is False


def _kind(node: Mapping[str, Any]) -> str:
    if "anyOf" in node:
        kinds = [_kind(form) for form in node["anyOf"] if form.get("type") != "null"]
        return ", or ".join(dict.fromkeys(kinds))
    if "$ref" in node:
        return "keys"
    if "const" in node:
        return _plain(node["const"])
    if "enum" in node:
        return ", ".join(map(str, node["enum"]))
    match node["type"]:
        case "boolean":
            return "true, false"
        case "object":
            return "names → names"
        case "array":
            one, _, bounds = _kind(node["items"]).partition(" ")
            return f"list of {one}s {bounds}".rstrip()
        case "integer" | "number":
            return f"{'whole number' if node['type'] == 'integer' else 'number'}{_bounds(node)}"
        case _:
            return "text"


def _bounds(node: Mapping[str, Any]) -> str:
    low, above = node.get("minimum"), node.get("exclusiveMinimum")
    high, below = node.get("maximum"), node.get("exclusiveMaximum")
    words = "" if low is None else f" from {_plain(low)}"
    words = words if above is None else f" above {_plain(above)}"
    if high is not None:
        words += f", at most {_plain(high)}"
    return words if below is None else f"{words}, below {_plain(below)}"


def _default(key: str, node: Mapping[str, Any], required: set[str]) -> str:
    if key in UNSET:
        return UNSET[key]
    if key in required:
        return "required"
    default = node.get("default")
    if isinstance(default, Mapping):
        return "on" if default else "none"
    return "none" if default is None else _plain(default)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and value >= 1000:
        return f"{value:,.0f}"
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)
