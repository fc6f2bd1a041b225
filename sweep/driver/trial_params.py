"""Which configuration `sweep trial` runs: from --params, or a trial of the sweep again."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sweep.errors import SpaceError
from sweep.folder import layout
from sweep.samplers import search_space
from sweep.space.hyperparameters import HYPERPARAMETERS, Value, shown
from sweep.space.search_section import not_shared
from sweep.space.space import Space
from sweep.space.target_modules import as_one
from sweep.space.unknown_keys import unknown_key
from trials.config import TrialConfig
from trials.trial_folder import CONFIG, read_json

EXAMPLE = 'such as --params \'{"rank": 16, "learning_rate": 2e-4}\''

Recorded = Mapping[str, Any]
"""config.json of a trial of the sweep."""


def named_params(space: Space, text: str) -> dict[str, Value]:
    """The hyperparameters that the command line names.

    Args:
        text: JSON or YAML.

    Raises:
        SpaceError: With every problem.
    """
    try:
        given = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError):
        raise SpaceError(f"--params {text}: must be JSON or YAML; quote it, {EXAMPLE}.") from None
    if not isinstance(given, dict):
        raise SpaceError(f"--params {text}: must be hyperparameters and values, {EXAMPLE}.")
    values = {str(name): as_one(str(name), value) for name, value in given.items()}
    return checked_params(space, values, "--params")


def recorded_params(space: Space, recorded: Recorded) -> dict[str, Value]:
    """The hyperparameters that a trial of the sweep had.

    Raises:
        SpaceError: With every problem.
    """
    given = {name: recorded[name] for name in HYPERPARAMETERS if name in recorded}
    return checked_params(space, given, "--number")


def checked_params(space: Space, given: dict[str, Any], flag: str) -> dict[str, Value]:
    problems = {name: _problem(space, name, value) for name, value in given.items()}
    lines = [f"  {name}: {words}" for name, words in problems.items() if words]
    if lines:
        noun = "problem" if len(lines) == 1 else "problems"
        raise SpaceError("\n".join([f"{flag}: {len(lines)} {noun}", *lines]))
    return given


def _problem(space: Space, name: str, value: Any) -> str | None:
    """Say why no trial can have this value, whatever is searched; None: one can."""
    if name not in HYPERPARAMETERS:
        return next(unknown_key((name,), value, list(HYPERPARAMETERS), {})).words
    if wrong := HYPERPARAMETERS[name].problem(value):
        return f"{wrong}."
    if name == "effective_batch_size":
        return not_shared(value, space.settings.processes_per_trial)
    longest = int(space.largest["max_length"])
    if name == "max_length" and value > longest:
        return f"must be at most {longest}, where eval rows are cut, not {value}."
    return None


def recorded_config(sweep_dir: Path, number: int) -> Recorded:
    """The configuration that trial `number` of the sweep had.

    Raises:
        SpaceError: There is no such trial.
    """
    path = layout.trial_dir(sweep_dir, number) / CONFIG
    instead = "Name its hyperparameters with --params."
    recorded = read_json(path, dict, holds="a trial's settings", mend=instead, error=SpaceError)
    if recorded is not None:
        return recorded
    numbers = [int(p.parent.name) for p in sweep_dir.glob(f"{layout.TRIALS}/*/{CONFIG}")]
    there = f"The last is {max(numbers)}." if numbers else "There is none yet."
    raise SpaceError(f"--number {number}: {sweep_dir} has no such trial. {there}")


def outside(space: Space, given: Mapping[str, Value], config: TrialConfig) -> str | None:
    """Say which of the given values the space does not search, or None."""
    point = {name: getattr(config, name) for name in HYPERPARAMETERS}
    names = [name for name in search_space.outside(space, point) if name in given]
    values = [f"{name} {shown(given[name])} ({space.domains[name]})" for name in names]
    return f"Outside the search: {'; '.join(values)}." if values else None


OWN = ("number", "data_dir", "output_dir", "evaluate_base", "gpus_per_trial", "checkpoint_minutes")
"""Settings in which a trial alone differs from the sweep's, and which do not change its losses."""


def unlike(recorded: Recorded, config: TrialConfig) -> str | None:
    """Say in what the trial differs from the sweep's own of that number, or None."""
    now = json.loads(json.dumps(asdict(config)))
    changed = list(_changes(recorded, {key: now[key] for key in now if key not in OWN}))
    return f"Unlike trial {config.number} of the sweep: {'; '.join(changed)}." if changed else None


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key, value in now.items():
        if isinstance(value, dict):
            yield from _changes(before.get(key, value), value)  # older versions wrote less
        elif before.get(key) != value:
            yield f"{key} {shown(before.get(key))} → {shown(value)}"
