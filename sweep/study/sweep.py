"""`Sweep`: ask → TrialConfig, report → verdict, tell. The Optuna study lives here."""

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweep.clock import WORK
from sweep.errors import SweepFailed
from sweep.events import UNKNOWN, Place, Tracker
from sweep.pruners.own_curve import ByItself, stopped_by_hand
from sweep.pruners.peers import WITHOUT_VALUE, make_rivals, rungs_of
from sweep.space.space import Space
from sweep.storage import attributes
from sweep.storage.attributes import POINT, as_ranges, from_ranges, point_of
from sweep.storage.mirror import together
from sweep.storage.optuna_private import put_back
from sweep.study.base_model import BaseMeasured
from sweep.study.ended import AllEnded, StoredTrial, tell_ended
from sweep.study.next_trial import View, enqueue_starts
from sweep.study.opening import checked_result
from sweep.study.paused import PausedTrials
from sweep.study.told import cause_of, causes_in_a_row
from sweep.study.trial_config import Resolve
from sweep.text.trials import an
from trials.config import GOES_ON, EvalPoint, Outcome, Stop, TrialConfig, TrialResult
from trials.evaluation.row_nlls import thinned
from trials.trial_folder import result_of

SAME_CAUSE_LIMIT = 5
"""So many failures in a row with one cause are not bad luck."""
RUNS_AGAIN = 2
"""So many times at most, when its process or machine is lost: more often it may be the trial."""
NOTED_EVERY_SECONDS = 5.0
"""GPU seconds are written down this often at most: a thousand GPUs report many times a second."""


class Sweep:
    """The study of one sweep: what to try next, when to stop a trial, what was learnt.

    Set `trackers` before the first trial: they hear of everything, in order, after the study has.

    Args:
        is_asked_to_prune: Whether a person wants trial `number` to end.
    """

    def __init__(
        self,
        space: Space,
        study: optuna.Study,
        resolve: Resolve,
        is_asked_to_prune: Callable[[int], bool] = lambda number: False,
    ) -> None:
        self._space = space
        self._study = study
        self._resolve = resolve
        self._is_asked_to_prune = is_asked_to_prune
        self.objective = space.objective
        self.trackers: Sequence[Tracker] = ()
        self._by_itself = ByItself.of(space)
        self._running: dict[int, optuna.Trial] = {}
        self._curves: dict[int, list[EvalPoint]] = {}
        self._heard_of: set[int] = set()
        """Running trials that trackers have heard of: those that have begun."""
        self._ended = AllEnded(study, space.objective)
        self._paused = PausedTrials(study)
        self._rivals = make_rivals(space, study)
        self._rows_at = rungs_of(space)
        known = study.user_attrs
        # Whoever runs a sweep again that has given up has mended something.
        self._causes = [] if self.noted[0] == "failed" else causes_in_a_row(study)
        self._passed_on = from_ranges(known.get(attributes.PASSED_ON, []))
        self.base = BaseMeasured(study, space.name)
        self._gpu_seconds = float(known.get(attributes.GPU_SECONDS, 0.0))
        self._gpu_seconds_noted = 0.0
        """When they were written down last."""
        self._counted_until: dict[int, float] = {}
        self._wall_before = float(known.get(attributes.WALL_SECONDS, 0.0))
        self._began: float | None = None
        """When this run's first trial began."""
        enqueue_starts(study, space)
        self._view = View(study, space)

    @property
    def task(self) -> dict[str, Any]:
        """What all its trials share (`sweep.study.task`)."""
        return dict(self._study.user_attrs[attributes.TASK])

    @property
    def running(self) -> list[int]:
        return sorted(self._running)

    def n_ended(self) -> int:
        return len(self._ended)

    def n_waiting(self) -> int:
        """Trials that were cut off and wait to be continued."""
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return sum(POINT in trial.user_attrs for trial in waiting)

    @property
    def paused(self) -> list[StoredTrial]:
        trials = self._study.get_trials(deepcopy=False)
        return [StoredTrial.of(trials[number], self.objective) for number in sorted(self._paused)]

    def n_paused(self) -> int:
        return len(self._paused)

    def promising(self, *, is_last: bool) -> int | None:
        if not is_last and self.n_waiting():
            return None  # those that were cut off had begun before
        return self._paused.promising(self._rivals, self._is_asked_to_prune, is_last=is_last)

    def queued(self) -> dict[int, float]:
        """Epochs of the trials that wait, by number: those cut off, and those of `start_with`."""
        return self._view.queued()

    def is_exhausted(self) -> bool:
        """Whether every point of the space, as it is now, has been tried or is being tried."""
        if len(self._study.get_trials(deepcopy=False)) < self._space.n_points:
            return False
        if self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return False
        return self._view.n_points_tried() >= self._space.n_points

    def ask(self, paused: int | None = None) -> tuple[int, TrialConfig]:
        """Return the next trial: the paused one of that number, one put back, one of `start_with`,
        or the sampler's choice.

        Raises:
            SweepFailed: As `tell`, of trials that an earlier process was told of.
        """
        self._give_up_on_repeated_failure()
        trial = self._view.next_trial() if paused is None else self._paused.take_up(paused)
        measures_base = self.base.is_measured_by(trial.number)
        config = self._resolve(trial.number, point_of(trial) or {}, measures_base)
        self._running[trial.number] = trial
        self._curves[trial.number] = []
        return trial.number, config

    def started(self, config: TrialConfig, place: Place) -> None:
        self._heard_of.add(config.number)
        if self._began is None:
            self._began = WORK.now()
        self._counted_until[config.number] = WORK.now()
        for tracker in self.trackers:
            tracker.trial_started(config, place)

    def report(self, number: int, point: EvalPoint) -> Stop | None:
        """Take an evaluation of a running trial and return the verdict: None to go on.

        A point that the study has already (of a trial that began again) is not judged twice: what
        its peers' verdict was came into the study with it.

        Raises:
            SweepFailed: An earlier version had another loss of the base model.
        """
        trial, curve = self._running[number], self._curves[number]
        self._count_gpu_seconds(number)
        if curve and point.index <= curve[-1].index:
            return None
        verdict = None
        if point.index == 0:
            self.base.take(point)
        else:
            curve.append(replace(point, step_losses=None))
            curve[:] = thinned(curve, self.objective, self._rows_at)
            verdict = self._verdict(trial, curve)
        for tracker in self.trackers:
            tracker.trial_reported(number, point)
        return verdict

    def _verdict(self, trial: optuna.Trial, curve: Sequence[EvalPoint]) -> Stop | None:
        is_at_rung = self._rivals.hear(trial.number, curve)
        stored = self._study.get_trials(deepcopy=False)[trial.number]
        if curve[-1].index in stored.intermediate_values:
            return self._by_itself_or_hand(trial, curve) or _noted_stop(stored, curve)
        with together(self._study):
            trial.report(curve[-1].value, curve[-1].index)
            if is_at_rung:  # for those who are compared with it while it is not back yet
                trial.set_user_attr(attributes.CURVE, [asdict(point) for point in curve])
            stop = self._by_itself_or_hand(trial, curve)
            if stop is None and not self._is_over(curve):
                stop = self._rivals.verdict(self._study, trial, curve[-1])
                if stop is not None:
                    trial.set_user_attr(attributes.STOP, [curve[-1].index, asdict(stop)])
        return stop

    def _by_itself_or_hand(self, trial: optuna.Trial, curve: Sequence[EvalPoint]) -> Stop | None:
        scheduler = str(trial.user_attrs[POINT]["lr_scheduler"])
        if stop := self._by_itself.verdict(curve, self.base.eval_loss, scheduler):
            return stop
        if self._is_over(curve):
            return None
        if self._is_asked_to_prune(trial.number):
            return stopped_by_hand(curve[-1], self._space.settings.evaluate.times)
        return None

    def _is_over(self, curve: Sequence[EvalPoint]) -> bool:
        """Whether nothing of a run is left to save."""
        return curve[-1].index == self._space.settings.evaluate.times

    def tell(self, number: int, result: TrialResult) -> bool:
        """Take the end of a trial into the study, and pass it on.

        A trial that was cut off, or ended by a fault that is not its own, is put back in the queue;
        one that was paused waits.

        Returns:
            Whether it has ended for good.

        Raises:
            SweepFailed: So many trials in a row failed with one cause that more would too; or the
            prepared rows were changed.
        """
        self._count_gpu_seconds(number)
        self._counted_until.pop(number, None)
        trial = self._running.pop(number)
        curve = self._curves.pop(number)
        self.base.ended(number)
        result = self._after_a_fault(trial, checked_result(result))
        has_ended = result.outcome not in GOES_ON
        if has_ended:
            self._ended.add(tell_ended(trial, curve, result))
            if result.outcome in WITHOUT_VALUE:
                self._rivals.lost(number)
        elif result.outcome == "paused":
            self._paused.add(trial, curve, result)
            self._ended.pause(number)
        else:
            put_back(self._study, trial)
        if number in self._heard_of:  # an interrupted trial may not have begun
            self._heard_of.discard(number)
            for tracker in self.trackers:
                tracker.trial_ended(number, result)
        if has_ended:
            self._note_passed_on(number)
        self._note_cause(result)
        self._give_up_on_repeated_failure()
        if result.fault == "rows_changed":
            raise SweepFailed(result.reason)
        return has_ended

    def end_paused(self) -> None:
        for number, paused in sorted(self._paused.items()):
            share = paused.curve[-1].index / self._space.settings.evaluate.times
            reason = f"Never resumed. {self._rivals.standing(number)}".rstrip()
            outcome: Outcome = "outclassed"
            if number in self._paused.unwanted or self._is_asked_to_prune(number):
                outcome, reason = "stopped", f"Stopped by hand while paused at {share:.0%}."
            result = replace(paused.result, outcome=outcome, reason=reason)
            trial = self._paused.take_out(number)
            self._ended.add(tell_ended(trial, paused.curve, result))
            for tracker in self.trackers:
                tracker.trial_ended(number, result)
            self._note_passed_on(number)

    def _after_a_fault(self, trial: optuna.Trial, result: TrialResult) -> TrialResult:
        """What a failure is once it is known whose it was."""
        if result.fault is None:
            return result
        cause = result.reason.splitlines()[0].rstrip(".")
        words = f"{cause}. Runs again."
        if result.fault == "machine_lost":
            n_lost = int(trial.user_attrs.get(attributes.N_LOST, 0)) + 1
            trial.set_user_attr(attributes.N_LOST, n_lost)
            if n_lost > RUNS_AGAIN:
                reason = f"Given up after being lost {n_lost} times, last: {result.reason}"
                return replace(result, reason=reason, fault=None)
            words = f"{cause}. Runs again (retry {n_lost} of {RUNS_AGAIN})."
        return replace(result, outcome="interrupted", reason=words)

    def catch_up(self) -> None:
        """Let trackers hear of trials that ended, or were paused, when nobody lived to tell them.

        They hear some twice, and must not mind.
        """
        for number, paused in self._paused.items():
            self._pass_on(number, paused.trial.user_attrs[POINT], paused.curve, paused.result)
        for trial in self._study.get_trials(deepcopy=False):
            if not trial.state.is_finished() or trial.number in self._passed_on:
                continue
            points = [EvalPoint(**point) for point in trial.user_attrs[attributes.CURVE]]
            result = result_of(trial.user_attrs[attributes.RESULT])
            self._pass_on(trial.number, trial.user_attrs[POINT], points, result)
            self._note_passed_on(trial.number)

    def _pass_on(
        self, number: int, point: Mapping[str, Any], curve: Sequence[EvalPoint], result: TrialResult
    ) -> None:
        config = self._resolve(number, point, False)
        for tracker in self.trackers:
            tracker.trial_started(config, Place(UNKNOWN, UNKNOWN))
            for evaluation in curve:
                tracker.trial_reported(number, evaluation)
            tracker.trial_ended(number, result)

    def _note_passed_on(self, number: int) -> None:
        self._passed_on.add(number)
        self._study.set_user_attr(attributes.PASSED_ON, as_ranges(self._passed_on))

    def has_untold(self) -> bool:
        """Whether trackers were not told of the end of a trial, or of the sweep's."""
        return len(self._passed_on) < self.n_ended() or self.noted[0] == "running"

    def note(self, state: str, reason: str) -> None:
        """Write down how the sweep is, and how long it took; `sweep status` reads it."""
        self._study.set_user_attr(attributes.STATE, [state, reason, time.time()])
        # What comes after the last trial, the final evaluation above all, takes time as well.
        self._study.set_user_attr(attributes.WALL_SECONDS, self.wall_seconds())

    @property
    def noted(self) -> tuple[str, str, float]:
        """What was noted last: the state, the reason, when (seconds of the epoch)."""
        state, reason, when = self._study.user_attrs.get(attributes.STATE, ["not begun", "", 0.0])
        return state, reason, when

    def gpu_seconds(self) -> float:
        """Time in which slots held trials, over all runs of the sweep, times the GPUs of a trial.

        On processors a worker counts as one. What a killed process had not yet written is missing:
        at most the time since the last evaluation, and five seconds.
        """
        now = WORK.now()
        # The live table asks from its own thread.
        held = sum(now - since for since in list(self._counted_until.values()))
        return self._gpu_seconds + held * self._space.settings.gpus_per_trial

    def wall_seconds(self) -> float:
        """Return how long its commands have run, from the first trial of each on, all together."""
        now = WORK.now()
        return self._wall_before + (0.0 if self._began is None else now - self._began)

    def _count_gpu_seconds(self, number: int) -> None:
        if number not in self._counted_until:
            return
        now = WORK.now()
        held = now - self._counted_until[number]
        self._counted_until[number] = now
        self._gpu_seconds += held * self._space.settings.gpus_per_trial
        if now - self._gpu_seconds_noted >= NOTED_EVERY_SECONDS or len(self._counted_until) == 1:
            self._gpu_seconds_noted = now
            self._study.set_user_attr(attributes.GPU_SECONDS, self._gpu_seconds)
            self._study.set_user_attr(attributes.WALL_SECONDS, self.wall_seconds())

    def is_flat(self, n_trials: int) -> bool:
        """As `AskTell`; not while a trial waits that was cut off: undisturbed it would have run."""
        return not self.n_waiting() and self._ended.is_flat(n_trials)

    def _note_cause(self, result: TrialResult) -> None:
        if result.outcome == "failed":
            self._causes.append(cause_of(result))
        elif result.outcome != "interrupted":
            self._causes.clear()

    def _give_up_on_repeated_failure(self) -> None:
        latest = self._causes[-SAME_CAUSE_LIMIT:]
        if len(latest) == SAME_CAUSE_LIMIT and len(set(latest)) == 1:
            raise SweepFailed(
                f"The sweep ends: {SAME_CAUSE_LIMIT} trials in a row failed with the same cause: "
                f"{latest[-1]}"
            )

    def why_failed(self) -> str | None:
        """Say why all trials have come to nothing; None: one has a value that counts."""
        if not self._ended or self.ranked(1):
            return None
        return f"No trial reached {an(self.objective)} that counts."

    def interrupt(self) -> None:
        """Put every running trial back in the queue; trackers hear of it."""
        words = "The sweep was stopped; the same command resumes it."
        for number in self.running:
            self.tell(number, TrialResult(outcome="interrupted", reason=words))

    def config_of(self, trial: StoredTrial) -> TrialConfig:
        """Return the configuration that an ended trial had."""
        return self._resolve(trial.number, trial.hyperparameters, False)

    def ended(self) -> list[StoredTrial]:
        return self._ended.by_number()

    def numbers_ended(self) -> Set[int]:
        return self._ended.numbers

    def ranked(self, n: int | None = None) -> list[StoredTrial]:
        return self._ended.ranked(n)


def _noted_stop(trial: FrozenTrial, curve: Sequence[EvalPoint]) -> Stop | None:
    """The verdict of its peers on a trial's latest evaluation that it has not acted on."""
    index, stop = trial.user_attrs.get(attributes.STOP) or (None, {})
    return Stop(**stop) if index == curve[-1].index else None
