"""Tools that a row offers, and calls of them → JSON in the form that chat templates read."""

import json
from typing import Any

from trials.data.bad_rows import BadRow
from trials.data.table import found, whole

_OF_CALLS = ("id", "type", "index", "function", "name", "arguments", "parameters")


def tools_of(value: object, shown: str, *, is_typed: bool) -> str | None:
    """Return a row's tools as `Example.tools` has them; None: it offers none.

    Args:
        value: A list of functions, wrapped as OpenAI does or bare, or its JSON text.
        is_typed: Whether null fields stand for those that a function does not have.
    """
    tools = _items(value, shown, is_typed=is_typed)
    return as_json([_tool(tool, shown) for tool in tools], shown) if tools else None


def _tool(value: object, shown: str) -> dict[str, Any]:
    tool = parsed(value)
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(f"each of {shown} must be a function with a `name`", found(tool))
    if isinstance(function.get("parameters"), str):  # as Arrow's columns need it
        function = {**function, "parameters": parsed(function["parameters"])}
    outer = {} if "function" not in tool else tool
    return {"type": "function", **outer, "function": function}


def calls_of(value: object, shown: str, *, is_typed: bool) -> tuple[str, list[str]]:
    """Return calls as `Message.tool_calls` has them, and the keys of theirs that are left.

    Args:
        value: A list of calls, or one, or its JSON text. Arguments may be JSON text too.
    """
    items = _items(value, shown, is_typed=is_typed)
    if not items:
        raise BadRow(f"{shown} must hold a call", found(value))
    calls = [_call(item, shown) for item in items]
    left = [key for item in items if isinstance(item, dict) for key in item if key not in _OF_CALLS]
    return as_json(calls, shown), left


def _call(value: object, shown: str) -> dict[str, Any]:
    function = value.get("function", value) if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(value, dict) or not isinstance(function, dict) or not isinstance(name, str):
        rule = f'a call in {shown} must be such as {{"name": "…", "arguments": {{…}}}}'
        raise BadRow(rule, found(value))
    given = function.get("arguments", function.get("parameters"))
    arguments = {} if given is None or given == "" else parsed(given)
    if not isinstance(arguments, dict):
        raise BadRow(f"the arguments of a call in {shown} must be a JSON object", found(given))
    known = {} if value.get("id") is None else {"id": value["id"]}
    return {**known, "type": "function", "function": {"name": name, "arguments": arguments}}


def _items(value: object, shown: str, *, is_typed: bool) -> list[object]:
    given = _without_nulls(value) if is_typed else value
    items = [] if isinstance(given, str) and not given.strip() else parsed(given)
    if isinstance(items, dict):
        return [items]
    if not isinstance(items, list):
        raise BadRow(f"{shown} must be a list, or a list as JSON text", found(value))
    return items


def parsed(value: object) -> Any:
    """Return what a JSON text holds; anything else, and other texts, as they are."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def as_json(value: object, shown: str) -> str:
    try:
        return whole(json.dumps(value, ensure_ascii=False), shown)
    except TypeError:  # such as a date of a Parquet file
        raise BadRow(f"{shown} must hold what JSON can", found(value)) from None


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nulls(v) for key, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value
