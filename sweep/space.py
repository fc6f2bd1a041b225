"""SPACE.yaml → a checked `Space`; every problem of a file at once, each with its line."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sweep.parameters import (
    HYPERPARAMETERS,
    Choices,
    Domain,
    Problem,
    Range,
    TimesRank,
    Value,
    parse_domain,
)
from sweep.settings import Budget, Settings, problems_of, unknown_key
from sweep.space_file import SpaceError, SpaceFile, did_you_mean, read

DEFAULT_TRIALS = 24


@dataclass(frozen=True, slots=True)
class Space:
    """A checked space: what is searched, what is fixed, how, and for how long."""

    settings: Settings
    domains: dict[str, Domain]
    """Of every hyperparameter, the fixed ones included, in the order of the table."""
    start_with: tuple[dict[str, Value], ...]
    folder: Path
    """The folder of the file; relative paths begin here."""
    text: str = field(repr=False)
    """The file as run, with what was set on the command line."""

    @property
    def name(self) -> str:
        """The study, the MLflow experiment, the folder under output."""
        return self.settings.name

    @property
    def n_points(self) -> float:
        """Points of the space; infinite when a range is continuous."""
        return math.prod(_size(domain) for domain in self.domains.values())

    @property
    def smallest(self) -> dict[str, float]:
        """The fewest epochs and the shortest max_length: the cheapest trial."""
        return {name: _bound(self.domains[name], min) for name in ("epochs", "max_length")}

    @property
    def largest(self) -> dict[str, float]:
        """The largest rank, max_length and effective_batch_size: what memory has to hold."""
        return {
            name: _bound(self.domains[name], max)
            for name in ("rank", "max_length", "effective_batch_size")
        }

    def source(self, which: Literal["train", "eval"]) -> str | float:
        """The absolute path or hub id of a split; of eval also the share held out."""
        given: str | float = getattr(self.settings.data, which)
        if isinstance(given, float):
            return given
        path = (self.folder / given).resolve()
        return str(path) if path.exists() else given


def _size(domain: Domain) -> float:
    if isinstance(domain, TimesRank):
        return _size(domain.factor)
    if isinstance(domain, Choices):
        return len(domain.values)
    if domain.step is None and not domain.is_integer:
        return math.inf
    return math.floor((domain.high - domain.low) / (domain.step or 1) + 1e-9) + 1


def _bound(domain: Domain, pick: Callable[[Iterable[float]], float]) -> float:
    assert not isinstance(domain, TimesRank), "a bound of alpha depends on the rank"
    if isinstance(domain, Range):
        return pick((domain.low, domain.high))
    return pick(float(value) for value in domain.values)


def load_space(path: Path, overrides: Mapping[str, str] | None = None) -> Space:
    """Read and check a space.

    Args:
        overrides: `--set` of the command line: dotted key → value as YAML.

    Raises:
        SpaceError: With every problem of the file, each with its line and its mend.
    """
    file = read(path, overrides or {})
    raw = file.plain
    problems = [*_field_problems(raw, path), *_search_problems(raw)]
    if not problems:
        space = _build(raw, file)
        problems = _grid_problems(space)
    if problems:
        raise SpaceError(file.in_words(problems))
    return space


def _field_problems(raw: dict[str, Any], path: Path) -> list[Problem]:
    fields = {key: value for key, value in raw.items() if key not in ("search", "start_with")}
    problems = []
    try:
        Settings.model_validate(_with_name(fields, path))
    except ValidationError as error:
        problems += problems_of(error)
    data, search = _mapping(raw.get("data")), _mapping(raw.get("search"))
    for which in ("train", "eval"):
        given = data.get(which)
        if isinstance(given, str) and (words := _missing_file(path.parent, given)):
            problems.append(Problem(("data", which), words))
    if data.get("template") is not None and data.get("columns"):
        problems.append(Problem(("data", "template"), "names columns itself; remove data.columns."))
    if data.get("max_length") is not None and "max_length" in search:
        problems.append(Problem(("search", "max_length"), "stands in data too; remove one."))
    if raw.get("backend") == "unsloth" and raw.get("quantization") == "int8":
        words = "unsloth trains in nf4 or none; choose one, or backend: transformers."
        problems.append(Problem(("quantization",), words))
    return problems


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _with_name(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-") or "sweep"
    return {"name": stem, **fields}


def _is_hub_data(given: str) -> bool:
    from trials.rows import looks_like_hub_id

    return looks_like_hub_id(given)


def _missing_file(folder: Path, given: str) -> str | None:
    path = folder / given
    if path.exists() or _is_hub_data(given):
        return None
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    if near:
        return f"no such file: {given}{did_you_mean(near, _parent_prefix(given))}"
    return f"no such file: {given} (paths begin at the folder of this file, {folder.resolve()})."


def _parent_prefix(given: str) -> str:
    return given[: given.rfind("/") + 1]


def _search_problems(raw: dict[str, Any]) -> list[Problem]:
    problems = []
    search, start_with = raw.get("search"), raw.get("start_with")
    if search is not None and not isinstance(search, dict):
        words = f"must be hyperparameters and their values, not {search!r}."
        return [Problem(("search",), words)]
    for name, given in (search or {}).items():
        if name not in HYPERPARAMETERS:
            words = unknown_key(name, list(HYPERPARAMETERS))
            if name in Settings.model_fields:
                words = f"`{name}` is not searched; it stands at the top of the file."
            problems.append(Problem(("search", name), words))
            continue
        problems += [Problem(("search", *p.path), p.words) for p in parse_domain(name, given)[1]]
    if start_with is not None and not isinstance(start_with, list):
        problems.append(Problem(("start_with",), "must be a list: `- {rank: 16, …}` a trial."))
    elif not problems and start_with:
        problems += _start_problems(start_with, _domains(raw))
    return problems


def _domains(raw: Mapping[str, Any]) -> dict[str, Domain]:
    """The domain of every hyperparameter of a search without problems."""
    search = _mapping(raw.get("search"))
    data_length = _mapping(raw.get("data")).get("max_length")
    domains: dict[str, Domain] = {}
    for name, hyperparameter in HYPERPARAMETERS.items():
        domain = parse_domain(name, search[name])[0] if name in search else None
        if domain is not None:
            domains[name] = domain
        elif name == "alpha":
            domains[name] = TimesRank(Choices((1.0,)))
        elif name == "max_length" and isinstance(data_length, int):
            domains[name] = Choices((data_length,))
        else:
            assert hyperparameter.default is not None
            domains[name] = Choices((hyperparameter.default,))
    return domains


def _start_problems(start_with: list[Any], domains: Mapping[str, Domain]) -> list[Problem]:
    problems = []
    for index, start in enumerate(start_with):
        if not isinstance(start, dict):
            words = f"must be hyperparameters and their values, not {start!r}."
            problems.append(Problem(("start_with", index), words))
            continue
        for name, value in start.items():
            path = ("start_with", index, name)
            if name not in HYPERPARAMETERS:
                problems.append(Problem(path, unknown_key(name, list(HYPERPARAMETERS))))
            elif wrong := HYPERPARAMETERS[name].problem(value):
                problems.append(Problem(path, f"{wrong}."))
            elif not _in_domain(name, value, start, domains):
                outside = f"{value!r} lies outside search.{name} ({domains[name]})"
                problems.append(Problem(path, f"{outside}; widen the search."))
    return problems


def _in_domain(
    name: str, value: Any, start: Mapping[str, Any], domains: Mapping[str, Domain]
) -> bool:
    domain = domains[name]
    if not isinstance(domain, TimesRank):
        return value in domain
    rank = start.get("rank")
    if not isinstance(rank, int):
        return False
    return any(math.isclose(value, f * rank) for f in _factors(domain)) or (
        isinstance(domain.factor, Range) and value / rank in domain.factor
    )


def _factors(domain: TimesRank) -> Sequence[float]:
    return domain.factor.values if isinstance(domain.factor, Choices) else ()  # type: ignore[return-value]


KNOWN_GOOD: Mapping[str, Value] = {"rank": 16, "alpha": 16.0, "learning_rate": 2e-4, "epochs": 1}
"""Where most practitioners begin (QLoRA, Dettmers et al., 2023; the Unsloth guides)."""


def _build(raw: dict[str, Any], file: SpaceFile) -> Space:
    fields = {key: value for key, value in raw.items() if key not in ("search", "start_with")}
    settings = Settings.model_validate(_with_name(fields, file.path))
    domains = _domains(raw)
    start_with = tuple(raw.get("start_with") or [_nearest_known_good(domains)])
    if settings.budget.trials is None and settings.budget.hours is None:
        settings = settings.model_copy(update={"budget": Budget(trials=DEFAULT_TRIALS)})
    return Space(settings, domains, start_with, file.path.parent.resolve(), file.text)


def _grid_problems(space: Space) -> list[Problem]:
    if space.settings.sampler != "grid":
        return []
    words = "a grid needs lists or ranges with a step; give one, or choose another sampler."
    return [
        Problem(("search", name), words)
        for name, domain in space.domains.items()
        if math.isinf(_size(domain))
    ]


def _nearest_known_good(domains: Mapping[str, Domain]) -> dict[str, Value]:
    """The usual first trial, each value moved to the nearest that the space holds."""
    start: dict[str, Value] = {}
    for name, value in KNOWN_GOOD.items():
        domain = domains[name]
        if isinstance(domain, TimesRank):
            factor = _nearest(domain.factor, 1.0)
            start[name] = float(factor) * float(start["rank"])
        else:
            start[name] = _nearest(domain, float(value))
    return start


def _nearest(domain: Choices | Range, value: float) -> Value:
    if isinstance(domain, Choices):
        return min(domain.values, key=lambda v: abs(float(v) - value))
    clipped = min(max(value, domain.low), domain.high)
    if domain.step is not None:
        clipped = domain.low + round((clipped - domain.low) / domain.step) * domain.step
    return round(clipped) if domain.is_integer else clipped
