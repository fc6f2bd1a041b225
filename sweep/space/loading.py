"""SPACE.yaml → a checked `Space`; every problem of a file at once, each with its line."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sweep.space.epochs import most, passed_through
from sweep.space.hyperparameters import (
    HYPERPARAMETERS,
    Choices,
    Domain,
    Problem,
    Range,
    TimesRank,
    Value,
    parse_domain,
    shown,
)
from sweep.space.objective import metric_path, objective_of
from sweep.space.objective import problems as objective_problems
from sweep.space.settings import Budget, Settings, as_name, problems_of, unknown_key
from sweep.space.usual_points import Start, usual_starts
from sweep.space.yaml_file import SpaceError, SpaceFile, did_you_mean, read, shortened
from trials.config import Objective
from trials.data.addresses import is_address, local_path, wrong_address

DEFAULT_TRIALS = 24
MOST_GRID_POINTS = 100_000
"""Optuna holds every point of a grid in memory."""


@dataclass(frozen=True, slots=True)
class Space:
    """A checked space: what is searched, what is fixed, how, and for how long."""

    settings: Settings
    domains: dict[str, Domain]
    """Of every hyperparameter, the fixed ones included, in the order of the table."""
    epochs_passed_through: Domain | None
    """The epochs that the file searches, where one run to the most of them covers all."""
    starts: tuple[Start, ...]
    """Points that are tried first: those of earlier sweeps, then the file's, or the usual ones."""
    folder: Path
    """The folder of the file; relative paths begin here."""
    text: str = field(repr=False)
    """The file as run, with what was set on the command line."""

    @property
    def name(self) -> str:
        """The study, the MLflow experiment, the folder under output."""
        return self.settings.name

    @property
    def start_with(self) -> tuple[Mapping[str, Value], ...]:
        """The points that are tried first."""
        return tuple(start.values for start in self.starts)

    @property
    def starts_as_usual(self) -> bool:
        """The usual points are among the first, as the file gives none."""
        return any(start.is_usual for start in self.starts)

    @property
    def n_points(self) -> float:
        """Points of the space; infinite when a range is continuous."""
        return math.prod(_size(domain) for domain in self.domains.values())

    @property
    def objective(self) -> Objective:
        """What trials are judged by."""
        return objective_of(self.settings.objective)

    @property
    def metric_file(self) -> Path | None:
        """The user's own metric; None: a built-in one."""
        python = self.settings.objective.python
        return None if python is None else metric_path(python, self.folder).resolve()

    def may_be(self, name: str, value: Value) -> bool:
        """Whether a trial may have this value, such as true of `use_dora`."""
        return value in self.domains[name]  # type: ignore[operator]

    @property
    def smallest(self) -> dict[str, float]:
        """The fewest epochs, the shortest max_length, the smallest effective_batch_size."""
        return {
            name: _bound(self.domains[name], min)
            for name in ("epochs", "max_length", "effective_batch_size")
        }

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
        if is_address(given):
            return given
        path = self.folder / given
        # Asked first: a path that leads in a circle cannot be resolved.
        return str(path.resolve()) if path.exists() else given


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
    problems = [
        *_field_problems(raw, path),
        *objective_problems(raw, path.parent),
        *_search_problems(raw),
    ]
    if problems:
        raise SpaceError(file.in_words(problems))
    return _build(raw, file)


def space_as_run(path: Path) -> Space:
    """Read a space that was checked when it was run; its data may be elsewhere by now.

    Raises:
        SpaceError: It cannot be read.
    """
    file = read(path, {})
    return _build(file.plain, file)


def _field_problems(raw: dict[str, Any], path: Path) -> list[Problem]:
    fields = {key: value for key, value in raw.items() if key not in ("search", "start_with")}
    problems: list[Problem] = []
    try:
        Settings.model_validate(_with_name(fields, path))
    except ValidationError as error:
        problems += problems_of(error)
    data, search = _mapping(raw.get("data")), _mapping(raw.get("search"))
    for which in ("train", "eval"):
        given = data.get(which)
        if isinstance(given, str) and (words := _missing(_missing_file, path.parent, given)):
            problems.append(Problem(("data", which), words))
    base_model = raw.get("base_model")
    if isinstance(base_model, str) and (words := _missing(_missing_model, path.parent, base_model)):
        problems.append(Problem(("base_model",), words))
    if data.get("template") is not None and data.get("columns"):
        problems.append(Problem(("data", "template"), "names columns itself; remove data.columns."))
    if data.get("max_length") is not None and "max_length" in search:
        problems.append(Problem(("search", "max_length"), "stands in data too; remove one."))
    problems += _own_name_problems(raw, path)
    if raw.get("backend") == "unsloth":
        problems += [Problem((key,), words) for key, words in _beyond_unsloth(raw)]
    return problems


def _own_name_problems(raw: dict[str, Any], path: Path) -> Iterator[Problem]:
    own, given = _with_name(raw, path)["name"], raw.get("start_from")
    words = f"must be an earlier sweep, not {shown(own)} itself, which goes on from what it has."
    for index, name in enumerate(given if isinstance(given, list) else [given]):
        if isinstance(name, str) and name == own:
            where = ("start_from", index) if isinstance(given, list) else ("start_from",)
            yield Problem(where, f"{words} Name another, or remove it.")


def _beyond_unsloth(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if raw.get("compute_dtype") == "float32":
        words = "unsloth's kernels compute in 16 bits; write auto, or backend: transformers."
        yield "compute_dtype", words
    n_gpus = raw.get("gpus_per_trial")
    if isinstance(n_gpus, int) and n_gpus > 1:
        words = f"unsloth trains on one GPU, not on {n_gpus}; write 1, or backend: transformers."
        yield "gpus_per_trial", words


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _with_name(fields: dict[str, Any], path: Path) -> dict[str, Any]:
    return {"name": as_name(path.stem), **fields}


def _missing(look: Callable[[Path, str], str | None], folder: Path, given: str) -> str | None:
    """Say why a file or a model is not there, or not to be seen."""
    try:
        if (folder / given).is_symlink() and not (folder / given).exists():
            return f"{shown(given)} is a link that leads nowhere; mend it, or name what it means."
        return look(folder, given)
    except OSError as error:  # too long a name, or a folder that may not be entered
        return f"{shown(given)} cannot be looked at: {error.strerror}."


def _missing_file(folder: Path, given: str) -> str | None:
    from trials.data.examples import looks_like_hub_id

    if is_address(given):  # looked at by whoever reads it: it may be a path of other machines
        return wrong_address(given)
    path = folder / given
    if path.exists():
        return None
    if re.fullmatch(r"\s*[\d.]+\s*%?\s*", given):
        return f"must be a file or a number such as 0.1 (no % and no quotes), not {shown(given)}."
    siblings = _names_in(path.parent)
    forgot_suffix = [name for name in siblings if name.startswith(f"{path.name}.")]
    if forgot_suffix or not looks_like_hub_id(given):
        near = forgot_suffix or difflib.get_close_matches(path.name, siblings, n=1)
        return _no_such("file", folder, given, near)
    return None


MODEL_FILES: Mapping[str, Sequence[str]] = {
    "config.json": ("config.json",),
    "a tokenizer (tokenizer.json)": ("*token*", "vocab*", "*.model"),
    "weights (model.safetensors)": ("model.safetensors", "model.safetensors.index.json"),
}
_HUB_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)


def _missing_model(folder: Path, given: str) -> str | None:
    """Say why `given` can be no base model, as far as that is known without a network."""
    from trials.models.smollm2 import NAME

    path = folder / local_path(given)
    if is_address(given) and not path.is_dir():  # it may be a folder of other machines
        return wrong_address(given, schemes=())
    if path.is_dir():
        lacks = [
            what
            for what, names in MODEL_FILES.items()
            if not any(file for name in names for file in path.glob(name))
        ]
        if not lacks:
            return None
        rule = f"the folder of a model must hold {', '.join(MODEL_FILES)}"
        return f"{rule}; missing in {given}: {', '.join(lacks)}.{_only_pickles(path)}"
    if path.is_file():
        return f"must be a hub id or a folder, but {given} is a file; name the folder it is in."
    if not _HUB_MODEL.fullmatch(given):
        near = difflib.get_close_matches(path.name, _names_in(path.parent), n=1)
        return _no_such("folder", folder, given, near)
    if given != NAME and "/" not in given and difflib.get_close_matches(given, [NAME], cutoff=0.8):
        return f"no such model: {given}; did you mean {NAME}?"
    return None


def _only_pickles(folder: Path) -> str:
    pickles = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth") for file in folder.glob(kind))
    if not pickles:
        return ""
    return (
        f" {pickles[0]} is a pickle, which can run code when it is read, so it is not; "
        f"save the model anew with save_pretrained, which writes safetensors."
    )


def _names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _no_such(kind: str, folder: Path, given: str, near: Sequence[str]) -> str:
    if near:
        beside = given[: given.rstrip("/").rfind("/") + 1]
        return f"no such {kind}: {shortened(given)}{did_you_mean([beside + near[0]])}"
    if given.startswith("~"):
        return f"no such {kind}: {shortened(given)}; write the whole path in place of ~."
    place = f"paths begin at the folder of this file, {folder.resolve()}"
    return f"no such {kind}: {shortened(given)} ({place})."


def _search_problems(raw: dict[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    search, start_with = raw.get("search"), raw.get("start_with", [])
    if not search:
        mend = "name what to search, such as `rank: [8, 16, 32]`"
        missing = "has no value" if "search" in raw else "is missing"
        problems.append(Problem(("search",), f"{missing}; {mend}."))
    elif not isinstance(search, dict):
        words = f"must be hyperparameters and their values, not {shown(search)}."
        problems.append(Problem(("search",), words))
    for name, given in _mapping(search).items():
        if name not in HYPERPARAMETERS:
            words = unknown_key(name, list(HYPERPARAMETERS))
            problems.append(Problem(("search", name), words))
            continue
        problems += [Problem(("search", *p.path), p.words) for p in parse_domain(name, given)[1]]
    domains = _domains(raw)
    problems += _batch_problems(raw, domains)
    if raw.get("sampler") == "grid":
        problems += _grid_problems(domains)
    if isinstance(start_with, list):
        return problems + _start_problems(start_with, domains)
    words = f"must be a list, `- {{rank: 16, …}}` for each trial, not {shown(start_with)}."
    return [*problems, Problem(("start_with",), words)]


def _domains(raw: Mapping[str, Any]) -> dict[str, Domain]:
    """The domain of every hyperparameter; those with problems are left out."""
    search = _mapping(raw.get("search"))
    data_length = _mapping(raw.get("data")).get("max_length")
    domains: dict[str, Domain] = {}
    for name, hyperparameter in HYPERPARAMETERS.items():
        if name in search:
            domain, _ = parse_domain(name, search[name])
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


def _batch_problems(raw: Mapping[str, Any], domains: Mapping[str, Domain]) -> Iterator[Problem]:
    """Say where an effective batch cannot be shared by the GPUs of a trial."""
    key, n = "effective_batch_size", raw.get("gpus_per_trial", 1)
    domain = domains.get(key)
    if not isinstance(n, int) or n < 1 or domain is None:
        return  # told elsewhere
    rule = f"must be a multiple of gpus_per_trial ({n})"
    given = _mapping(raw.get("search")).get(key)
    if given is None:
        usual = HYPERPARAMETERS[key].default
        if wrong := not_shared(usual, n):
            words = f"search.{key} is not given, and its default {wrong}"
            yield Problem(("gpus_per_trial",), words)
        return
    if isinstance(domain, Range):
        if n > 1 and (domain.low % n or (domain.step or 1) % n):
            low, high = math.ceil(domain.low / n) * n, math.floor(domain.high / n) * n
            mend = (
                f"write {{min: {low}, max: {high}, step: {n}}}, or a list"
                if low < high
                else ("give a list")
            )
            words = f"{rule}, not every {domain}; {mend}."
            yield Problem(("search", key), words)
        return
    for index, value in enumerate(given if isinstance(given, list) else [given]):
        if wrong := not_shared(value, n):
            path = ("search", key, index) if isinstance(given, list) else ("search", key)
            yield Problem(path, wrong)


def not_shared(effective_batch_size: Any, gpus_per_trial: int) -> str | None:
    """Say that an effective batch cannot be shared by the GPUs of a trial, or None."""
    below, rest = divmod(effective_batch_size, gpus_per_trial)
    if not rest:
        return None
    near = [n * gpus_per_trial for n in (below, below + 1) if n]
    return (
        f"must be a multiple of gpus_per_trial ({gpus_per_trial}), not {effective_batch_size}; "
        f"write {' or '.join(map(str, near))}."
    )


def _start_problems(start_with: list[Any], domains: Mapping[str, Domain]) -> list[Problem]:
    problems = []
    for index, start in enumerate(start_with):
        if not isinstance(start, dict):
            words = f"must be hyperparameters and their values, not {shown(start)}."
            problems.append(Problem(("start_with", index), words))
            continue
        for name, value in start.items():
            path = ("start_with", index, name)
            if name not in HYPERPARAMETERS:
                problems.append(Problem(path, unknown_key(name, list(HYPERPARAMETERS))))
            elif wrong := HYPERPARAMETERS[name].problem(value):
                problems.append(Problem(path, f"{wrong}."))
            elif name in domains and (outside := _outside(name, value, start, domains)):
                problems.append(Problem(path, outside))
    return problems


def _outside(
    name: str, value: Any, start: Mapping[str, Any], domains: Mapping[str, Domain]
) -> str | None:
    """Say that a value to start with is not searched, or None."""
    domain = domains[name]
    words = f"{shown(value)} lies outside search.{name} ({domain}); change it, or widen the search."
    if not isinstance(domain, TimesRank):
        return None if value in domain else words
    if "rank" not in domains:
        return None  # the rank's own problem is told
    rank = start.get("rank", _only_value(domains["rank"]))
    if rank is None:
        return "needs the rank beside it, since the search has alpha as a multiple of it."
    if HYPERPARAMETERS["rank"].problem(rank):
        return None
    if isinstance(domain.factor, Range):
        return None if value / rank in domain.factor else words
    is_one = any(math.isclose(value, float(factor) * rank) for factor in domain.factor.values)
    return None if is_one else words


def _only_value(domain: Domain) -> Value | None:
    """The value of a fixed hyperparameter."""
    if isinstance(domain, Choices) and len(domain.values) == 1:
        return domain.values[0]
    return None


def _build(raw: dict[str, Any], file: SpaceFile) -> Space:
    fields = {key: value for key, value in raw.items() if key not in ("search", "start_with")}
    settings = Settings.model_validate(_with_name(fields, file.path))
    domains = _domains(raw)
    epochs = passed_through(domains)
    if epochs is not None:
        domains["epochs"] = most(epochs)
    starts = usual_starts(domains, settings.base_model)
    if "start_with" in raw:
        rank = _only_value(domains["rank"])
        fixed = {} if rank is None else {"rank": rank}  # alpha may be a multiple of it
        starts = [Start({**fixed, **values}, "start_with") for values in raw["start_with"]]
    if all(limit is None for limit in settings.budget.model_dump().values()):
        settings = settings.model_copy(update={"budget": Budget(trials=DEFAULT_TRIALS)})
    return Space(
        settings=settings,
        domains=domains,
        epochs_passed_through=epochs,
        starts=tuple(starts),
        folder=file.path.parent.resolve(),
        text=file.text,
    )


def _grid_problems(domains: Mapping[str, Domain]) -> list[Problem]:
    n_points = math.prod(_size(domain) for domain in domains.values())
    if MOST_GRID_POINTS < n_points < math.inf:
        rule = f"a grid has at most {MOST_GRID_POINTS:,} points, not {n_points:,.0f}"
        return [Problem(("sampler",), f"{rule}; search less, or choose another sampler.")]
    words = "a grid needs lists or ranges with a step; give one, or choose another sampler."
    return [
        Problem(("search", name), words)
        for name, domain in domains.items()
        if math.isinf(_size(domain))
    ]
