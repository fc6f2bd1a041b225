"""Which sampler a space asks for. To add one, begin here."""

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from sweep.errors import SpaceError
from sweep.samplers.gp import Gp
from sweep.samplers.qmc import Qmc
from sweep.samplers.search_space import distributions
from sweep.samplers.tpe import Observed, Tpe
from sweep.samplers.without_repeats import WithoutRepeats
from sweep.space.space import Space


def make_sampler(space: Space, number: int, observed: Observed | None = None) -> BaseSampler:
    """The sampler for trial `number` of a space; repeats no point where points can be counted.

    Seeded for each trial, so that what is drawn depends on the study and the number alone: a
    sweep that was interrupted draws what an undisturbed one would have drawn.

    Args:
        observed: What the sampler for an earlier trial of the study has seen; None: all is new.
    """
    searched = distributions(space)
    direction = optuna.study.StudyDirection[space.objective.direction.upper()]
    seed = int(np.random.SeedSequence([space.settings.seed, number]).generate_state(1)[0])
    samplers: dict[str, Any] = {
        "tpe": lambda: Tpe(observed or Observed(searched, direction), seed=seed),
        "gp": lambda: Gp(seed=seed),
        "qmc": lambda: Qmc(searched, number, seed=space.settings.seed),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "grid": lambda: optuna.samplers.RandomSampler(seed=seed),  # without repeats it is a grid
    }
    sampler: BaseSampler = samplers[space.settings.sampler]()
    if math.isinf(space.n_points):
        return sampler
    return WithoutRepeats(sampler, searched, seed=seed)


_NEEDED: Mapping[str, Sequence[str]] = {"gp": ("scipy", "torch"), "qmc": ("scipy",)}
"""What a sampler imports when it draws: for gp that is ten trials after the start."""


def check_sampler(space: Space) -> None:
    """See that the sampler of a space can work here.

    Raises:
        SpaceError: A package that it needs cannot be imported.
    """
    sampler = space.settings.sampler
    for package in _NEEDED.get(sampler, ()):
        try:
            importlib.import_module(package)
        except (ImportError, OSError) as error:  # OSError: a library of its own that is missing
            raise SpaceError(
                f"sampler: {sampler} needs the package {package}, which cannot be imported "
                f"({error}). Reinstall it (pip install -c constraints.txt {package}), or choose "
                f"tpe, which needs nothing."
            ) from None
