"""The final evaluation: the best adapters, and the base model, measured on rows of their own.

While a sweep runs, each trial is measured on a sample of the eval rows, and the winner is the best
of many such figures: it looks better than it is. So the best are measured on all eval rows, which
decides. Then the winner and the second are measured on `data.test`, which had no part in any
choice, and on the base model in 16 bits.

All lies below `final/` of the sweep's folder: `plan.json`, which measurement is which; and each in
`trials/NNN/`, as a trial does. What has been measured is not measured again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from sweep.errors import StudyError, SweepFailed
from sweep.events import Place
from sweep.folder import layout
from sweep.study.ask_tell import AskTell
from sweep.study.known_runs import KnownRuns
from trials.config import EvalPoint, Quantization, Stop, TrialConfig, TrialResult
from trials.trial_folder import ADAPTER, read_json, read_result, write_result
from trials.whole_file import write_whole

TOP = 5
"""So many of the best trials are measured."""
MOST_OF_THE_HOURS = 0.05
"""Of `budget.hours`, that it may take."""

Part = Literal["all", "test", "16-bit"]
"""`all`: all eval rows, which decides; `test`: rows that decide nothing; `16-bit`: all eval rows
again, where another precision decides."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A measurement, as the plan has it."""

    part: Part
    trial: int | None
    """None: the base model."""
    quantization: Quantization
    """Of the base model."""
    rows: str
    """Their fingerprint."""


@dataclass(slots=True)
class Plan:
    """`plan.json`."""

    measurements: list[Entry | None] = field(default_factory=list)
    """By number; None: its rows or its precision are no longer asked for."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why a part is not measured."""

    def write(self, folder: Path) -> None:
        there = folder / layout.FINAL / layout.PLAN
        there.parent.mkdir(exist_ok=True)
        write_whole(there, json.dumps(asdict(self)))


@dataclass(frozen=True, slots=True)
class Measurement:
    """One adapter, or the base model, on the rows of a part."""

    trial: int | None
    """None: the base model."""
    config: TrialConfig
    """Its number is the measurement's own, in `plan.json`."""

    @property
    def result(self) -> TrialResult | None:
        """None: it has not been measured."""
        found = read_result(Path(self.config.output_dir))
        return found[0] if found and found[0].outcome == "completed" else None


def plan(
    folder: Path,
    part: Part,
    configs: Mapping[int, TrialConfig],
    *,
    rows: str,
    quantization: Quantization,
) -> list[Measurement]:
    """Return what is to be measured, the base model last, and write the plan.

    Args:
        folder: The sweep's.
        configs: Of the best trials, by number.
        rows: Their fingerprint.
        quantization: Of the base model.
    """
    usual = next(iter(configs.values()))
    # Unsloth knows no losses of single rows.
    model = replace(usual.model, backend="transformers", quantization=quantization)
    wanted: list[int | None] = [*configs, *([] if part == "16-bit" else [None])]
    entries = [Entry(part, trial, quantization, rows) for trial in wanted]
    found, kind = read_plan(folder), Entry(part, None, quantization, rows)
    known = [
        old if old is None or old.part != part or replace(old, trial=None) == kind else None
        for old in found.measurements
    ]
    known += [entry for entry in entries if entry not in known]
    found.left_out.pop(part, None)
    Plan(known, found.left_out).write(folder)
    return [
        Measurement(
            entry.trial,
            replace(
                configs.get(entry.trial, usual) if entry.trial is not None else usual,
                number=known.index(entry),
                output_dir=str(output_dir(folder, known.index(entry)).resolve()),
                model=model,
                measured_rows="test" if part == "test" else "eval",
                measured_adapter=adapter_of(folder, entry.trial),
                evaluate_base=False,
            ),
        )
        for entry in entries
    ]


def leave_out(folder: Path, part: Part, why: str) -> None:
    """Note why a part is not measured."""
    found = read_plan(folder)
    if found.left_out.get(part) != why:
        found.left_out[part] = why
        found.write(folder)


def adapter_of(folder: Path, trial: int | None) -> str:
    """Return where a trial's adapter lies; empty for the base model."""
    return "" if trial is None else str((layout.trial_dir(folder, trial) / ADAPTER).resolve())


def read_plan(folder: Path) -> Plan:
    """Read what each measurement is.

    Raises:
        StudyError: The plan cannot be read.
    """
    path = folder / layout.FINAL / layout.PLAN
    mend = f"Remove {path.parent}: the sweep's command measures anew."
    holds = "the trial of each measurement"
    found = read_json(path, dict, holds=holds, mend=mend, error=StudyError)
    if found is None:
        return Plan()
    try:
        entries = [each if each is None else _entry(each) for each in found["measurements"]]
        return Plan(entries, {str(k): str(v) for k, v in found["left_out"].items()})
    except (KeyError, TypeError, ValueError, AttributeError):
        raise StudyError(f"{path}: must hold {holds}, but has {found!s:.60}. {mend}") from None


def _entry(written: Mapping[str, Any]) -> Entry:
    entry = Entry(**written)
    is_trial = entry.trial is None or type(entry.trial) is int
    if entry.part not in get_args(Part) or not is_trial:
        raise ValueError(entry)
    return entry


def output_dir(folder: Path, number: int) -> Path:
    """Return where a measurement lies."""
    return layout.trial_dir(folder / layout.FINAL, number)


class FinalEvaluation(AskTell):
    """The measurements: a study whose points are known beforehand, without evaluations between."""

    def __init__(
        self, measurements: Sequence[Measurement], title: str = "Final evaluation"
    ) -> None:
        self.measurements, self.title = measurements, title
        self._known = KnownRuns(each.config for each in measurements if each.result is None)
        self.n_to_do = len(self._known.waiting)
        self.failures: list[str] = []
        """Why measurements came to nothing."""

    def ask(self, paused: int | None = None) -> tuple[int, TrialConfig]:
        config = self._known.ask()
        return config.number, config

    def started(self, config: TrialConfig, place: Place) -> None:
        return

    def report(self, number: int, point: EvalPoint) -> Stop | None:
        return None

    def tell(self, number: int, result: TrialResult) -> bool:
        """Take the end of a measurement.

        Raises:
            SweepFailed: The prepared rows were changed.
        """
        config, told = self._known.tell(number, result)
        if result.fault == "rows_changed":
            raise SweepFailed(result.reason.splitlines()[0])
        if told.outcome == "completed":
            write_result(config, told, [])
        elif told.outcome != "interrupted":
            self.failures.append(told.reason.splitlines()[0])
        return told.outcome != "interrupted"

    def n_ended(self) -> int:
        return self.n_to_do - len(self._known.waiting) - len(self._known.running)

    def is_exhausted(self) -> bool:
        return not self._known.waiting
