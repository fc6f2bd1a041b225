"""What every screen knows: running trials, ended ones, and how long the rest will take."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sweep.clock import WORK
from sweep.events import Place
from sweep.pruners.asha import rung_indices
from sweep.screen.leaders import Leaders
from sweep.screen.pace import EARLY, Expected, Pace, Rungs
from sweep.screen.time_left import Left, Rest, time_left
from sweep.space.domains import Choices
from sweep.space.space import Space
from sweep.study.budget import Budget
from sweep.study.ended import StoredTrial
from sweep.text.numbers import duration
from sweep.workers.usage import Usage
from trials.config import BY_EVAL_LOSS, GOES_ON, EvalPoint, Objective, TrialConfig, TrialResult


@dataclass
class Running:
    """A trial with a slot. No `StoredTrial`: its place and clock are the live screen's alone."""

    config: TrialConfig
    place: Place
    began: float
    point: EvalPoint | None = None
    """Its latest evaluation."""
    reported: float = 0.0
    """When that came."""
    eval_losses: list[float] = field(default_factory=list)
    """Since it has its slot."""
    best: float | None = None
    """The best objective since then."""

    @property
    def index(self) -> int:
        """Of its latest evaluation; 0 before the first."""
        return self.point.index if self.point else 0

    @property
    def whole_seconds(self) -> float | None:
        """Of its whole run, by the share that is done; None before the first evaluation."""
        if self.point is None:
            return None
        return self.point.seconds * self.config.n_evaluations / self.point.index

    def seconds_left(self, now: float) -> float | None:
        """To the end of its whole run; None before the first evaluation."""
        if (whole := self.whole_seconds) is None:
            return None
        share_left = 1 - self.index / self.config.n_evaluations
        return max(0.0, whole * share_left - (now - self.reported))


@dataclass(frozen=True, slots=True)
class _Pause:
    """How far a trial had come when it was paused."""

    index: int
    seconds: float


class Progress:
    """A sweep as its trackers hear of it.

    Args:
        budget: Of the sweep.
        earlier: Trials that had ended before this run.
        base_eval_loss: The base model's own, where it is known already.
        queued: Epochs of trials that wait in the study's queue, by their numbers.
        paused: Trials that are paused.
        gpu_seconds: That trials have used over all runs of the sweep, until now.
        gpus_per_trial: As in the space.
        objective: What trials are judged by.
        expected: What is believed of the trials.
    """

    def __init__(
        self,
        budget: Budget,
        earlier: Sequence[StoredTrial] = (),
        base_eval_loss: float | None = None,
        clock: Callable[[], float] = WORK.now,
        *,
        queued: Mapping[int, float] | None = None,
        paused: Iterable[StoredTrial] = (),
        gpu_seconds: Callable[[], float] = lambda: 0.0,
        gpus_per_trial: float = 1,
        objective: Objective = BY_EVAL_LOSS,
        expected: Expected | None = None,
    ) -> None:
        self.budget = budget
        self.objective = objective
        self.is_stopping: Callable[[], bool] = lambda: False
        """Whether the sweep is asked to end."""
        self.clock = clock
        self.began = clock()
        self.running: dict[int, Running] = {}
        self.n_ended = len(earlier)
        self.base_eval_loss = base_eval_loss
        self.usage = Usage()
        """Of the slots; a runner that counts them puts its own here."""
        self._queued = dict(queued or {})
        self._expected = expected or Expected()
        self._rungs = self._expected.rungs
        waiting = list(paused)
        self._paused: dict[int, _Pause | None] = {trial.number: None for trial in waiting}
        """None: it was paused before this command."""
        for trial in (*waiting, *earlier):
            self._rungs.heard(trial.number, trial.last_index)
        self.leaders = Leaders(objective, (*waiting, *earlier))
        self._gpu_seconds = gpu_seconds
        self._gpus_per_trial = gpus_per_trial
        self._earlier = earlier
        self._pace: Pace | None = None
        """None until a trial has begun: it knows the number of evaluations."""

    @property
    def n_paused(self) -> int:
        return len(self._paused)

    def is_paused(self, number: int) -> bool:
        return number in self._paused

    @property
    def has_begun(self) -> bool:
        """Whether a trial has had a slot yet."""
        return self._pace is not None

    def started(self, config: TrialConfig, place: Place) -> None:
        if self._pace is None:
            self._pace = self._pace_so_far(config.n_evaluations)
            self.leaders.n_evaluations = config.n_evaluations
        is_drawn = self._queued.pop(config.number, None) is None
        if is_drawn and config.number not in self._paused:
            self._pace.planned(config.epochs)
        if (pause := self._paused.pop(config.number, None)) is not None:
            self._pace.goes_on(pause.index, config.epochs, pause.seconds)
        self.running[config.number] = Running(config, place, self.clock())
        self.leaders.started(config.number)

    def _pace_so_far(self, n_evaluations: int) -> Pace:
        pace = Pace(n_evaluations, self._expected)
        for trial in self._earlier:
            epochs, index = float(trial.hyperparameters["epochs"]), trial.last_index
            pace.planned(epochs)
            waits = self._waits(trial.outcome, index)
            pace.ended(min(index, n_evaluations), epochs, trial.seconds or 0.0, waits=waits)
        return pace

    def _waits(self, outcome: str, index: int) -> bool:
        """Whether a trial stands behind others at a rung, for now or for good."""
        return outcome in ("paused", "outclassed") and index in self._rungs.indices

    def reported(self, number: int, point: EvalPoint) -> None:
        if point.index == 0:
            self.base_eval_loss = point.eval_loss
            return
        trial = self.running[number]
        self.leaders.reported(trial.config, point)
        self._rungs.heard(number, point.index)
        trial.point, trial.reported = point, self.clock()
        trial.eval_losses.append(point.eval_loss)
        values = [point.value] if trial.best is None else [point.value, trial.best]
        trial.best = min(values, key=self.objective.key)

    def finished(self, number: int, result: TrialResult) -> TrialConfig | None:
        """A trial has ended, for now or for good; its configuration, if it has run till now."""
        trial = self.running.pop(number, None)
        self.leaders.ended(number, result.outcome)
        if result.outcome not in GOES_ON:
            self.n_ended += 1
        if trial is None:
            self._paused.pop(number, None)
            return None
        config = trial.config
        if result.outcome == "interrupted":
            self._queued[number] = config.epochs
            return config
        index = config.n_evaluations if result.outcome == "completed" else trial.index
        # One that went on from a checkpoint says itself what it took before.
        seconds = max(self.clock() - trial.began, trial.point.seconds if trial.point else 0.0)
        if result.outcome == "paused":
            self._paused[number] = _Pause(index, seconds)
        if self._pace is not None:
            waits = self._waits(result.outcome, index)
            self._pace.ended(index, config.epochs, seconds, waits=waits)
        return config

    def share_done(self, trial: Running) -> float:
        """How much of its run a trial has behind it, 0 to 1: by its steps, which are heard of
        between its evaluations too.
        """
        by_evaluations = trial.index / trial.config.n_evaluations
        step, n_steps = self.usage.steps.get(trial.config.number, (0, 1))
        return max(by_evaluations, step / n_steps)

    def step_of(self, trial: Running) -> int:
        """Optimizer steps that it has taken, as far as was heard."""
        heard, _ = self.usage.steps.get(trial.config.number, (0, 1))
        return max(heard, trial.point.step if trial.point else 0)

    def time_left(self) -> str:
        """The rest of the sweep in words; nothing where nothing is known."""
        if self.is_stopping():
            return "stopping"
        limits = [limit for limit in (self.budget.seconds_left, self._gpu_limit()) if limit]
        left = self.trials_left()
        if left is None:
            return f"at most {duration(min(limits))} left" if limits else ""
        low, expected, high = (
            duration(min([seconds, *limits])) for seconds in (left.low, left.expected, left.high)
        )
        if left.is_narrow or low == high:  # a limit may make them one
            return f"about {expected} left"
        return f"{low} to {high} left"

    def _gpu_limit(self) -> float | None:
        """Seconds until `gpu_hours` are used up, with as many trials as run now."""
        if self.budget.gpu_hours is None or not self.running:
            return None
        left = max(0.0, self.budget.gpu_hours * 3600 - self._gpu_seconds())
        return left / (len(self.running) * self._gpus_per_trial)

    def trials_left(self) -> Left | None:
        """What the trials of the budget still take; None: no trial has shown what one takes."""
        pace = self._pace
        if self.budget.trials is None or pace is None:
            return None
        now = self.clock()
        running = list(self.running.values())  # the live table asks from its own thread
        of_run = pace.seconds_of_run(
            (trial.index, trial.config.epochs, trial.point.seconds)
            for trial in running
            if trial.point is not None
        )
        if of_run is None:
            return None
        n_begun = self.n_ended + self.n_paused + len(running)
        n_waiting = max(0, self.budget.trials - n_begun)
        if not running and not n_waiting:
            return None
        rest = []
        for trial in running:
            whole, since = trial.whole_seconds, trial.reported
            if whole is None:
                whole, since = float(of_run(np.array(trial.config.epochs))), trial.began
            rest.append(Rest(trial.config.number, trial.index, whole, now - since))
        epochs: list[float | None] = [*self._queued.values(), *[None] * n_waiting][:n_waiting]
        return time_left(pace, rest, epochs, of_run, self.usage.n_slots)


def rungs_waited_at(space: Space) -> Rungs:
    """Where the trials of a space wait for others, and how many go on."""
    settings, n_evaluations = space.settings.pruning.outclassed, space.settings.evaluate.times
    if not settings or settings.pruner != "asha":
        return Rungs()
    indices = rung_indices(settings.rungs, n_evaluations)
    return Rungs(indices, settings.factor, settings.min_peers)


def expected_of(space: Space) -> Expected:
    """What is believed of a space's trials before any has been seen."""
    epochs = space.domains["epochs"]
    return Expected(
        rungs_waited_at(space),
        [float(value) for value in epochs.values] if isinstance(epochs, Choices) else [],
        EARLY if space.settings.pruning.overfit else 0.0,
    )
