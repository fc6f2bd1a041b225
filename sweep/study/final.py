"""The final evaluation: the best adapters, and the base model, measured on all eval rows.

While a sweep runs, each trial is measured on a sample of the eval rows, and the winner is the best
of many such figures: it looks better than it is. What is measured here had no part in that.

All lies below `final/` of the sweep's folder: `plan.json`, which measurement is which adapter; and
each in `trials/NNN/`, as a trial does. What has been measured is not measured again.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sweep.errors import StudyError
from sweep.events import Place
from sweep.folder import layout
from sweep.study.ask_tell import AskTell
from sweep.study.sweep import RUNS_AGAIN
from trials.config import EvalPoint, Stop, TrialConfig, TrialResult
from trials.trial_folder import ADAPTER, forget_result, read_json, read_result, write_result
from trials.whole_file import write_whole

ROWS = "eval"
"""The split of the prepared rows that is measured."""
TOP = 5
"""So many of the best trials are measured."""
MOST_OF_THE_HOURS = 0.05
"""Of `budget.hours`, that it may take."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One adapter, or the base model, on all eval rows."""

    trial: int | None
    """None: the base model."""
    config: TrialConfig
    """Its number is the measurement's own, in `plan.json`."""

    @property
    def result(self) -> TrialResult | None:
        """None: it has not been measured."""
        found = read_result(Path(self.config.output_dir))
        return found[0] if found and found[0].outcome == "completed" else None


def plan(folder: Path, configs: Mapping[int, TrialConfig]) -> list[Measurement]:
    """Return what is to be measured, the base model last, and write the plan.

    Args:
        folder: The sweep's.
        configs: Of the best trials, by number.
    """
    there = folder / layout.FINAL / layout.PLAN
    known = read_plan(folder)
    wanted: list[int | None] = [*configs, None]
    known += [trial for trial in wanted if trial not in known]
    there.parent.mkdir(exist_ok=True)
    write_whole(there, json.dumps(known))
    usual = next(iter(configs.values()))
    return [
        Measurement(
            trial,
            replace(
                configs.get(trial, usual) if trial is not None else usual,
                number=known.index(trial),
                output_dir=str(output_dir(folder, known.index(trial)).resolve()),
                # Unsloth knows no losses of single rows.
                model=replace(usual.model, backend="transformers"),
                measured_rows=ROWS,
                measured_adapter=_adapter(folder, trial),
                evaluate_base=False,
            ),
        )
        for trial in wanted
    ]


def _adapter(folder: Path, trial: int | None) -> str:
    return "" if trial is None else str((layout.trial_dir(folder, trial) / ADAPTER).resolve())


def read_plan(folder: Path) -> list[int | None]:
    """Return the trial of each measurement, in their order; None: of the base model.

    Raises:
        StudyError: The plan cannot be read.
    """
    path = folder / layout.FINAL / layout.PLAN
    mend = f"Remove {path.parent}: the sweep's command measures anew."
    holds = "the trial of each measurement"
    entries = read_json(path, list, holds=holds, mend=mend, error=StudyError) or []
    if wrong := [entry for entry in entries if entry is not None and type(entry) is not int]:
        raise StudyError(f"{path}: must hold {holds}, but has {wrong[0]}. {mend}")
    return entries


def output_dir(folder: Path, number: int) -> Path:
    """Return where a measurement lies."""
    return layout.trial_dir(folder / layout.FINAL, number)


class FinalEvaluation(AskTell):
    """The measurements: a study whose points are known beforehand, without evaluations between."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self.measurements = measurements
        self._waiting = deque(each.config for each in measurements if each.result is None)
        self._running: dict[int, TrialConfig] = {}
        self._n_lost: dict[int, int] = {}
        self.n_to_do = len(self._waiting)
        self.failures: list[str] = []
        """Why measurements came to nothing."""

    def ask(self, paused: int | None = None) -> tuple[int, TrialConfig]:
        config = self._waiting.popleft()
        self._running[config.number] = config
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        forget_result(Path(config.output_dir))
        return config.number, config

    def started(self, config: TrialConfig, place: Place) -> None:
        return

    def report(self, number: int, point: EvalPoint) -> Stop | None:
        return None

    def tell(self, number: int, result: TrialResult) -> bool:
        config = self._running.pop(number)
        if result.outcome == "completed":
            write_result(config, result, [])
            return True
        if result.outcome == "interrupted":
            self._waiting.append(config)
            return False
        self._n_lost[number] = self._n_lost.get(number, 0) + 1
        if result.fault is not None and self._n_lost[number] <= RUNS_AGAIN:
            self._waiting.append(config)
            return False
        self.failures.append(result.reason.splitlines()[0])
        return True

    def n_ended(self) -> int:
        return self.n_to_do - len(self._waiting) - len(self._running)

    def is_exhausted(self) -> bool:
        return not self._waiting
