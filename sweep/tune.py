"""Our trials under somebody's own Ray Tune `Tuner`: for people who have one already.

`sweep run` is what this project is made for: Tune loads the base model in each trial's own process
unless it reuses them, and its verdicts are its own. But a trial is a trial: the data is prepared
once, micro-batches are fitted into memory, a trial that diverges or overfits ends by itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.driver.preparation import prepare_data
from sweep.driver.trial_params import checked_params
from sweep.folder import layout
from sweep.pruners.own_curve import ByItself
from sweep.samplers.search_space import distributions, optuna_name
from sweep.samplers.without_repeats import values_of
from sweep.space.backend import choose_backend
from sweep.space.domains import Choices, Domain, Range, TimesRank, is_fixed
from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.space.usual_points import filled_in
from sweep.study.trial_config import resolver
from sweep.workers.devices import wants_gpus
from trials.config import EvalPoint, Stop, TrialConfig, TrialResult
from trials.trial_folder import ADAPTER, write_config

if TYPE_CHECKING:
    from trials.models.frozen_base import FrozenBase

ALPHA_TIMES_RANK = "alpha_times_rank"
"""In Tune's configuration: the factor, where a space gives alpha as a multiple of the rank."""

_base: tuple[Any, FrozenBase] | None = None
"""Of this process: with `reuse_actors=True` the next trial finds it loaded."""


def qlora_trainable(
    space: str | Path | Space,
    *,
    output: str | Path = "sweeps",
    on_gpus: bool | None = None,
    say: Callable[[str], None] = print,
) -> Callable[[dict[str, Any]], None]:
    """Return a function that Tune's `Tuner` runs: one QLoRA trial of the space.

    The data is read and tokenised here, once. A trial has a GPU, or the share of one that
    `gpus_per_trial` says (one processor where there is none); `tune.with_resources` changes that.
    It trains in one process: more than one GPU is of no use to it. Its configuration holds
    hyperparameters under our names, `rank` or `learning_rate`; what is left out has its fixed or
    usual value.

    It reports at each of its K evaluations: `training_iteration` is 1…K, a share of the trial's own
    run (one of fewer than K steps skips some), so that schedulers compare like with like;
    `eval_loss`, `train_loss`, `learning_rate`, `tokens_per_second` and so on, a metric that is the
    objective by its own name, and `eval_loss_best` (of another metric `NAME_best`): the best so
    far, which is what `sweep run` ranks by. The last report has `outcome`, `outcome_reason` and the
    best adapter as its checkpoint. A trial that Tune stops has none; HyperBand and PBT, which pause
    trials, would begin them anew.

    Args:
        space: The YAML file, or a checked space. Budget, sampler and peer pruning are Tune's now.
        output: Folder of all sweeps; the data lies in `<output>/<name>/tune`.
        on_gpus: None: if there are any.
        say: Hears of the data as it is read.

    Raises:
        SpaceError: With every problem, before anything trains.
    """
    from ray import tune

    checked = space if isinstance(space, Space) else load_space(Path(space))
    gpus = wants_gpus(workers=None) if on_gpus is None else on_gpus
    folder = Path(output).resolve() / checked.name / layout.TUNE
    found = prepare_data(checked, folder / layout.DATA, on_gpus=gpus, say=say)
    backend = choose_backend(checked, on_gpus=gpus)

    def train(config: dict[str, Any]) -> None:
        trial_dir = Path(tune.get_context().get_trial_dir())
        resolve = resolver(
            checked, backend=backend, on_gpus=gpus, output_dir=trial_dir, data_dir=found.data_dir
        )
        resolved = resolve(0, _params(checked, config), False)
        _train(replace(resolved, gpus_per_trial=1), checked)

    resources = {"gpu": _gpu_share(checked)} if gpus else {"cpu": 1}
    trainable: Callable[[dict[str, Any]], None] = tune.with_resources(train, resources)
    return trainable


def search_space(space: str | Path | Space) -> dict[str, Any]:
    """Return a space's search as Tune's `param_space`: what is fixed is left out.

    An alpha that is a multiple of the rank becomes the factor, `alpha_times_rank`, which the
    trainable understands; a range with steps becomes a choice of its values, since Tune's own
    begins at a multiple of the step, wherever the range does.

    Raises:
        SpaceError: With every problem of the file.
    """
    from ray import tune

    checked = space if isinstance(space, Space) else load_space(Path(space))
    found: dict[str, Any] = {}
    for name, domain in checked.domains.items():
        if isinstance(domain, TimesRank):
            found[ALPHA_TIMES_RANK] = _domain(tune, checked, name, domain)
        elif not is_fixed(domain):
            found[name] = _domain(tune, checked, name, domain)
    return found


def _domain(tune: Any, space: Space, name: str, domain: Domain) -> Any:
    drawn: Choices | Range = domain.factor if isinstance(domain, TimesRank) else domain
    if isinstance(drawn, Choices):
        return tune.choice(list(drawn.values))
    if drawn.step is not None:
        return tune.choice(values_of(distributions(space)[optuna_name(name, domain)]))
    if drawn.is_integer:  # Tune leaves the upper end out
        low, high = int(drawn.low), int(drawn.high) + 1
        return tune.lograndint(low, high) if drawn.log else tune.randint(low, high)
    return (tune.loguniform if drawn.log else tune.uniform)(drawn.low, drawn.high)


def _gpu_share(space: Space) -> float:
    """Of a GPU, that a trial may take: one process trains it, whatever `gpus_per_trial` says."""
    return min(1, space.settings.gpus_per_trial)


def _params(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a trial; its factor of alpha multiplied out."""
    given = dict(config)
    factor = given.pop(ALPHA_TIMES_RANK, None)
    params = filled_in(space.domains, checked_params(space, given, "Tune's configuration"))
    if factor is not None:
        params["alpha"] = float(factor) * float(params["rank"])
    return params


def _train(config: TrialConfig, space: Space) -> None:
    from ray import tune

    base = _loaded(config, _gpu_share(space))
    from trials.memory.micro_batches import MicroBatchMemory
    from trials.training.train import run_trial

    by_itself = ByItself(
        space.settings.pruning, space.objective, n_evaluations=config.n_evaluations
    )
    curve: list[EvalPoint] = []
    n_told = 0

    def report(point: EvalPoint) -> Stop | None:
        nonlocal n_told
        # A trial whose optimizer did not fit begins anew with smaller micro-batches.
        curve[:] = [*(each for each in curve if each.index < point.index), point]
        stop = by_itself.verdict(curve, None, config.lr_scheduler)
        if stop is None and n_told < point.index < config.n_evaluations:
            n_told = point.index
            tune.report(_metrics(curve, config))  # where Tune stops the trial, it ends in here
        return stop  # the last report waits for the adapter

    write_config(config)
    result = run_trial(config, base, MicroBatchMemory(), report)
    adapter = Path(config.output_dir) / ADAPTER
    checkpoint = tune.Checkpoint.from_directory(adapter) if adapter.is_dir() else None
    tune.report(_last(result, curve, config), checkpoint=checkpoint)


def _loaded(config: TrialConfig, gpu_share: float) -> FrozenBase:
    global _base
    if _base is None or _base[0] != config.model:
        _base = None  # two do not fit
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from trials.backends.loading import load

        _base = config.model, load(config.model, gpu_share)
    return _base[1]


def _metrics(curve: list[EvalPoint], config: TrialConfig) -> dict[str, Any]:
    """Of the latest evaluation, and the best value so far (NaN: there is none yet)."""
    objective = config.objective
    values = asdict(curve[-1])
    values["training_iteration"] = values.pop("index")
    values[objective.name] = curve[-1].value
    del values["score"], values["step_losses"]
    finite = [point.value for point in curve if math.isfinite(point.value)]
    values[f"{objective.name}_best"] = min(finite, key=objective.key, default=math.nan)
    return {name: value for name, value in values.items() if value is not None}


def _last(result: TrialResult, curve: list[EvalPoint], config: TrialConfig) -> dict[str, Any]:
    """What a trial that ended by itself reports last. One that did not fit has no evaluation."""
    name = config.objective.name
    last = _metrics(curve, config) if curve else {name: math.nan, f"{name}_best": math.nan}
    return {**last, "outcome": result.outcome, "outcome_reason": result.reason}
