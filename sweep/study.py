"""`Sweep`: ask → TrialConfig, report → verdict, tell. The Optuna study lives here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweep.loop import Place
from sweep.pruners import ByItself, Outclassed, make_outclassed
from sweep.resolve import Resolve
from sweep.space import Space
from sweep.view import POINT, enqueue_starts, n_points_tried, next_trial
from trials.config import EvalPoint, Outcome, Stop, TrialConfig, TrialResult

STATES: Mapping[Outcome, TrialState] = {
    "completed": TrialState.COMPLETE,
    # What an overfit trial is worth is known: its best eval loss. Told PRUNED, it would teach the
    # sampler to stay away from what may be the best point of the study.
    "overfit": TrialState.COMPLETE,
    "diverged": TrialState.PRUNED,
    "outclassed": TrialState.PRUNED,
    # The sampler never sees FAIL and would draw the same corner again; a constraint it sees.
    "out_of_memory": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}

COUNTS = frozenset(o for o, state in STATES.items() if state is TrialState.COMPLETE)
"""Outcomes of trials whose best eval loss counts."""

SAME_CAUSE_LIMIT = 5
"""So many failures in a row with one cause are not bad luck."""


class StudyError(ValueError):
    """A study that cannot be opened or continued, in words for the user."""


class SweepFailed(RuntimeError):
    """The sweep cannot go on; says why."""


class Tracker(Protocol):
    """Hears of everything that happens to a trial, in order. MLflow is one, the screen another."""

    def trial_started(self, config: TrialConfig, place: Place) -> None:
        """Trial `config.number` has a slot and begins (or begins again after an interruption)."""

    def trial_reported(self, number: int, point: EvalPoint) -> None:
        """An evaluation of a running trial."""

    def trial_ended(self, number: int, result: TrialResult) -> None:
        """The trial has ended, whatever its outcome."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial that has ended, as the study remembers it."""

    number: int
    hyperparameters: dict[str, Any]
    outcome: Outcome
    reason: str
    eval_loss_best: float | None
    seconds: float


def open_study(space: Space, storage: str) -> optuna.Study:
    """Create the study of a space, or open the one that is there.

    Trials that a dead process left running are put back in the queue: they run again under the
    same number, with the same parameters and seed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=space.name,
        storage=storage,
        # Verdicts are ours (`Sweep.report`); Optuna's own is never asked.
        pruner=optuna.pruners.NopPruner(),
        direction="minimize",
        load_if_exists=True,
    )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        put_back(study, trial)
    return study


def sample_rows_so_far(space: Space, output_dir: Path) -> int | None:
    """Eval rows of each evaluation in the study that goes on; None: it is for `prepare` to say.

    They follow from the shortest trial that is searched. When the search changes they stay, or
    later losses would not compare with earlier ones.
    """
    if not (output_dir / "study.db").exists():
        return None
    try:
        study = optuna.load_study(study_name=space.name, storage=storage_url(output_dir.resolve()))
    except KeyError:  # a study that was never opened
        return None
    known = study.user_attrs
    if known.get("evaluate_rows") != space.settings.evaluate.rows:
        return None
    n_rows: int = known["task"]["sample_rows"]
    return n_rows


def put_back(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put a trial that was cut off back in the queue, under its number and with its parameters.

    Optuna has no public call for it; its own queue is made of WAITING trials.
    """
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


class Sweep:
    """The study of one sweep: what to try next, when to stop a trial, what was learnt.

    Set `trackers` before the first trial: they hear of everything, in order, after the study has.
    """

    def __init__(
        self,
        space: Space,
        study: optuna.Study,
        resolve: Resolve,
    ) -> None:
        pruning = space.settings.pruning
        self._space = space
        self._study = study
        self._resolve = resolve
        self.trackers: Sequence[Tracker] = ()
        self._by_itself = ByItself(pruning, n_evaluations=space.settings.evaluate.times)
        self._outclassed: Outclassed | None = (
            make_outclassed(pruning.outclassed) if pruning.outclassed else None
        )
        self._running: dict[int, optuna.Trial] = {}
        self._curves: dict[int, list[EvalPoint]] = {}
        self._heard_of: set[int] = set()
        """Running trials that trackers have heard of: those that have begun."""
        self._causes: list[str] = []
        self._measures_base: int | None = None
        """The running trial that measures the base model before its first step."""
        enqueue_starts(study, space)

    @property
    def base_eval_loss(self) -> float | None:
        """The base model's own eval loss; None until the first trial has measured it."""
        loss: float | None = self._study.user_attrs.get("base_eval_loss")
        return loss

    @property
    def running(self) -> list[int]:
        """Numbers of the trials that run."""
        return sorted(self._running)

    def n_ended(self) -> int:
        """Trials that have ended, whatever their outcome."""
        return sum(trial.state.is_finished() for trial in self._study.get_trials(deepcopy=False))

    def n_waiting(self) -> int:
        """Trials that were cut off and wait to be continued."""
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return sum(POINT in trial.user_attrs for trial in waiting)

    def is_exhausted(self) -> bool:
        """Whether every point of the space, as it is now, has been tried or is being tried."""
        if math.isinf(self._space.n_points):
            return False
        if self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return False
        return n_points_tried(self._study, self._space) >= self._space.n_points

    def ask(self) -> tuple[int, TrialConfig]:
        """Return the next trial: one put back, one of `start_with`, or the sampler's choice."""
        trial = next_trial(self._study, self._space)
        measures_base = self.base_eval_loss is None and self._measures_base is None
        config = self._resolve(trial.number, trial.user_attrs[POINT], measures_base)
        if measures_base:
            self._measures_base = trial.number
        self._running[trial.number] = trial
        self._curves[trial.number] = []
        return trial.number, config

    def started(self, config: TrialConfig, place: Place) -> None:
        """Pass on that a trial has its slot."""
        self._heard_of.add(config.number)
        for tracker in self.trackers:
            tracker.trial_started(config, place)

    def report(self, number: int, point: EvalPoint) -> Stop | None:
        """Take an evaluation of a running trial and return the verdict: None to go on.

        A point that the study has already (of a trial that began again) is not judged twice.
        """
        trial, curve = self._running[number], self._curves[number]
        if curve and point.index <= curve[-1].index:
            return None
        if point.index == 0:
            self._study.set_user_attr("base_eval_loss", point.eval_loss)
        else:
            curve.append(point)
            known = self._study.get_trials(deepcopy=False)[number].intermediate_values
            is_new = point.index not in known
            if is_new:
                trial.report(point.eval_loss, point.index)
            verdict = self._verdict(trial, curve, is_new)
            for tracker in self.trackers:
                tracker.trial_reported(number, point)
            return verdict
        for tracker in self.trackers:
            tracker.trial_reported(number, point)
        return None

    def _verdict(
        self, trial: optuna.Trial, curve: Sequence[EvalPoint], is_new: bool
    ) -> Stop | None:
        if stop := self._by_itself.verdict(curve, self.base_eval_loss):
            return stop
        if curve[-1].index == self._space.settings.evaluate.times:
            return None  # the run is over: nothing is left to save
        if self._outclassed and is_new:
            reason = self._outclassed.reason(self._study, trial, curve[-1])
            if reason:
                return Stop(outcome="outclassed", reason=reason)
        return None

    def tell(self, number: int, result: TrialResult) -> None:
        """Take the end of a trial into the study, and pass it on.

        Raises:
            SweepFailed: So many trials in a row failed with one cause that more would too.
        """
        trial = self._running.pop(number)
        curve = self._curves.pop(number)
        if self._measures_base == number:
            self._measures_base = None  # another one must, if it ended before it had
        if result.outcome == "interrupted":
            put_back(self._study, self._study.get_trials(deepcopy=False)[number])
        else:
            self._tell_ended(trial, curve, _checked(result))
        if number in self._heard_of:  # an interrupted trial may not have begun
            self._heard_of.discard(number)
            for tracker in self.trackers:
                tracker.trial_ended(number, _checked(result))
        self._give_up_on_repeated_failure(_checked(result))

    def _tell_ended(
        self, trial: optuna.Trial, curve: Sequence[EvalPoint], result: TrialResult
    ) -> None:
        trial.set_user_attr("outcome", result.outcome)
        trial.set_user_attr("outcome_reason", result.reason)
        trial.set_user_attr("curve", json.loads(json.dumps([asdict(point) for point in curve])))
        trial.set_user_attr("seconds", result.training_seconds + result.evaluation_seconds)
        if result.best is not None:
            trial.set_user_attr("eval_loss_best", result.best.eval_loss)
        trial.set_constraint("memory", 1.0 if result.outcome == "out_of_memory" else -1.0)
        state = STATES[result.outcome]
        value = result.best.eval_loss if result.best and state is TrialState.COMPLETE else None
        self._study.tell(trial, value, state=state)

    def _give_up_on_repeated_failure(self, result: TrialResult) -> None:
        if result.outcome == "interrupted":
            return
        if result.outcome != "failed":
            self._causes.clear()
            return
        self._causes.append(result.cause or result.reason)
        latest = self._causes[-SAME_CAUSE_LIMIT:]
        if len(latest) == SAME_CAUSE_LIMIT and len(set(latest)) == 1:
            raise SweepFailed(
                f"{SAME_CAUSE_LIMIT} trials in a row failed with the same cause, so the sweep "
                f"ends: {latest[-1]}"
            )

    def interrupt(self) -> None:
        """Put every running trial back in the queue; trackers hear of it."""
        for number in self.running:
            self.tell(
                number,
                TrialResult(
                    outcome="interrupted",
                    reason="The sweep was stopped; run the same command to continue it.",
                ),
            )

    def ended(self) -> list[Ended]:
        """All trials that have ended, by number."""
        return [
            Ended(
                number=trial.number,
                hyperparameters=trial.user_attrs[POINT],
                outcome=trial.user_attrs["outcome"],
                reason=trial.user_attrs["outcome_reason"],
                eval_loss_best=trial.user_attrs.get("eval_loss_best"),
                seconds=trial.user_attrs["seconds"],
            )
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.is_finished()
        ]

    def ranked(self) -> list[Ended]:
        """Trials with an honest value (completed, overfit), the lowest eval loss first."""
        valued = [
            trial
            for trial in self.ended()
            if trial.outcome in COUNTS and trial.eval_loss_best is not None
        ]
        return sorted(valued, key=lambda trial: (trial.eval_loss_best, trial.number))


def _checked(result: TrialResult) -> TrialResult:
    """A run that ended without one finite eval loss has no value: it failed, and says so."""
    if result.outcome in COUNTS and result.best is None:
        return TrialResult(
            outcome="failed",
            reason=f"No evaluation gave a finite eval loss. {result.reason}",
            cause="no finite eval loss",
            micro_batch_size=result.micro_batch_size,
            gradient_checkpointing=result.gradient_checkpointing,
            training_seconds=result.training_seconds,
            evaluation_seconds=result.evaluation_seconds,
        )
    return result


def storage_url(output_dir: Path) -> str:
    """The study's own sqlite file in the sweep's folder."""
    return f"sqlite:///{output_dir / 'study.db'}"
