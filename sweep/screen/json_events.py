"""`sweep run --json`: what happens in a sweep, for programs; one JSON object a line."""

import json
import math
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, TextIO

from sweep.clock import Clock
from sweep.events import Place
from sweep.screen.plain import PlainScreen
from sweep.space.settings import Settings
from sweep.study.summary import SAMPLE, Summary
from trials.config import EvalPoint, TrialConfig, TrialResult
from trials.trial_folder import ADAPTER


class Events:
    """Writes events to a stream; a reader that goes away does not end the sweep.

    Each has `event` (its kind) and `time` (seconds of the epoch). A number that is missing, or is
    none (NaN, an infinity), is null.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self._clock = Clock()

    @classmethod
    def on_stdout(cls) -> Self:
        """Take standard output for events alone: whatever else is printed goes to standard error.

        Libraries print, and so do processes that are started; a program shall read events only.
        """
        ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        return cls(ours)

    def write(self, event: str, **values: Any) -> None:
        if self._stream is None:
            return
        line = {"event": event, "time": round(self._clock.now(), 3), **finite(values)}
        try:
            self._stream.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            self._stream.flush()
        except OSError:  # nobody reads any more
            self._stream = None

    def sweep_started(self, so_far: Summary, folder: Path, settings: Settings) -> None:
        """All is checked; the workers come up next."""
        self.write(
            "sweep_started",
            sweep=so_far.name,
            folder=str(folder.resolve()),
            budget=settings.budget.model_dump(),
            evaluations=settings.evaluate.times,
            n_ended=len(so_far.ended),
            n_waiting=so_far.n_waiting,
            base_eval_loss=so_far.base_eval_loss,
        )

    def sweep_ended(self, end: Summary, state: str, exit_code: int, reason: str | None) -> None:
        """The last event; the process ends with this exit code."""
        winner = None
        if end.winner is not None:
            adapter = end.best_dir and (end.best_dir / ADAPTER).resolve()
            judged = end.judged
            winner = {
                "trial": end.winner.number,
                "outcome": end.winner.outcome,
                "eval_loss": judged.eval_loss,
                "value": judged.value,
                "measured": judged.where or SAMPLE,
                "hyperparameters": end.winner.hyperparameters,
                "adapter": adapter and str(adapter),
            }
        self.write(
            "sweep_ended",
            state=state,
            exit_code=exit_code,
            reason=reason,
            outcomes=Counter(trial.outcome for trial in end.ended),
            n_waiting=end.n_waiting,
            base_eval_loss=end.base_eval_loss,
            winner=winner,
        )

    def error(self, words: str, exit_code: int) -> None:
        """Say why nothing was begun."""
        self.write("error", message=words, exit_code=exit_code)


class EventScreen:
    """A screen for programs: events, and beside them the plain lines for people."""

    def __init__(self, events: Events, plain: PlainScreen) -> None:
        self._events = events
        self._plain = plain

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, words: str) -> None:
        self._events.write("message", message=words)
        self._plain.say(words)

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        values = asdict(config)
        number = values.pop("number")
        values["base_model"] = values.pop("model")["name"]
        self._events.write("trial_started", trial=number, **asdict(place), config=values)
        self._plain.trial_started(config, place)

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        self._events.write("trial_reported", trial=number, **asdict(point))
        self._plain.trial_reported(number, point)

    def trial_ended(self, number: int, result: TrialResult) -> None:
        self._events.write(
            "trial_ended",
            trial=number,
            outcome=result.outcome,
            reason=result.reason,
            eval_loss=result.best.eval_loss if result.best else None,
            value=result.best.value if result.best else None,
            best_index=result.best.index if result.best else None,
            training_seconds=result.training_seconds,
            evaluation_seconds=result.evaluation_seconds,
        )
        self._plain.trial_ended(number, result)


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
