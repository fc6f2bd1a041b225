"""What all trials of a study share: data, model, evaluations. It stays as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import optuna

from sweep.check import Check
from sweep.parameters import shown
from sweep.resolve import model_config, trial_settings
from sweep.space import Space
from sweep.study import StudyError
from trials.config import Backend


def keep_to_task(study: optuna.Study, space: Space, check: Check, backend: Backend) -> None:
    """Note what a study's trials do, or see that it is still the same: else losses do not compare.

    Raises:
        StudyError: It is another task; says what has changed, and the mend.
    """
    found = check.report
    task = {
        "base_model": asdict(model_config(space, backend)),
        "train": found["train_fingerprint"],
        "eval": found["eval_fingerprint"],
        "tokenizer": found["tokenizer"],
        "sample_rows": found["sample_rows"],
        "chat": found["chat"],
        "loss_on": space.settings.data.loss_on,
        "evaluations": space.settings.evaluate.times,
        "optimizer": trial_settings(space, on_gpus=check.on_gpus).optimizer,
        "seed": space.settings.seed,
    }
    known = study.user_attrs.get("task")
    if known is None:
        study.set_user_attr("task", task)
        study.set_user_attr("evaluate_rows", space.settings.evaluate.rows)
        return
    changed = changes(known, task)
    if not changed:
        return
    backends = known["base_model"].get("backend"), backend
    mend = f"Give this one a new name: --name {space.name}-2"
    if backends[0] != backends[1] and space.settings.backend == "auto":
        mend += f"; or go on with backend: {backends[0]}, where that can run"
    raise StudyError(
        f"{space.name}: this sweep has trials on another task (changed: {'; '.join(changed)}), "
        f"and they do not compare. {mend}"
    )


def changes(known: Mapping[str, Any], now: Mapping[str, Any], parent: str = "") -> list[str]:
    """Say what differs, one text for each key: `base_model.backend: transformers → unsloth`."""
    found: list[str] = []
    for key in now:
        before, after = known.get(key), now[key]
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += changes(before, after, f"{parent}{key}.")
        elif before != after:
            found.append(f"{parent}{key}: {_brief(before)} → {_brief(after)}")
    return found


def _brief(value: object) -> str:
    text = shown(value) if not isinstance(value, str) else value
    return text if len(text) <= 40 else f"{text[:20]}…{text[-19:]}"
