"""A runner that replays a recorded landscape on a simulated clock: any number of GPUs.

The loop, the study, the sampler and the pruner are the sweep's own. A trial reports what the run of
the same hyperparameters reported, when it reported it, and waits for each verdict, as real ones do.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from sweep.events import Ended, Place, Reported, RunnerEvent, Started
from trials.config import GOES_ON, EvalPoint, Stop, TrialConfig, TrialResult
from trials.evaluation.row_nlls import as_text

LANDSCAPE = Path(__file__).parent / "landscape.parquet"
START_SECONDS = 0.1
"""From a trial's end to the next one's first step on a warm worker, measured: README, "What a sweep
costs beside its trials"; taking one up from its checkpoint costs the same."""

Key = tuple[int, float, int, int]
"""Rank, learning rate, epochs, effective batch size."""


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded trial."""

    points: tuple[EvalPoint, ...]
    """Index 0, the base model, first."""
    seconds: tuple[float, ...]
    """When each point came, since the trial began: as a run of that many steps, rows and
    parameters usually takes, so that no chance of the machine is in it."""

    @property
    def best(self) -> EvalPoint:
        """The evaluation with the lowest eval loss."""
        return min(self.points[1:], key=lambda point: point.eval_loss)


class Landscape:
    """All runs of one schedule and one seed, by their hyperparameters."""

    def __init__(self, runs: Mapping[Key, Run]) -> None:
        self.runs = dict(runs)
        self.best = min(run.best.eval_loss for run in self.runs.values())
        self.winner = min(self.runs, key=lambda key: self.runs[key].best.eval_loss)

    def values(self, place: int) -> list[Any]:
        """All values of one hyperparameter, by its place in `Key`."""
        return sorted({key[place] for key in self.runs})

    @property
    def gpu_seconds(self) -> float:
        """Of the exhaustive grid."""
        return sum(run.seconds[-1] + START_SECONDS for run in self.runs.values())


def read_landscapes(path: Path = LANDSCAPE) -> dict[tuple[str, int], Landscape]:
    """Read the recorded runs, by schedule and seed."""
    curves: dict[tuple[str, int], dict[Key, list[dict[str, Any]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in pq.read_table(path).to_pylist():
        key = (row["rank"], row["learning_rate"], row["epochs"], row["batch"])
        curves[row["scheduler"], row["seed"]][key].append(row)
    took = _usual_seconds(curves)
    return {
        which: Landscape({key: _run(rows, took[key]) for key, rows in of.items()})
        for which, of in curves.items()
    }


def _usual_seconds(
    curves: Mapping[Any, Mapping[Key, Sequence[Mapping[str, Any]]]],
) -> dict[Key, float]:
    """Of a whole run: the median of all that differ in learning rate, schedule and seed alone."""
    of_shape: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for runs in curves.values():
        for (rank, _, epochs, batch), rows in runs.items():
            of_shape[rank, epochs, batch].append(max(row["seconds"] for row in rows))
    return {
        key: median(of_shape[key[0], key[2], key[3]]) for runs in curves.values() for key in runs
    }


def _run(rows: Sequence[Mapping[str, Any]], seconds: float) -> Run:
    import numpy as np

    rows = sorted(rows, key=lambda row: row["index"])
    last = max(row["seconds"] for row in rows)
    points = []
    for row in rows:
        nlls = row["row_nlls"]
        points.append(
            EvalPoint(
                index=row["index"],
                step=row["step"],
                epoch=row["epoch"],
                eval_loss=row["eval_loss"],
                train_loss=row["train_loss"],
                learning_rate=row["learning_rate_now"],
                grad_norm=row["grad_norm"],
                tokens_per_second=row["tokens_per_second"],
                gpu_memory_gib=None,
                seconds=row["seconds"] / last * seconds,
                row_nlls=as_text(np.array(nlls, dtype=np.float64)) if nlls else None,
            )
        )
    return Run(tuple(points), tuple(point.seconds for point in points))


@dataclass
class _Trial:
    config: TrialConfig
    run: Run
    n_reported: int = 0
    """Points that it has reported, in all parts of its run."""
    end: TrialResult | None = None
    parts: list[float] = field(default_factory=list)


class ReplayRunner:
    """So many GPUs, each busy with one recorded run.

    Args:
        on_end: Hears when (seconds since the beginning) a trial has ended, and how.
    """

    def __init__(
        self,
        landscape: Landscape,
        n_gpus: int,
        on_end: Callable[[float, TrialConfig, TrialResult], None] = lambda *_: None,
    ) -> None:
        self._landscape, self._n_gpus, self._on_end = landscape, n_gpus, on_end
        self._begun: deque[Started | Reported] = deque()
        self._events: list[tuple[float, int, int]] = []
        self._count = itertools.count()
        self._paused: dict[int, int] = {}
        self.trials: dict[int, _Trial] = {}
        self.now = 0.0

    @property
    def n_free(self) -> int:
        """GPUs without a trial."""
        return self._n_gpus - len(self.trials)

    @property
    def gpu_seconds(self) -> float:
        """That have passed: all GPUs are there all the time."""
        return self._n_gpus * self.now

    def start(self, number: int, config: TrialConfig) -> None:
        """Begin a trial, or take it up where it was paused."""
        key = (config.rank, config.learning_rate, config.epochs, config.effective_batch_size)
        run = self._landscape.runs[key]  # type: ignore[index]
        trial = self.trials[number] = _Trial(config, run)
        self._begun.append(Started(config, Place("simulated", "GPU")))
        for point in run.points[: self._paused.pop(number, 0)]:
            # As one that goes on from a checkpoint.
            self._begun.append(Reported(number, point, lambda verdict: None))
            trial.n_reported += 1
        if not trial.n_reported:
            trial.n_reported = 0 if config.evaluate_base else 1
        self._at(self.now + START_SECONDS + self._until_next(trial), number)

    def wait(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
        """Let time pass until a trial ends."""
        while self._begun:
            yield self._begun.popleft()
        while not until():
            self.now, _, number = heapq.heappop(self._events)
            trial = self.trials[number]
            point = trial.run.points[trial.n_reported]
            trial.n_reported += 1
            said: list[Stop | None] = []
            yield Reported(number, point, said.append)
            [verdict] = said
            is_over = trial.n_reported == len(trial.run.points)
            if verdict is None and not is_over:
                self._at(self.now + self._until_next(trial), number)
                continue
            del self.trials[number]
            if verdict is not None and verdict.outcome in GOES_ON:
                self._paused[number] = trial.n_reported
            result = TrialResult(
                outcome=verdict.outcome if verdict else "completed",
                reason=verdict.reason if verdict else "Ran to its end.",
                best=_best(trial.run.points[: trial.n_reported]),
                training_seconds=point.seconds,
            )
            self._on_end(self.now, trial.config, result)
            yield Ended(number, result)
            return

    @staticmethod
    def _until_next(trial: _Trial) -> float:
        times, n = trial.run.seconds, trial.n_reported
        return times[n] - (times[n - 1] if n else 0.0)

    def _at(self, when: float, number: int) -> None:
        heapq.heappush(self._events, (when, next(self._count), number))


def _best(points: Sequence[EvalPoint]) -> EvalPoint | None:
    finite = [point for point in points if point.is_finite and point.index > 0]
    return min(finite, key=lambda point: point.eval_loss, default=None)
