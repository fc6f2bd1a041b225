"""Which hyperparameters mattered, and how sure that is: PED-ANOVA over resampled trials."""

import random
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from trials.config import Direction

MIN_TRIALS = 20
"""Below, PED-ANOVA compares a best tenth of one or two trials with the rest: chance."""
N_RESAMPLES = 20
MAX_TRIALS = 1000
"""More do not move the result, and take long to resample."""


@dataclass(frozen=True, slots=True)
class Importance:
    """Of one hyperparameter; over all of them the shares sum to 1."""

    name: str
    share: float
    low: float
    """The 10th of 100 resamples, as high the 90th."""
    high: float


def usable(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials with a value that counts: of others the best was never reached."""
    return [t for t in trials if t.state is TrialState.COMPLETE and t.params]


def importances(
    trials: Sequence[FrozenTrial], seed: int = 0, direction: Direction = "minimize"
) -> list[Importance]:
    """Return the importances, the largest first; nothing where there are too few trials.

    The spread is that of bootstrap resamples: the trials drawn again, with replacement.
    """
    counted = usable(trials)
    if len(counted) < MIN_TRIALS:
        return []
    chance = random.Random(seed)
    if len(counted) > MAX_TRIALS:
        counted = chance.sample(counted, MAX_TRIALS)
    whole = _shares(counted, direction)
    drawn = [
        _shares(chance.choices(counted, k=len(counted)), direction) for _ in range(N_RESAMPLES)
    ]
    found = []
    for name, share in whole.items():
        deciles = statistics.quantiles([shares.get(name, 0.0) for shares in drawn], n=10)
        found.append(Importance(name, share, deciles[0], deciles[-1]))
    return sorted(found, key=lambda importance: -importance.share)


def _shares(trials: Sequence[FrozenTrial], direction: Direction) -> dict[str, float]:
    study = optuna.create_study(direction=direction)
    study.add_trials(
        optuna.trial.create_trial(value=t.value, params=t.params, distributions=t.distributions)
        for t in trials
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluator is marked experimental
        return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))
