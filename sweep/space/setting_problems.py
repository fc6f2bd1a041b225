"""What is wrong with a space, the search apart: pydantic's errors in our words."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from sweep.space.hyperparameters import Problem, is_number, shown
from sweep.space.settings import EITHER_OR, as_name, keys_at
from sweep.space.unknown_keys import MEND_MISSING_DATA, meant, unknown_key


def problems_of(error: ValidationError, raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Say pydantic's errors in our words, one for each place of the file `raw`."""
    found = {_path(details["loc"]): details for details in error.errors()}
    for path, details in found.items():
        either_or = EITHER_OR.get(path)
        if details["type"] == "extra_forbidden":
            yield from unknown_key(path, details["input"], keys_at(path[:-1]), raw)
        elif either_or is None or details["type"] == "missing":
            yield Problem(path, _words(details, path))
        elif not any(other[: len(path)] == path and other != path for other in found):
            yield Problem(path, f"must be {either_or}, not {shown(details['input'])}.")


def _path(location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Leave out the branch of an either-or, which pydantic names behind its key."""
    for length in range(1, len(location)):
        if location[:length] in EITHER_OR:
            return location[:length] + location[length + 1 :]
    return location


def _words(found: Any, path: tuple[str | int, ...]) -> str:
    kind, context, value = found["type"], found.get("ctx") or {}, found["input"]
    key = str(path[-1])
    if kind == "missing":
        return f"is missing; {_MEND_MISSING.get(key, 'give it a value')}."
    if value is None:
        return f"has no value; {_MEND_MISSING.get(key, 'give it one, or remove the key')}."
    if kind == "literal_error":
        names = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"must be one of {names}, not {shown(value)}{meant(path, value)}."
    if path == ("revision",) and kind in ("string_pattern_mismatch", "string_too_long"):
        return f"must be a branch, a tag or a commit of the hub, not {shown(value)}."
    if path == ("register",) and kind in ("string_pattern_mismatch", "string_too_long"):
        return (
            f"must name a model of MLflow's registry (at most 200 characters, no / or :), "
            f"not {shown(value)}."
        )
    if kind == "string_pattern_mismatch":
        return (
            f"must be a valid folder name (letters, digits, '.', '_', '-'; a letter or digit "
            f"first; at most 100), not {shown(value)}; write {as_name(value)}."
        )
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        mend = f"; {_MEND_SECTION[key]}" if key in _MEND_SECTION else ""
        return f"must be keys and values, not {shown(value)}{mend}."
    if kind == "string_type" and is_number(value):
        return f"must be text, not the number {value}; put it in quotation marks."
    bounds = {
        "greater_than": "above {gt:.10g}",
        "greater_than_equal": "at least {ge:.10g}",
        "less_than": "below {lt:.10g}",
        "less_than_equal": "at most {le:.10g}",
    }
    if kind in bounds:
        return f"must be {bounds[kind].format(**context)}, not {value}."
    expected = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "string_type": "text",
        "bool_type": "true or false",
        "finite_number": "finite",
        "list_type": "a list, such as [label]" if key == "ignore" else "a list",
        "too_short": "at least one",
    }
    if kind in expected:
        return f"must be {expected[kind]}, not {shown(value)}."
    return f"{found['msg']}, not {shown(value)}."


_MEND_MISSING = {
    "base_model": "a hub id, a folder, or the built-in smollm2-135m",
    "data": "write `data: {train: …, eval: …}`",
    **MEND_MISSING_DATA,
    "search": "name what to search, such as `rank: [8, 16, 32]`",
}

_MEND_SECTION = {
    "data": "write `data: {train: …, eval: …}`",
    "columns": "write `columns: {prompt: <the file's column>}`",
    "budget": "write `budget: {trials: 24}`",
    "evaluate": "write `evaluate: {times: 20}`",
    "objective": "write `objective: {metric: exact_match}`",
    "final_evaluation": "write `final_evaluation: {base: 16-bit}`",
    "pruning": "write `pruning: {overfit: false, outclassed: false}`",
    "diverged": "it cannot be switched off; raise its factor",
}
