"""A study killed at any of its writes and opened again, in this process, beside one left alone.

Between two writes nothing lasts, so that all moments of a kill are the transactions of the study's
database: the process dies as it is about to make the n-th. Trials live outside of it, as workers'
folders do: each has a checkpoint, which may be older than its latest evaluation.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from optuna.trial import FrozenTrial

from sweep.driver.loop import run
from sweep.errors import SweepFailed
from sweep.events import Ended, Place, Reported, RunnerEvent, Started
from sweep.pruners.peers import WITHOUT_VALUE, rungs_of
from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.storage import attributes
from sweep.storage.patient import Patience, PatientStorage
from sweep.study.budget import Budget
from sweep.study.opening import Written, open_study
from sweep.study.sweep import Sweep
from sweep.study.trial_config import Resolve
from tests.tiny import model_config
from trials.config import GOES_ON, EvalPoint, Stop, TrialConfig, TrialResult, short_trial
from trials.evaluation.row_nlls import as_text, rows_of, standard_error, thinned

SAMPLERS = ("tpe", "gp", "qmc", "random", "grid")
PRUNINGS = ("asha", "median", "percentile", "hyperband", "successive_halving", "none")
N_EVALUATIONS, N_ROWS, N_FLAT = 10, 8, 14


RUNGS = (2, 5)
KEPT = (
    attributes.POINT,
    attributes.TOLD,
    attributes.OUTCOME,
    attributes.OUTCOME_REASON,
    attributes.CURVE,
    attributes.RESULT,
)


class Killed(BaseException):
    """The process is gone: nothing that it would have done comes to be."""


def space_of(
    folder: Path, sampler: str, pruning: str, *, n_trials: int = 24, rungs: str = "[0.2, 0.5]"
) -> Space:
    """A space that ends when it is flat."""
    (folder / "rows.jsonl").write_text("{}")
    outclassed = "false" if pruning == "none" else f"{{pruner: {pruning}, factor: 3, min_peers: 2}}"
    if pruning == "asha":
        outclassed = outclassed.replace("}", f", rungs: {rungs}}}")
    path = folder / "space.yaml"
    path.write_text(
        f"base_model: none\ndata: {{train: rows.jsonl, eval: 0.1}}\nsampler: {sampler}\n"
        "search:\n  rank: [4, 8, 16, 32]\n  alpha: [16, 32]\n"
        "  learning_rate: [1e-4, 3e-4, 6e-4, 1e-3, 2e-3, 4e-3, 6e-3, 8e-3, 1e-2]\n"
        "  epochs: [1, 2]\n"
        f"evaluate: {{times: {N_EVALUATIONS}}}\n"
        f"budget: {{trials: {n_trials}, stop_when_flat: {N_FLAT}}}\n"
        f"pruning: {{overfit: {{patience: 2}}, outclassed: {outclassed}}}\n"
    )
    return load_space(path)


def resolve(number: int, values: Mapping[str, Any], evaluate_base: bool) -> TrialConfig:
    """A configuration of no model: `Trials` make up its losses."""
    settings = {"number": number, "evaluate_base": evaluate_base, "n_evaluations": N_EVALUATIONS}
    return short_trial(model_config(Path("none")), **settings | dict(values))


def resolver(space: Space) -> Resolve:
    """As `resolve`, with where a space compares trials row by row."""
    rows_at = rungs_of(space)
    return lambda *about: replace(resolve(*about), row_nlls_at=rows_at)


def evaluation(config: TrialConfig, index: int) -> EvalPoint:
    """What a trial measures: it follows from its hyperparameters and the evaluation alone."""
    chance = np.random.default_rng([config.rank, round(config.alpha), index])
    off = abs(math.log10(config.learning_rate) + 2.3)  # from the best rate
    share = index / N_EVALUATIONS
    loss = 3.0 - (1.2 - 0.5 * off) * (1 - math.exp(-4 * share)) + 0.02 * chance.standard_normal()
    if config.rank == 32 and config.epochs == 2 and share > 0.5:
        loss += share  # learns its rows by heart
    if config.rank == 16 and config.learning_rate > 7e-3 and index == 3:
        loss = math.nan
    nlls = loss * (1 + 0.3 * np.random.default_rng(index).random(N_ROWS))
    return EvalPoint(
        index=index,
        step=index,
        epoch=share * config.epochs,
        eval_loss=loss,
        train_loss=None if index == 0 else 3.0 - share,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens_per_second=1.0,
        gpu_memory_gib=None,
        seconds=float(index),
        row_nlls=as_text(nlls) if index in RUNGS else None,
    )


class Trials:
    """All trials of a study, as they lie in its folder: whoever dies leaves them as they are."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.checkpoints: dict[int, list[EvalPoint]] = {}
        self.written: dict[int, Written] = {}

    def run(self, config: TrialConfig) -> Generator[EvalPoint, Stop | None, TrialResult]:
        """Train a trial from its checkpoint to its end, or to the verdict that ends it."""
        is_bad = config.rank == 8 and config.alpha == 16 and config.learning_rate > 7e-3
        if self.fails or is_bad:
            return TrialResult(outcome="failed", reason="Made to fail.", cause="made to fail")
        points: list[EvalPoint] = []
        stop: Stop | None = None
        known = list(self.checkpoints.get(config.number, []))
        for index in range(0 if config.evaluate_base else 1, N_EVALUATIONS + 1):
            again = next((point for point in known if point.index == index), None)
            point = again or evaluation(config, index)
            points = thinned([*points, point], config.objective, config.row_nlls_at)
            if index == 0 and known:
                continue
            stop = yield point
            # Seldom enough that a trial goes on from before its last evaluation.
            if index % 3 == 0 or (stop and stop.outcome in GOES_ON):
                self.checkpoints[config.number] = list(points)
            if stop is not None:
                break
        curve = [point for point in points if point.index > 0]
        finite = [point for point in curve if math.isfinite(point.value)]
        result = TrialResult(
            outcome=stop.outcome if stop else "completed",
            reason=stop.reason if stop else "Ran to its end.",
            best=min(finite, key=lambda point: point.value, default=None),
        )
        if result.outcome not in GOES_ON:
            self.written[config.number] = result, points
        return result


class InTurn:
    """A runner whose slots take turns, an evaluation each: what happens follows from the study."""

    def __init__(self, trials: Trials, n_slots: int) -> None:
        self._trials, self._n_slots = trials, n_slots
        self._running: dict[int, Generator[EvalPoint, Stop | None, TrialResult]] = {}
        self._verdicts: dict[int, Stop | None] = {}
        self._events: list[RunnerEvent] = []
        self._turn = 0

    @property
    def n_free(self) -> int:
        return self._n_slots - len(self._running)

    def start(self, number: int, config: TrialConfig) -> None:
        self._running[number] = self._trials.run(config)
        self._events.append(Started(config, Place("here", "none")))

    def wait(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
        if self._events:
            yield self._events.pop(0)
            return
        self._turn += 1
        number = sorted(self._running)[self._turn % len(self._running)]
        trial, verdict = self._running[number], self._verdicts.pop(number, None)
        try:
            point = trial.send(verdict)  # None, of one that begins
        except StopIteration as end:
            del self._running[number]
            yield Ended(number, end.value)
        else:
            yield Reported(number, point, partial(self._verdicts.__setitem__, number))


class Watched(Sweep):
    """A sweep that keeps its verdicts, and sees that each pause follows from the study.

    Args:
        verdicts: By trial and evaluation; those to come are added.
    """

    def __init__(
        self,
        space: Space,
        study: optuna.Study,
        verdicts: Mapping[tuple[int, int], list[Stop | None]],
    ) -> None:
        super().__init__(space, study, resolver(space))
        self._verdicts = verdicts

    def report(self, number: int, point: EvalPoint) -> Stop | None:
        """As a sweep does."""
        stop = super().report(number, point)
        before = self._verdicts[number, point.index]
        if stop is not None and stop.outcome == "paused" and not before:
            assert why_paused(self._space, self._study, number, point), (number, point.index)
        before.append(stop)
        return stop


def why_paused(space: Space, study: optuna.Study, number: int, point: EvalPoint) -> str | None:
    """Say, from what the study holds alone, why a trial may be paused (Li et al., algorithm 2)."""
    assert space.settings.pruning.outclassed
    factor, min_peers = 3, space.settings.pruning.outclassed.min_peers
    reached = {}
    for trial in study.trials:
        finite = {i: v for i, v in trial.intermediate_values.items() if math.isfinite(v)}
        if max(finite, default=0) >= point.index:
            is_lost = trial.user_attrs.get(attributes.OUTCOME) in WITHOUT_VALUE
            best = min(value for index, value in finite.items() if index <= point.index)
            reached[trial.number] = math.inf if is_lost else best
    if len(reached) <= min_peers:
        return "too few"
    in_order = sorted((value, at) for at, value in reached.items())
    last, at = in_order[max(1, len(reached) // factor) - 1]
    other = resolve(0, study.trials[at].user_attrs[attributes.POINT], evaluate_base=False)
    mine, theirs = rows_of(point), rows_of(evaluation(other, point.index))
    own, error = reached[number], standard_error(mine, theirs) if mine and theirs else None
    is_worse = own > last and (error is None or own - last > error)
    return "worse" if is_worse else None


class Process:
    """Runs of one sweep, each in a process of its own, which may be killed.

    Args:
        n_slots: Trials that run at once.
        fails: Whether all its trials do.
    """

    def __init__(self, space: Space, n_slots: int = 1, *, fails: bool = False) -> None:
        self.space, self.n_slots, self.trials = space, n_slots, Trials(fails)
        self.verdicts: dict[tuple[int, int], list[Stop | None]] = defaultdict(list)
        """Of each trial and evaluation those that were acted on, in all its runs."""
        self._storage = PatientStorage("sqlite:///:memory:", Patience())
        self._left = math.inf
        self.n_writes = 0
        sqlalchemy.event.listen(self._storage.engine, "commit", self._write)

    def _write(self, connection: object) -> None:
        self.n_writes += 1
        self._left -= 1
        if self._left < 0:
            raise Killed

    def run(self, kill_at: float = math.inf) -> str | None:
        """Run the sweep to its end, and say why it ended; None: it was about to write so often."""
        self._left = kill_at
        try:
            study = open_study(self.space, self._storage, self.trials.written.get)
            sweep = Watched(self.space, study, self.verdicts)
            settings = self.space.settings.budget
            budget = Budget(settings.trials, None, stop_when_flat=settings.stop_when_flat)
            return run(sweep, InTurn(self.trials, self.n_slots), budget).name
        except Killed:
            return None
        except SweepFailed as error:
            return str(error)
        finally:
            self._left = math.inf

    def stored(self) -> list[FrozenTrial]:
        """The study's trials, as its database has them."""
        return optuna.load_study(study_name=self.space.name, storage=self._storage).trials

    def found(self) -> dict[int, dict[str, Any]]:
        """All that the study knows of each trial, NaN as text, so that it equals itself."""
        return {
            trial.number: {
                "state": trial.state.name,
                "params": trial.params,
                "values": repr(trial.values),
                "evaluations": {i: repr(v) for i, v in trial.intermediate_values.items()},
                "paused": trial.user_attrs.get(attributes.PAUSED),
                **{name: repr(trial.user_attrs.get(name)) for name in KEPT},
            }
            for trial in self.stored()
        }


def resumed(space: Space, moment: int, *, n_slots: int, fails: bool = False) -> Process:
    """Run a sweep that is killed at a moment, and mostly once more soon after it goes on."""
    process = Process(space, n_slots, fails=fails)
    process.run(kill_at=moment)
    if moment % 3:
        process.run(kill_at=moment % 29)
    process.run()
    return process
