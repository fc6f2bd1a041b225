"""What has changed in the search since the study began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import optuna

from sweep.samplers.search_space import is_within
from sweep.space.hyperparameters import Value
from sweep.space.space import Space
from sweep.storage.attributes import POINT, SEARCH
from sweep.text.numbers import counted


def search_changes(study: optuna.Study, space: Space) -> str | None:
    """Say what is searched otherwise than in the last run, and note it; None: nothing."""
    known: Mapping[str, str] | None = study.user_attrs.get(SEARCH)
    now = {name: str(domain) for name, domain in space.domains.items()}
    if known == now:
        return None
    study.set_user_attr(SEARCH, now)
    if known is None:
        return None
    changes = [
        f"{name}: {known[name]} → {domain}"
        for name, domain in now.items()
        if known.get(name, domain) != domain
    ]
    trials = study.get_trials(deepcopy=False)
    points = [trial.user_attrs[POINT] for trial in trials if POINT in trial.user_attrs]
    what = f"The search has changed: {'; '.join(changes)}."
    return f"{what} {_outside_in_words(space, points)}" if points else what


def _outside_in_words(space: Space, points: Sequence[Mapping[str, Value]]) -> str:
    n_outside = sum(not is_within(space, point) for point in points)
    if not n_outside:
        return f"It covers the {counted(len(points), 'trial')} so far."
    lie, count = ("is", "it still counts") if n_outside == 1 else ("are", "they still count")
    seen = "it" if n_outside == 1 else "them"
    of = f"{n_outside} of {counted(len(points), 'trial')}"
    return f"{of} {lie} now outside it: {count}, but the sampler ignores {seen}."
