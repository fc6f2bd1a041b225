"""What `target_modules` may be: presets, lists of module names, patterns."""

import difflib
import re
from typing import Any

from trials.config import PATTERN, PRESETS

_NAME = re.compile(r"\w[\w-]*(\.[\w-]+)*")


def problem(value: Any) -> str | None:
    """Say why a single choice cannot be, or None. Names are joined by commas by now."""
    if not isinstance(value, str):
        return f"must be {_RULE}, not {value!r}"
    if value in PRESETS:
        return None
    if value.startswith(PATTERN):
        return _pattern_problem(value.removeprefix(PATTERN))
    wrong = next((name for name in value.split(",") if not _NAME.fullmatch(name)), None)
    return None if wrong is None else f"must be {_RULE}, not {value!r}"


def _misspelt_preset(value: Any) -> str | None:
    """Say which preset a text by itself may mean; in a list it is the name of a module."""
    if not isinstance(value, str) or value in PRESETS or not _NAME.fullmatch(value):
        return None
    near = difflib.get_close_matches(value.lower().replace("_", "-"), [*PRESETS, "all"], n=1)
    if not near:
        return None
    preset = PRESETS[0] if near[0] == "all" else near[0]
    return f"is no preset; did you mean {preset}? Names of modules are a list: [{value}]."


_RULE = (
    f"a preset ({', '.join(PRESETS)}), a list of module names, or `{PATTERN}` and a pattern of "
    f"full names"
)


def _pattern_problem(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as error:
        return f"must be a regular expression behind {PATTERN}, but {error}"
    return None


def joined(value: Any) -> Any:
    """A choice as a trial has it: a list of names becomes one text."""
    is_names = isinstance(value, list) and value and all(isinstance(name, str) for name in value)
    return ",".join(name.strip() for name in value) if is_names else value


def as_one(name: str, value: Any) -> Any:
    """The value that a point gives a hyperparameter, as a trial has it."""
    return joined(value) if name == "target_modules" else value


def choices(raw: Any) -> tuple[list[Any], dict[tuple[int, ...], str]]:
    """Read what a space says of it: a flat list of names is one choice; a list of presets,
    patterns and lists is searched.

    Returns:
        The choices, and what is wrong by its place; what is wrong with one alone is told by
        `problem`.
    """
    if not isinstance(raw, list) or not raw:
        wrong = _misspelt_preset(raw)
        return [raw], {(): wrong} if wrong else {}
    texts = [item for item in raw if isinstance(item, str)]
    own = [item for item in texts if item in PRESETS or item.startswith(PATTERN)]
    names = [item for item in texts if item not in own]
    if len(texts) == len(raw) and not own:
        return [joined(raw)], {}
    if own and names:
        one, several = ", ".join(names), ", ".join([*own, f"[{', '.join(names)}]"])
        words = (
            f"mixes presets and names of modules: to search, write [{several}]; to adapt the named "
            f"modules alone, write [{one}]."
        )
        return [], {(): words}
    problems: dict[tuple[int, ...], str] = {
        (index,): f"must hold names of modules alone, not {name!r}."
        for index, item in enumerate(raw)
        if isinstance(item, list)
        for name in item
        if not isinstance(name, str) or name in PRESETS or name.startswith(PATTERN)
    }
    return [joined(item) for item in raw], problems
