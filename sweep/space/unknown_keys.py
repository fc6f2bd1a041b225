"""A key that is none of ours: where it leads, that it has no counterpart, or its typo."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from sweep.space.domains import parse_domain
from sweep.space.foreign_keys import HERE, why_not_here
from sweep.space.foreign_values import Lead, as_domain, in_yaml, lead_of, translated
from sweep.space.hyperparameters import HYPERPARAMETERS, Problem, shown
from sweep.space.settings import EITHER_OR, Settings, as_name, keys_at

Path = tuple[str | int, ...]
SECTIONS = ("data", "budget", "evaluate", "objective")
LONGEST_VALUE = 120
"""Characters of a value that a message repeats."""
NO_COUNTERPART, UNKNOWN = 1, 2
"""Where such keys stand: behind those that lead to ours."""


def unknown_key(
    path: Path, value: Any, known: Sequence[str], given: Mapping[str, Any]
) -> Iterator[Problem]:
    """Say what an unknown key is here, and each key in it.

    Args:
        known: The keys that may stand in its place.
        given: The whole file.
    """
    key = str(path[-1]).replace("-", "_")
    if lead := _lead(key, value, path, _flat(given)):
        nested = list(_nested(path, value, known, given)) if lead.place in _HOLD_KEYS else []
        if lead.value is None and isinstance(value, Mapping) and lead.place.startswith("search."):
            lead = Lead(lead.place, None, lead.note or "a list, or {min: …, max: …, log: true}")
        section, _, short = lead.place.rpartition(".")
        is_near = "rank" in known if section == "search" else section == path[0]
        is_ours = (len(path) < 2 or path[0] in keys_at(())) and key == short
        yield _where(path, lead, is_ours=is_ours, is_near=is_near)
        yield from nested
    elif (near := _typo_of(str(path[-1]), known)) and not why_not_here(key, by_pattern=False):
        yield Problem(path, f"no such setting; did you mean `{near}`?")
    elif isinstance(value, Mapping) and _is_section(key, value):
        yield from _nested(path, value, known, given)
    elif why := _why(key):
        yield Problem(path, f"has no counterpart: {why}.", order=NO_COUNTERPART)
    else:
        keys = f" There are: {', '.join(known)}."
        yield Problem(path, f"no such setting here.{keys}", order=UNKNOWN, listed=keys)


_HOLD_KEYS: Mapping[str, tuple[str, ...]] = {
    "search": (),
    "data.train": ("path", "data_files", "split"),
    "data.eval": ("path", "data_files", "split"),
    "objective.metric": ("name",),
}
"""Where keys lead that hold others, and which of these are told with them."""


def _nested(
    path: Path, value: Any, known: Sequence[str], given: Mapping[str, Any]
) -> Iterator[Problem]:
    """What the keys are that another trainer's section or list of data sets holds."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nested((*path, index), item, known, given)
    elif isinstance(value, Mapping):
        told = _HOLD_KEYS.get(HERE.get(str(path[0]), ""), ())
        for key, one in value.items():
            if key not in told:
                yield from unknown_key((*path, key), one, known, given)


def _is_section(key: str, value: Mapping[str, Any]) -> bool:
    """Whether a mapping holds settings: those of a key that is itself known are a part of it."""
    if key not in HERE and key not in ("lora", "peft", "trainer") and _why(key):
        return False
    names = [str(name) for name in value]
    return any(name in HERE or _own_place(name) for name in names)


def _why(key: str) -> str | None:
    return why_not_here(key, by_pattern=False) or why_not_here(key, by_pattern=True)


def _lead(key: str, value: Any, path: Path, given: Mapping[str, Any]) -> Lead | None:
    """Lead to our key, which others call `key` or which belongs elsewhere."""
    if len(path) > 1 and path[-2] in _INSIDE and key in _INSIDE[str(path[-2])]:
        return Lead(_INSIDE[str(path[-2])][key], value)
    own = key if "." in key and _is_place(key) else _own_place(str(path[-1]))
    if key not in HERE or (own and path[0] in ("parameters", "param_space", "search")):
        return Lead(own, translated(own, as_domain(value))) if own else None
    if isinstance(as_domain(value), Mapping) and HERE[key] in _NO_MAPPING:
        return None  # a section
    lead = lead_of(key, value, given)
    if lead and lead.place == "data.max_length" and isinstance(lead.value, list | Mapping):
        return Lead("search.max_length", lead.value, lead.note)
    return lead


_NO_MAPPING = ("base_model", "optimizer", "quantization")
"""Ours that hold one value: where others hold keys, each of these leads by itself."""

_INSIDE: Mapping[str, Mapping[str, str]] = {
    "model": dict.fromkeys(("name", "path", "id"), "base_model"),
    "data": dict.fromkeys(("path", "file", "files", "name"), "data.train"),
    "lora": {"alpha": "search.alpha", "dropout": "search.dropout"},
}
"""Sections, and what their short keys mean in them."""


def _where(path: Path, lead: Lead, *, is_ours: bool, is_near: bool) -> Problem:
    """The words of a lead.

    Args:
        is_ours: Our own key, in another section than its own.
        is_near: Our key may stand where this one does.
    """
    place, value = lead.place, lead.value
    near = place.rpartition(".")[2] if is_near else place
    words = f"is `{near}` here"
    if is_ours:
        words = f"no such setting here; `{path[-1]!s}` belongs {_under(place)}"
    if place == "name" and isinstance(value, str):
        value = as_name(value)
    words += f": {lead.note}" if lead.note else ""
    if value is not None and place != "search":
        written = in_yaml(near, value)
        wrong = _wrong(place, value)
        if wrong is not None:
            words += wrong
        elif len(written) <= LONGEST_VALUE:
            words += f"; write `{written}`"
    return Problem(path, f"{words}.", place=place)


def _wrong(place: str, value: Any) -> str | None:
    """Why a value cannot stand at a key of ours, as the rest of a sentence."""
    top, *inner = place.split(".")
    if top == "search":
        problems = parse_domain(inner[0], value)[1]
        return f", but {problems[0].words.rstrip('.')}" if problems else None
    if isinstance(value, list) and top not in ("data", "start_from"):
        return ", one value for all trials"
    for key in reversed(inner):
        value = {key: value}
    try:
        Settings.model_validate({top: value})
    except ValidationError as error:
        wrong = [e for e in error.errors() if e["loc"][0] == top and e["type"] != "missing"]
        if not wrong:
            return None
        names = wrong[0].get("ctx", {}).get("expected", "").replace("'", "").replace(" or ", ", ")
        rule = f"one of {names}" if names else EITHER_OR.get(tuple(place.split(".")))
        return f", but must be {rule}, not {shown(wrong[0]['input'])}" if rule else ""
    return None


def meant(path: Path, value: Any) -> str:
    """The end of a sentence about a wrong value: ours, if it is one of other trainers."""
    place = ".".join(map(str, path))
    ours = translated(place, value)
    return f"; write {ours}" if ours != value and _wrong(place, ours) is None else ""


def written_elsewhere(name: str, given: Any) -> str | None:
    """How a hyperparameter is written here, where a space gives it as another trainer does."""
    place = f"search.{name}"
    ours = translated(place, given)
    if isinstance(given, Mapping) and set(given) <= set(
        "min max low high lower upper log step".split()
    ):
        return None  # told key by key
    if ours == [given]:
        return None  # a module's name, or a misspelt preset: told with both in mind
    if ours is None or ours == given or _wrong(place, ours) or not _wrong(place, given):
        return None
    return f"is written otherwise here; write `{in_yaml(name, ours)}`."


def _flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """All keys of a file, those of sections too; the outermost of a name counts."""
    inner: dict[str, Any] = {}
    for value in given.values():
        if isinstance(value, Mapping):
            inner = {**_flat(value), **inner}
    return {**inner, **given}


def _typo_of(key: str, known: Sequence[str]) -> str | None:
    # Two letters more or less: `adapter` is no typo of `keep_adapters`.
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    return near[0] if near and abs(len(near[0]) - len(key)) <= 2 else None


def _own_place(key: str) -> str | None:
    """The dotted key of ours, wherever it belongs."""
    if key in HYPERPARAMETERS:
        return f"search.{key}"
    if key in keys_at(()):
        return key
    return next((f"{name}.{key}" for name in SECTIONS if key in keys_at((name,))), None)


def _is_place(dotted: str) -> bool:
    section, _, key = dotted.partition(".")
    if section == "search":
        return key in HYPERPARAMETERS
    return section in SECTIONS and key in keys_at((section,))


def _under(place: str) -> str:
    section = place.rpartition(".")[0]
    return f"under `{section}`" if section else "at the top of the file"


def without_explained(problems: Sequence[Problem]) -> Iterator[Problem]:
    """Leave out that a key is missing where another trainer's key leads to it."""
    places = {problem.place for problem in problems if problem.place}
    for problem in problems:
        dotted = ".".join(map(str, problem.path))
        if not (places and problem.words.startswith("is missing")):
            yield problem
        elif not any(f"{place}.".startswith(f"{dotted}.") for place in places):
            yield replace(problem, order=NO_COUNTERPART)  # the leads stand first
        elif dotted == "data":
            for which, mend in MEND_MISSING_DATA.items():
                if f"data.{which}" not in places:
                    yield Problem(("data", which), f"is missing; {mend}.", order=NO_COUNTERPART)


MEND_MISSING_DATA = {
    "train": "a file of rows, or a hub data set",
    "eval": "a file of rows, or a share of train such as 0.1",
}
