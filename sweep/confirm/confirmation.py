"""`sweep confirm`: the best trials trained again, with other seeds, judged by all eval rows.

What a sweep calls its winner had one seed and a sample of the eval rows, and was the lowest of
many: part of its lead is luck. Here each of the best has the same new seeds.

Everything lies below `confirm/` of the sweep's folder: `plan.json`, the runs in their order; each
in `trials/NNN/`, as a trial of a sweep does. So whatever has ended is not run again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sweep.confirm.plan import Run
from sweep.errors import SweepFailed
from sweep.events import Place, Tracker
from sweep.pruners.own_curve import ByItself, stopped_by_hand
from sweep.study.ask_tell import AskTell
from sweep.study.known_runs import KnownRuns
from trials.config import EvalPoint, Stop, TrialConfig, TrialResult
from trials.trial_folder import write_result


@dataclass
class Confirmation(AskTell):
    """The runs: a study whose points are known beforehand.

    Args:
        runs: All that are wanted; those that have ended are not asked for.
        by_itself: Ends runs that diverge or overfit, as in the sweep. Nothing is compared with
            its peers while it runs: that would bend the means.
    """

    runs: Sequence[Run]
    by_itself: ByItself
    trackers: Sequence[Tracker] = ()
    base_eval_loss: float | None = None
    is_asked_to_prune: Callable[[int], bool] = lambda number: False
    """Whether a person wants run `number` to end."""

    def __post_init__(self) -> None:
        self._known = KnownRuns(run.config for run in self.runs if run.result is None)
        self._curves: dict[int, list[EvalPoint]] = {}
        self._heard_of: set[int] = set()
        """Running ones that trackers have heard of: those that have begun."""
        self._n_ended = len(self.runs) - len(self._known.waiting)

    def ask(self, paused: int | None = None) -> tuple[int, TrialConfig]:
        config = self._known.ask()
        self._curves[config.number] = []
        return config.number, config

    def started(self, config: TrialConfig, place: Place) -> None:
        self._heard_of.add(config.number)
        for tracker in self.trackers:
            tracker.trial_started(config, place)

    def report(self, number: int, point: EvalPoint) -> Stop | None:
        curve = self._curves[number]
        if curve and point.index <= curve[-1].index:
            return None  # it goes on after a checkpoint
        stop = None
        if point.index == 0:
            self.base_eval_loss = point.eval_loss
        else:
            curve.append(replace(point, step_losses=None))
            config = self._known.running[number]
            n_evaluations = config.n_evaluations
            stop = self.by_itself.verdict(curve, self.base_eval_loss, config.lr_scheduler)
            if stop is None and point.index < n_evaluations and self.is_asked_to_prune(number):
                stop = stopped_by_hand(point, n_evaluations)
        for tracker in self.trackers:
            tracker.trial_reported(number, point)
        return stop

    def tell(self, number: int, result: TrialResult) -> bool:
        """Take the end of a run; one that was cut off, or lost its machine, goes on later.

        Raises:
            SweepFailed: The prepared rows were changed.
        """
        curve = self._curves.pop(number)
        config, result = self._known.tell(number, result)
        has_ended = result.outcome != "interrupted"
        if result.outcome == "failed":  # whoever reads it later should know; a failure wrote none
            write_result(config, result, curve)
        self._n_ended += has_ended
        if number in self._heard_of:  # an interrupted run may not have begun
            self._heard_of.discard(number)
            for tracker in self.trackers:
                tracker.trial_ended(number, result)
        if result.fault == "rows_changed":
            raise SweepFailed(result.reason.splitlines()[0])
        return has_ended

    def interrupt(self) -> None:
        """Let trackers hear that runs which still run do not run any more."""
        words = "Interrupted; the same command resumes it."
        for number in self.running:
            self.tell(number, TrialResult(outcome="interrupted", reason=words))

    @property
    def running(self) -> list[int]:
        return sorted(self._known.running)

    def why_failed(self) -> str | None:
        return None  # runs that failed are told with the rest

    def n_ended(self) -> int:
        return self._n_ended

    def is_exhausted(self) -> bool:
        return not self._known.waiting
