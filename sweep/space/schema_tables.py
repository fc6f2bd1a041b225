"""`sweep schema --markdown`: every key of SPACE.yaml as tables, from where they are defined."""

from collections.abc import Iterator, Mapping
from typing import Any

from sweep.space.hyperparameters import HYPERPARAMETERS
from sweep.space.schema import space_schema
from sweep.space.settings import UNSET

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
