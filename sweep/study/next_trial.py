"""What the study holds, as the search sees it now: the next trial, the points tried.

The search may change while a study goes on, so a stored trial says what means the same whatever
is searched: its hyperparameters, in their own names and numbers. A sampler needs more: the
steps of a list, the logarithm of a range, one space for all trials. It gets a study in memory
whose trials are the stored ones in the coordinates of the search as it is now. A trial that lies
outside is there as a failed one, which samplers pass over.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.samplers.choice import make_sampler
from sweep.samplers.search_space import (
    Params,
    distributions,
    hyperparameters,
    is_within,
    outside,
    params_of,
)
from sweep.samplers.tpe import Observed
from sweep.samplers.without_repeats import points_taken
from sweep.space.domains import Choices, Domain, TimesRank, is_fixed
from sweep.space.hyperparameters import HYPERPARAMETERS, Value
from sweep.space.space import Space
from sweep.space.usual_points import Start
from sweep.storage.attributes import MEMORY, POINT, STARTED_FROM, is_paused, point_of
from sweep.storage.mirror import InMemory
from sweep.storage.optuna_private import begin, give_number, study_id_of


def enqueue_starts(study: optuna.Study, space: Space) -> list[Start]:
    """Put the points in the queue that are to be tried first, and return those that are new.

    The usual ones are ours and not the user's wish: they begin a study and join none.
    """
    trials, new = study.get_trials(deepcopy=False), []
    has_begun = any(POINT in trial.user_attrs for trial in trials)
    known = [{**(point_of(trial) or {}), **_given(trial)} for trial in trials]
    for index, start in enumerate(space.starts):
        earlier = [before.values for before in space.starts[:index]]
        if start.is_usual:
            is_there = has_begun or _is_among(space, start.values, [*known, *earlier])
        else:
            is_known = any(start.values.items() <= point.items() for point in known)
            is_there = is_known or start.values in earlier
        if not is_there:
            study.enqueue_trial(dict(start.values))
            new.append(start)
    if sweeps := {start.sweep for start in space.starts if start.sweep is not None}:
        taken = {*study.user_attrs.get(STARTED_FROM, []), *sweeps}
        study.set_user_attr(STARTED_FROM, sorted(taken))
    return new


def _is_among(
    space: Space, start: Mapping[str, Value], points: Sequence[Mapping[str, Value]]
) -> bool:
    """Whether a point is one of others, as far as it is searched: not all name what is fixed."""
    params = params_of(space, start)
    return any(params.items() <= params_of(space, point).items() for point in points)


class View:
    """A study as samplers see it: kept, and brought up to date before it is used.

    Args:
        study: The stored one. A trial of it that changes is another object afterwards, as in all
            of Optuna's storages; nothing else tells the view what is new.
    """

    def __init__(self, study: optuna.Study, space: Space) -> None:
        self._study = study
        self._space = space
        self._searched = distributions(space)
        self._storage = InMemory()
        self._view = optuna.create_study(
            storage=self._storage, pruner=optuna.pruners.NopPruner(), direction=study.direction
        )
        self._observed = Observed(self._searched, study.direction)
        self._seen: list[FrozenTrial | None] = []
        """The stored trials that the view is up to date with."""

    def next_trial(self) -> optuna.Trial:
        """Return the next trial: one put back, one of `start_with`, or the sampler's choice.

        One put back keeps its point, inside of the search as it is now or not.
        """
        study, waiting = self._study, self._study.get_trials(False, (TrialState.WAITING,))
        if waiting and POINT in waiting[0].user_attrs:
            return study.ask()
        point = self._draw(_given(waiting[0]) if waiting else {})
        if not waiting:
            return new_trial(study, self._space, point)
        study.sampler = Drawn(point)
        trial = study.ask(_stored_distributions(self._space, point))
        trial.set_user_attr(POINT, point)
        return trial

    def queued(self) -> dict[int, float]:
        """Epochs of the trials in the queue, by number, where they are known."""
        waiting = self._study.get_trials(False, (TrialState.WAITING,))
        points = {t.number: {**(point_of(t) or {}), **_given(t)} for t in waiting}
        return {n: float(point["epochs"]) for n, point in points.items() if "epochs" in point}

    def as_searched(self) -> optuna.Study:
        """The study that samplers see, with the same numbers. To be looked at only."""
        stored = self._study.get_trials(deepcopy=False)
        self._seen += [None] * (len(stored) - len(self._seen))
        for number, (seen, trial) in enumerate(zip(self._seen, stored, strict=True)):
            if seen is not trial:
                view = _as_searched(trial, self._space, self._searched)
                give_number(view, number)
                self._storage.put(study_id_of(self._view), view)
                self._seen[number] = trial
        return self._view

    def n_points_tried(self) -> int:
        """Points of the search as it is now that have been tried or are being tried."""
        return len(points_taken(self.as_searched(), self._searched))

    def _draw(self, given: Mapping[str, Value]) -> dict[str, Any]:
        view = self.as_searched()
        view.sampler = make_sampler(self._space, len(self._seen), self._observed)
        drawn = view.ask(self._searched)
        params = drawn.params
        self._forget(drawn.number)
        held = {name: given[name] for name in outside(self._space, given)}
        return hyperparameters(self._space, params, held)

    def _forget(self, number: int) -> None:
        """Let the trial of a draw be what it is in the study, where it may not come to be."""
        if number == len(self._seen):
            self._storage.take_out_last(study_id_of(self._view))
        else:
            self._seen[number] = None


def _as_searched(
    trial: FrozenTrial, space: Space, searched: dict[str, BaseDistribution]
) -> FrozenTrial:
    point = point_of(trial)
    if point is None:  # of `start_with`, and not begun
        fixed = {"fixed_params": params_of(space, _given(trial))}
        return create_trial(state=TrialState.WAITING, system_attrs=fixed)
    if not is_within(space, point):
        return create_trial(state=TrialState.FAIL)
    paused = is_paused(trial)
    return create_trial(
        # A sampler waits for a trial that runs; of one that is paused it may hear nothing more.
        state=TrialState.PRUNED if paused else trial.state,
        values=trial.values,
        params=params_of(space, point),
        distributions=searched,
        system_attrs=dict(trial.system_attrs),  # the constraint goes into it
        intermediate_values=trial.intermediate_values,
        # It has fitted so far; a Gaussian process wants the constraint of every trial that it sees.
        constraints={MEMORY: -1.0} if paused else None,
    )


def first_trials(space: Space) -> list[tuple[str, Params]]:
    """The first trials of a new study: where each comes from, and its point in full.

    Those that are to be tried first, with what they leave open drawn; or the first that is drawn.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=space.objective.direction)
    origins = [start.origin for start in enqueue_starts(study, space)]
    view = View(study, space)
    drawn = [f"drawn by {space.settings.sampler}"]
    return [(origin, view.next_trial().user_attrs[POINT]) for origin in origins or drawn]


def new_trial(study: optuna.Study, space: Space, point: Params) -> optuna.Trial:
    stored = _stored_distributions(space, point)
    began = create_trial(
        state=TrialState.RUNNING,
        params={name: point[name] for name in stored},
        distributions=stored,
        user_attrs={POINT: point},
    )
    return begin(study, began)


def _given(trial: FrozenTrial) -> dict[str, Value]:
    """What is known of a trial that has no point yet; a process may have died as it gave it one."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


class Drawn(BaseSampler):
    """Gives the stored study the point that was drawn from its view."""

    def __init__(self, point: Params) -> None:
        self._point = point

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._point[param_name]


def _stored_distributions(space: Space, point: Params) -> dict[str, BaseDistribution]:
    """Distributions that a study takes whatever it had before under the same names.

    Optuna refuses another kind, another `log`, other choices; another range it takes.
    """
    return {
        name: _stored(space, name, point[name])
        for name, domain in space.domains.items()
        if not is_fixed(domain)
    }


def _stored(space: Space, name: str, value: Any) -> BaseDistribution:
    hyperparameter = HYPERPARAMETERS[name]
    if hyperparameter.kind is bool:
        return CategoricalDistribution((False, True))
    if hyperparameter.kind is str:
        domain = space.domains[name]
        given = domain.values if isinstance(domain, Choices) else ()
        return CategoricalDistribution(tuple(dict.fromkeys((*hyperparameter.names, *given, value))))
    low, high = _ends(space, space.domains[name])
    low, high = min(low, value), max(high, value)
    if hyperparameter.kind is int:
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high)


def _ends(space: Space, domain: Domain) -> tuple[float, float]:
    """The smallest and the largest number of a domain."""
    if isinstance(domain, TimesRank):
        ends = zip(_ends(space, domain.factor), _ends(space, space.domains["rank"]), strict=True)
        low, high = (factor * rank for factor, rank in ends)
        return low, high
    if isinstance(domain, Choices):
        return float(domain.values[0]), float(domain.values[-1])
    return domain.low, domain.high
