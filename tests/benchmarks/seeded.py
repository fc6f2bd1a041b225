"""A study that has thousands of ended trials already, written into its database in one go.

Told one by one, as a sweep tells them, they would take a thousand GPUs an hour.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import insert

from sweep.samplers.search_space import distributions, hyperparameters
from sweep.space.loading import Space
from sweep.storage.mirror import InMemory
from sweep.study.ended import tell_ended
from sweep.study.next_trial import new_trial
from sweep.study.trial_config import Resolve
from tests.benchmarks.simulated import curve, point_of
from trials.config import Outcome, TrialResult

Rows = defaultdict[Any, list[dict[str, Any]]]


def seed(storage: RDBStorage, space: Space, resolve: Resolve, n_trials: int) -> None:
    """Write `n_trials` ended trials of a random search, stopped as halving stops them."""
    optuna.create_study(study_name=space.name, storage=storage, direction="minimize")
    study_id = storage.get_study_id_from_name(space.name)
    rows: Rows = defaultdict(list)
    for trial in _ended(space, resolve, n_trials):
        _add_rows(rows, trial, study_id)
    with storage.engine.begin() as connection:
        for model, of_model in rows.items():
            connection.execute(insert(model), of_model)
        if storage.engine.dialect.name == "postgresql":  # ids were given, not counted
            connection.exec_driver_sql(f"SELECT setval('trials_trial_id_seq', {n_trials})")
    storage.set_study_user_attr(study_id, "passed_on", [[0, n_trials - 1]])
    storage.set_study_user_attr(study_id, "base_eval_loss", 3.0)


def _ended(space: Space, resolve: Resolve, n_trials: int) -> Iterator[FrozenTrial]:
    """Trials of a random search, a study in memory told of each as the sweep would."""
    searched, chance = distributions(space), random.Random(0)
    study = optuna.create_study(storage=InMemory())
    points = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(n_trials):
        point = hyperparameters(space, points.ask(searched).params)
        config = resolve(number, point, False)
        n_done = chance.choices([1, 4, 16, 20], [48, 12, 3, 1])[0]
        losses = curve(config, chance)[:n_done]
        trial = new_trial(study, space, point)
        for index, loss in enumerate(losses, start=1):
            trial.report(loss, index)
        evaluated = [point_of(config, i, loss, 1800.0, chance) for i, loss in enumerate(losses, 1)]
        finite = [evaluation for evaluation in evaluated if evaluation.is_finite]
        best = min(finite, key=lambda evaluation: evaluation.eval_loss, default=None)
        outcome: Outcome = "completed" if n_done == 20 and best else "outclassed"
        result = TrialResult(outcome=outcome, reason="As halving has it.", best=best)
        yield tell_ended(trial, evaluated, result)


def _add_rows(rows: Rows, trial: FrozenTrial, study_id: int) -> None:
    trial_id = trial.number + 1
    rows[models.TrialModel].append(
        {
            "trial_id": trial_id,
            "number": trial.number,
            "study_id": study_id,
            "state": trial.state,
            "datetime_start": trial.datetime_start,
            "datetime_complete": trial.datetime_complete,
        }
    )
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        rows[models.TrialParamModel].append(
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": distribution.to_internal_repr(value),
                "distribution_json": distribution_to_json(distribution),
            }
        )
    for model, attributes in (
        (models.TrialUserAttributeModel, trial.user_attrs),
        (models.TrialSystemAttributeModel, trial.system_attrs),
    ):
        for key, value in attributes.items():
            row = {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
            rows[model].append(row)
    stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    for step, loss in trial.intermediate_values.items():
        number, kind = stored(loss)
        rows[models.TrialIntermediateValueModel].append(
            {
                "trial_id": trial_id,
                "step": step,
                "intermediate_value": number,
                "intermediate_value_type": kind,
            }
        )
    if trial.value is not None:
        finite = models.TrialValueModel.TrialValueType.FINITE
        value_row = {"trial_id": trial_id, "objective": 0, "value": trial.value}
        rows[models.TrialValueModel].append({**value_row, "value_type": finite})
