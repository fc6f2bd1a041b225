"""What a token took earlier trials on this machine: a file in the user's cache, for estimates."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweep.events import Place, Tracker
from sweep.space.space import Space
from sweep.storage.attributes import COUNTS
from sweep.workers.devices import n_workers, training_environment
from trials.config import ConfigError, EvalPoint, ModelConfig, TrialConfig, TrialResult
from trials.machine.cache import cache_dir
from trials.machine.cards import NoAnswer, cards, visible
from trials.trial_folder import read_json
from trials.whole_file import write_whole

FILE = "paces.json"
N_KEPT = 24
"""Of the latest trials of a kind."""
N_KINDS = 200

Kind = Mapping[str, str | float | None]
"""What decides how fast a trial trains, apart from its hyperparameters."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds per token."""

    training: float
    evaluation: float
    """Per token of `evaluation_tokens`, in the report of the prepared rows."""


def kind_of(space: Space, model: ModelConfig, *, on_gpus: bool, workers: int | None) -> Kind | None:
    """Return what kind of trials a sweep has here; None: its devices are not known, or differ."""
    device = _gpu() if on_gpus else _processors(space, workers)
    if device is None or "RAY_ADDRESS" in os.environ:
        return None
    known = asdict(model)
    del known["trust_remote_code"]
    return {**known, "device": device, "gpus_per_trial": float(space.settings.gpus_per_trial)}


def _gpu() -> str | None:
    try:
        names = {card.name for card in visible(cards() or [])}
    except NoAnswer:
        return None
    return names.pop() if len(names) == 1 else None


def _processors(space: Space, workers: int | None) -> str:
    n_slots, n_processes = n_workers(space, workers), space.settings.processes_per_trial
    threads = training_environment(n_slots=n_slots, n_processes=n_processes)["OMP_NUM_THREADS"]
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, 'processor')}, threads: {threads}"


def noted(kind: Kind) -> list[Pace]:
    """Return what is known of a kind, the latest last; nothing where the cache cannot be read."""
    return next((paces for other, paces in _read() if other == kind), [])


def note(kind: Kind, paces: Sequence[Pace]) -> None:
    """Put these in place of what is known of a kind; a cache that cannot be written is left."""
    others = [(other, found) for other, found in _read() if other != kind]
    written = [
        {"kind": dict(each), "paces": [[pace.training, pace.evaluation] for pace in found]}
        for each, found in [*others, (kind, paces[-N_KEPT:])][-N_KINDS:]
    ]
    with suppress(OSError, ConfigError):
        write_whole(cache_dir() / FILE, json.dumps(written, indent=1))


def _read() -> list[tuple[Kind, list[Pace]]]:
    """Whatever is wrong with the file, it is a cache: what it held is measured again."""
    try:
        found: list[Any] = read_json(cache_dir() / FILE, list, holds="paces", mend="") or []
        return [(each["kind"], [_pace(*pace) for pace in each["paces"]]) for each in found]
    except (ValueError, TypeError, KeyError, OSError):
        return []


def _pace(training: float, evaluation: float) -> Pace:
    if not (0 < training < math.inf and 0 <= evaluation < math.inf):
        raise ValueError("no seconds")
    return Pace(training, evaluation)


class PaceNotes(Tracker):
    """Notes the pace of each trial that has come to its own end.

    Args:
        evaluation_tokens: That an evaluation costs, in tokens.
    """

    def __init__(self, kind: Kind, evaluation_tokens: float) -> None:
        self._kind, self._evaluation_tokens = kind, evaluation_tokens
        self._running: dict[int, tuple[TrialConfig, EvalPoint | None]] = {}

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        self._running[config.number] = config, None

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        config, _ = self._running[number]
        self._running[number] = config, point

    def trial_ended(self, number: int, result: TrialResult) -> None:
        config, point = self._running.pop(number, (None, None))
        if config is None or point is None or not point.tokens or result.outcome not in COUNTS:
            return
        n_evaluations = min(point.index, point.step) + config.evaluate_base
        pace = Pace(
            result.training_seconds / point.tokens,
            result.evaluation_seconds / (n_evaluations * self._evaluation_tokens),
        )
        note(self._kind, [*noted(self._kind), pace])
