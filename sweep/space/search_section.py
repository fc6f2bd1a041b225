"""The `search` and `start_with` sections: every problem of them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from sweep.space.domains import Choices, Domain, Range, TimesRank, is_fixed, parse_domain
from sweep.space.hyperparameters import HYPERPARAMETERS, Problem, Value, shown
from sweep.space.space import size_of
from sweep.space.target_modules import as_one
from sweep.space.unknown_keys import unknown_key, written_elsewhere

MOST_GRID_POINTS = 100_000
"""Optuna holds every point of a grid in memory."""


def search_problems(raw: dict[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    search, start_with = raw.get("search"), raw.get("start_with", [])
    if not search:
        mend = "name what to search, such as `rank: [8, 16, 32]`"
        missing = "has no value" if "search" in raw else "is missing"
        problems.append(Problem(("search",), f"{missing}; {mend}."))
    elif not isinstance(search, dict):
        words = f"must be hyperparameters and their values, not {shown(search)}."
        problems.append(Problem(("search",), words))
    for name, given in as_mapping(search).items():
        if name not in HYPERPARAMETERS:
            problems += unknown_key(("search", name), given, list(HYPERPARAMETERS), raw)
            continue
        if otherwise := written_elsewhere(name, given):
            problems.append(Problem(("search", name), otherwise))
            continue
        problems += [Problem(("search", *p.path), p.words) for p in parse_domain(name, given)[1]]
    domains = domains_of(raw)
    problems += _batch_problems(raw, domains)
    problems += _experts_problems(domains)
    if raw.get("sampler") == "grid":
        problems += _grid_problems(domains)
    if isinstance(start_with, list):
        return problems + _start_problems(start_with, domains, raw)
    words = f"must be a list, `- {{rank: 16, …}}` for each trial, not {shown(start_with)}."
    return [*problems, Problem(("start_with",), words)]


def _batch_problems(raw: Mapping[str, Any], domains: Mapping[str, Domain]) -> Iterator[Problem]:
    """Say where an effective batch cannot be shared by the GPUs of a trial."""
    key, n = "effective_batch_size", raw.get("gpus_per_trial", 1)
    domain = domains.get(key)
    if not isinstance(n, int) or n < 1 or domain is None:
        return  # told elsewhere
    rule = f"must be a multiple of gpus_per_trial ({n})"
    given = as_mapping(raw.get("search")).get(key)
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


def _experts_problems(domains: Mapping[str, Domain]) -> Iterator[Problem]:
    """peft adapts a whole tensor of experts, on which neither dropout nor DoRA can be computed."""
    experts = domains.get("experts")
    if not isinstance(experts, Choices) or True not in experts:
        return
    for name, only in (("dropout", 0), ("use_dora", False)):
        domain = domains.get(name)
        if domain is not None and (not is_fixed(domain) or only not in domain):  # type: ignore[operator]
            words = f"must be {shown(only)} where experts may be true, not {domain}."
            yield Problem(("search", name), words)


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


def _start_problems(
    start_with: list[Any], domains: Mapping[str, Domain], raw: Mapping[str, Any]
) -> list[Problem]:
    problems: list[Problem] = []
    for index, start in enumerate(start_with):
        if not isinstance(start, dict):
            words = f"must be hyperparameters and their values, not {shown(start)}."
            problems.append(Problem(("start_with", index), words))
            continue
        for name, value in start.items():
            path = ("start_with", index, name)
            if name not in HYPERPARAMETERS:
                problems += unknown_key(path, value, list(HYPERPARAMETERS), raw)
            elif wrong := HYPERPARAMETERS[name].problem(as_one(name, value)):
                problems.append(Problem(path, f"{wrong}."))
            elif name in domains and (
                outside := _outside(name, as_one(name, value), start, domains)
            ):
                problems.append(Problem(path, outside))
    return problems


def _outside(
    name: str, value: Any, start: Mapping[str, Any], domains: Mapping[str, Domain]
) -> str | None:
    """Say that a value to start with is not searched, or None."""
    domain = domains[name]
    words = f"{shown(value)} is outside search.{name} ({domain}); change it, or widen the search."
    if not isinstance(domain, TimesRank):
        return None if value in domain else words
    if "rank" not in domains:
        return None  # the rank's own problem is told
    rank = start.get("rank", only_value(domains["rank"]))
    if rank is None:
        return "needs a rank beside it, since the search sets alpha as a multiple of rank."
    if HYPERPARAMETERS["rank"].problem(rank):
        return None
    if isinstance(domain.factor, Range):
        return None if value / rank in domain.factor else words
    is_one = any(math.isclose(value, float(factor) * rank) for factor in domain.factor.values)
    return None if is_one else words


def only_value(domain: Domain) -> Value | None:
    """The value of a fixed hyperparameter."""
    if isinstance(domain, Choices) and len(domain.values) == 1:
        return domain.values[0]
    return None


def _grid_problems(domains: Mapping[str, Domain]) -> list[Problem]:
    n_points = math.prod(size_of(domain) for domain in domains.values())
    if MOST_GRID_POINTS < n_points < math.inf:
        rule = f"a grid has at most {MOST_GRID_POINTS:,} points, not {n_points:,.0f}"
        return [Problem(("sampler",), f"{rule}; search fewer values, or choose another sampler.")]
    words = "a grid needs lists or ranges with a step; give one, or choose another sampler."
    return [
        Problem(("search", name), words)
        for name, domain in domains.items()
        if math.isinf(size_of(domain))
    ]


def domains_of(raw: Mapping[str, Any]) -> dict[str, Domain]:
    """The domain of every hyperparameter; those with problems are left out."""
    search = as_mapping(raw.get("search"))
    data_length = as_mapping(raw.get("data")).get("max_length")
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


def as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
