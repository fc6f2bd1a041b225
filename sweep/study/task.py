"""What all trials of a study share, and must stay; and what of its search has changed."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from sweep.errors import StudyError
from sweep.samplers.search_space import is_within
from sweep.space.hyperparameters import Value, shown
from sweep.space.space import Space
from sweep.storage.attributes import DATE, EVALUATE_ROWS, OBJECTIVE_ROWS, SEARCH, TASK, point_of
from sweep.storage.of_folder import has_study, study_name, study_reader
from sweep.storage.patient import cause_of
from sweep.study.trial_config import model_config, trial_settings
from sweep.text.numbers import counted
from trials.config import Backend, Objective

SAMPLE_TOKENS = "sample_tokens"
"""A digest of the token ids and labels of the eval sample, with its counts."""

ADAPTED = "adapted"
"""Which modules each choice of `target_modules` means, as a digest of their names."""

EARLIER_TOKENS = "earlier_sample_tokens"
"""In a report: those that an older version, which noted none, had left in the folder."""


def keep_to_task(
    study: optuna.Study, space: Space, found: Mapping[str, Any], backend: Backend, *, on_gpus: bool
) -> None:
    """Note what a study's trials do, or see that it is still the same: else losses do not compare.

    Args:
        found: The report of `trials.preparation.prepare`.

    Raises:
        StudyError: It is another task; says what has changed, and the mend.
    """
    form = space.checkpoint
    # Older versions read these weights without their scales: their losses do not compare.
    dequantised = {"checkpoint": form.name} if form is not None and form.is_dequantised else {}
    task = {
        "base_model": asdict(model_config(space, backend)) | dequantised,
        "train": found["train_fingerprint"],
        "eval": found["eval_fingerprint"],
        "tokenizer": found["tokenizer"],
        "sample_rows": found["sample_rows"],
        SAMPLE_TOKENS: found.get(SAMPLE_TOKENS),
        "chat": found["chat"],
        "loss_on": space.settings.data.loss_on,
        # As text: what is compared key by key would not miss an argument that is gone.
        "template_arguments": json.dumps(space.settings.data.template_arguments, sort_keys=True),
        "evaluations": space.settings.evaluate.times,
        "objective": _objective(space, found),
        "optimizer": trial_settings(space, on_gpus=on_gpus).optimizer,
        "seed": space.settings.seed,
        ADAPTED: _adapted(found, "digest"),
    }
    known = study.user_attrs.get(TASK)
    if DATE not in study.user_attrs and found.get("date") is not None:
        study.set_user_attr(DATE, found["date"])
    if known is None:
        study.set_user_attr(TASK, task)
        study.set_user_attr(EVALUATE_ROWS, space.settings.evaluate.rows)
        study.set_user_attr(OBJECTIVE_ROWS, space.settings.objective.rows)
        return
    # Older versions knew of no other objective and no arguments, and noted no tokens.
    earlier = {
        "template_arguments": "{}",
        SAMPLE_TOKENS: found.get(EARLIER_TOKENS),
        ADAPTED: _adapted(found, "earlier"),
    }
    before = {"objective": asdict(Objective()), **earlier, **known}
    both = before[ADAPTED].keys() & task[ADAPTED].keys()  # others are searched anew, or no more
    now = {**task, ADAPTED: {choice: task[ADAPTED][choice] for choice in both}}
    changed = changes(
        {**before, ADAPTED: {choice: before[ADAPTED][choice] for choice in both}}, now
    )
    if not changed:
        task[ADAPTED] = {**before[ADAPTED], **task[ADAPTED]}
        if task != known:
            study.set_user_attr(TASK, task)
        return
    raise StudyError(
        f"{space.name}: the task must stay that of the sweep's trials (changed: "
        f"{'; '.join(changed)}); else losses are not comparable. {_mend(space, before, backend)}"
    )


def _adapted(found: Mapping[str, Any], which: str) -> dict[str, str]:
    """A digest for each choice of modules; those that cannot have been trained are left out."""
    return {
        f"{one['target']}{' and experts' if one['experts'] else ''}": one[which]
        for one in found.get("adapters", [])
        if one[which] is not None
    }


def _mend(space: Space, known: Mapping[str, Any], backend: Backend) -> str:
    backends, mend = (known["base_model"].get("backend"), backend), "Use a new name"
    if backends[0] != backends[1] and space.settings.backend == "auto":
        return f"{mend}: --name {space.name}-2; or keep backend: {backends[0]}, where it can run"
    return f"{mend}: --name {space.name}-2"


def _objective(space: Space, found: Mapping[str, Any]) -> dict[str, Any]:
    """What trials are judged by: another metric, or other rows of it, is another task."""
    generation = found.get("generation") or {}
    decides = ("rows", "max_new_tokens", "metric", "read")
    return {**asdict(space.objective), **{k: v for k, v in generation.items() if k in decides}}


@dataclass(frozen=True, slots=True)
class RowsSoFar:
    """What a study that goes on has settled; None: the space and `prepare` say it."""

    sample: int | None
    """Rows whose loss is measured, at each evaluation."""
    generated: int | None
    """Rows that completions are written for."""
    date: str | None = None
    """The day that chat templates take for today, where they write it."""
    optimizer: str | None = None
    """That its trials have, where the space leaves it open."""


NO_ROWS_YET = RowsSoFar(None, None)


def rows_so_far(
    space: Space, output_dir: Path, storage: optuna.storages.BaseStorage | None = None
) -> RowsSoFar:
    """Return the rows of each evaluation in the study that goes on.

    They follow from the shortest trial that is searched. When the search changes they stay, or
    later values would not compare with earlier ones.

    Args:
        storage: The study's, where it is open.

    Raises:
        StudyError: The study's server cannot be used.
    """
    if storage is None and not has_study(output_dir):
        return NO_ROWS_YET
    try:
        name = study_name(output_dir)
        with nullcontext(storage) if storage else study_reader(output_dir) as opened:
            known = optuna.load_study(study_name=name, storage=opened).user_attrs
    except KeyError:  # a study that was never opened
        return NO_ROWS_YET
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error, OSError) as error:
        raise StudyError(f"{space.name}: the study cannot be read: {cause_of(error)}") from None
    settings = space.settings
    task = known.get(TASK) or {}
    is_sample = known.get(EVALUATE_ROWS) == settings.evaluate.rows
    is_generated = known.get(OBJECTIVE_ROWS) == settings.objective.rows
    return RowsSoFar(
        sample=task["sample_rows"] if is_sample else None,
        generated=(task.get("objective") or {}).get("rows") if is_generated else None,
        date=known.get(DATE),
        optimizer=task.get("optimizer"),
    )


def with_its_optimizer(space: Space, so_far: RowsSoFar) -> Space:
    """Return the space with the optimizer that its study began with, where it leaves it open."""
    if so_far.optimizer is None or space.settings.optimizer != "auto":
        return space
    settings = space.settings.model_copy(update={"optimizer": so_far.optimizer})
    return replace(space, settings=settings)


def changes(known: Mapping[str, Any], now: Mapping[str, Any], parent: str = "") -> list[str]:
    """Say what differs, one text for each key: `base_model.backend: transformers → unsloth`."""
    found: list[str] = []
    for key in now:
        before, after = known.get(key), now[key]
        if key == SAMPLE_TOKENS and before != after:
            found.append(_tokens_in_words(before, after))
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            found += changes(before, after, f"{parent}{key}.")
        elif before != after:
            found.append(f"{parent}{key}: {_brief(before)} → {_brief(after)}")
    return found


def has_its_tokens(found: Mapping[str, Any], task: Mapping[str, Any]) -> bool | None:
    """Whether a prepared folder, whose report is given, has the tokens of the study's trials.

    None: an older version ran them, and nothing tells.
    """
    known, now = task.get(SAMPLE_TOKENS, found.get(EARLIER_TOKENS)), found.get(SAMPLE_TOKENS)
    return None if known is None and now is not None else bool(known == now)


def _tokens_in_words(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    if before is None or after is None:
        return (
            "tokens of the eval sample: an older version noted none, so whether they are the same "
            "cannot be known"
        )
    differing = [
        f"{words} of the eval sample: {before[key]:,} → {after[key]:,}"
        for key, words in (("tokens", "tokens"), ("learnt", "learnt tokens"))
        if before[key] != after[key]
    ]
    as_many = f"tokens of the eval sample: others, though as many ({after['tokens']:,})"
    return "; ".join(differing) or as_many


def _brief(value: object) -> str:
    text = shown(value) if not isinstance(value, str) else value
    return text if len(text) <= 40 else f"{text[:20]}…{text[-19:]}"


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
    if not changes:  # an earlier version knew fewer hyperparameters
        return None
    trials = study.get_trials(deepcopy=False)
    points = [point for trial in trials if (point := point_of(trial)) is not None]
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
