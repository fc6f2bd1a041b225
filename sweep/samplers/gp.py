"""Optuna's Gaussian process, for studies in which most trials are stopped early."""

from __future__ import annotations

import copy
import math
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweep.samplers.tpe import rank
from sweep.storage.optuna_private import storage_of

if TYPE_CHECKING:
    from optuna._gp.acqf import BaseAcquisitionFunc


class Gp(GPSampler):
    """A Gaussian process that learns from stopped trials too, and from ranks.

    Optuna's own sees COMPLETE trials alone: where three in four are stopped it would draw at random
    for the first forty, and come back to where others were stopped. And it sees values: one trial
    at a high learning rate lies further off than all others lie apart, and these look equal. Here
    every trial that has ended is worth the logarithm of its rank, which tells the best ones apart
    most (nearly the exponential scores of Savage, Ann. Math. Stat. 27, 1956).

    Where the points that may be drawn are few enough to list, the best of them is found by looking
    at each: it is the maximum, and takes a fraction of the time of a search among all points, most
    of whose finds have been tried already. Trials that run are not among these points, and nothing
    else is made of them. Where points cannot be listed they are in the acquisition function, which
    is then a mean over samples (qLogEI), and level wherever no sample improves.
    """

    candidates: Sequence[Mapping[str, Any]] = ()
    """Points that may be drawn; empty: any."""

    def _optimize_acqf(
        self, acqf: BaseAcquisitionFunc, best_params: npt.NDArray[np.float64] | None
    ) -> npt.NDArray[np.float64]:
        if not self.candidates:
            return super()._optimize_acqf(acqf, best_params)
        listed: Any = list(self.candidates)
        points = acqf.search_space.get_normalized_params(listed, listed)
        best: npt.NDArray[np.float64] = points[int(np.argmax(acqf.eval_acqf_no_grad(points)))]
        return best

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the draw; empty, for one at random, while fewer than 10 trials have ended."""
        judged = _Judged(study, sees_running=not self.candidates)
        return super().sample_relative(judged, trial, search_space)


class _Judged(optuna.Study):
    """A study whose trials have ended with what they are worth among each other."""

    def __init__(self, study: optuna.Study, *, sees_running: bool) -> None:
        super().__init__(study.study_name, storage_of(study), study.sampler, study.pruner)
        self._hidden = set() if sees_running else {TrialState.RUNNING}

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, None, use_cache)
        judged = _judged(trials, self.direction)
        shown = [trial for trial in judged if trial.state not in self._hidden]
        return [trial for trial in shown if states is None or trial.state in states]


def _judged(trials: Sequence[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
    """Give every trial that has ended the logarithm of its rank, 0 for the best, for its value.

    Stopped trials are behind all others, as TPE has them: their own last values would not do, as
    those are of half-trained models, and may be infinite. Constraints are left out where every
    trial meets them: a second process fitted to nothing would take as long as the first.
    """
    sign = -1.0 if direction is StudyDirection.MAXIMIZE else 1.0
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    if not any(t.state is TrialState.COMPLETE for t in ended):
        return list(trials)
    is_met = all(value <= 0 for trial in ended for value in trial.constraints.values())
    judged = {trial.number: trial for trial in trials}
    for place, trial in enumerate(sorted(ended, key=lambda trial: rank(trial, sign)), start=1):
        judged[trial.number] = _worth(trial, sign * math.log(place), is_met)
    return list(judged.values())


def _worth(trial: FrozenTrial, value: float, is_met: bool) -> FrozenTrial:
    told = copy.copy(trial)
    told.state, told.values = TrialState.COMPLETE, [value]
    if is_met:
        told.system_attrs = {}  # where Optuna keeps constraints
    return told
