"""What MLflow is told of a trial, as plain data: parameters, metrics, tags, status."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sweep.space.hyperparameters import HYPERPARAMETERS
from sweep.storage.attributes import COUNTS
from sweep.text.numbers import digits
from trials.config import GOES_ON, EvalPoint, Objective, Outcome, TrialConfig, TrialResult
from trials.foreign_text import without_secrets
from trials.trial_folder import ADAPTER, CONFIG, LOG

STATUS: dict[Outcome, str] = {
    "completed": "FINISHED",
    "overfit": "FINISHED",
    "outclassed": "FINISHED",
    "stopped": "FINISHED",
    "diverged": "FINISHED",
    "paused": "KILLED",  # until they go on
    "interrupted": "KILLED",
    "out_of_memory": "FAILED",
    "failed": "FAILED",
}


EXACT = "sweep.hyperparameters"
"""The tag of a trial's run that has them to the last bit; its parameters are rounded."""


def files(outcome: Outcome) -> list[str]:
    """Return what MLflow keeps of the trial's folder: of a whole trial, its adapter too."""
    if outcome == "paused":  # many are paused, and go on or end before anybody looks
        return []
    return [LOG, CONFIG, *([ADAPTER] if outcome in COUNTS else [])]


def params(config: TrialConfig) -> dict[str, object]:
    """Return the settings that are known when a trial begins; the micro-batch is found later."""
    values: dict[str, object] = asdict(config)
    model = asdict(config.model)
    for key in ("model", "number", "data_dir", "output_dir", "micro_batch_size", "most_rows"):
        del values[key]
    values["objective"] = config.objective.python or config.objective.name
    return _there({"base_model": model.pop("name"), **model, **values})


def exact(config: TrialConfig) -> str:
    """Return its hyperparameters to the last bit, as `sweep trial --params` takes them."""
    return json.dumps({name: getattr(config, name) for name in HYPERPARAMETERS})


def params_found(config: TrialConfig, result: TrialResult) -> dict[str, object]:
    """Return what memory decided. None of it for a trial that goes on later, perhaps with less."""
    if result.outcome in GOES_ON:
        return {}
    return _there(
        {
            "micro_batch_size": result.micro_batch_size,
            "gradient_checkpointing": result.gradient_checkpointing,
        }
    )


def metrics(point: EvalPoint, objective: Objective, best: float | None) -> dict[str, object]:
    """Return an evaluation's values; those that were not measured are left out.

    Args:
        best: The trial's best score so far, where the objective is a metric.
    """
    gap = point.eval_loss - point.train_loss if point.train_loss is not None else None
    rounded = {
        "generalisation_gap": gap if point.is_finite else None,
        "learning_rate": point.learning_rate,
        "grad_norm": point.grad_norm,
        "tokens_per_second": point.tokens_per_second,
        "gpu_memory_gib": point.gpu_memory_gib,
        "gpu_busy": point.gpu_busy,
        "epoch": point.epoch,
    }
    values = {name: value and float(digits(value)) for name, value in rounded.items()}
    # Exact: sweeps are compared by them. The train loss of each step comes apart, and the mean over
    # them is then in the gap alone.
    train_loss = None if point.step_losses else point.train_loss
    values |= {"train_loss": train_loss, "eval_loss": point.eval_loss}
    if point.score is not None and math.isfinite(point.score):
        values |= {objective.name: point.score, f"{objective.name}_best": best}
    return _there(values)


def tags(point: EvalPoint) -> dict[str, str]:
    """Return an evaluation's tags: MLflow keeps an infinity as the largest float."""
    if point.is_finite:
        return {}
    train = "unknown" if point.train_loss is None else digits(point.train_loss)
    text = f"step {point.step}: eval_loss {digits(point.eval_loss)}, train_loss {train}"
    return {"not_finite": text}


def seconds(result: TrialResult) -> dict[str, float]:
    """Return what the trial took; nothing yet for one that goes on later."""
    if result.outcome in GOES_ON:
        return {}
    return {
        "training_seconds": result.training_seconds,
        "evaluation_seconds": result.evaluation_seconds,
    }


Sources = str | list[str]
"""Absolute paths or hub ids."""


CONTEXTS = {"train": "training", "eval": "evaluation", "test": "test"}
"""What MLflow calls the use of each split."""


def datasets(
    given: Mapping[str, Sources | float | None], found: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Return the rows that a sweep learns and those that it is judged by, as MLflow's datasets.

    Args:
        given: Of each split its files, or the share of train held out; None: there is none.
        found: The report of `trials.preparation.prepare`.
    """
    counts = {**found, "train": next(iter(found["train"].values()))}
    rows = []
    for name, source in given.items():
        if source is None:
            continue
        note = f" ({source:g} held out)" if isinstance(source, float) else ""
        files = given["train"] if isinstance(source, float) else source
        assert isinstance(files, str | list), "the rows to learn have files"
        fingerprint = found[f"{name}_fingerprint"]
        rows.append(_dataset(files, note, CONTEXTS[name], fingerprint, counts[name]))
    return rows


def in_words(sources: Sources | float) -> str:
    """Return what `data.train` or `data.eval` says on one line."""
    return without_secrets(", ".join(sources) if isinstance(sources, list) else str(sources))


def _dataset(
    sources: Sources, note: str, context: str, fingerprint: str, counts: Mapping[str, int]
) -> dict[str, str]:
    each = sources if isinstance(sources, list) else [sources]
    name = ", ".join(one.rstrip("/").rpartition("/")[2] for one in each) + note
    source = in_words(sources)
    is_file = source.startswith("/")
    where = {"uri": source} if is_file or "://" in source else {"path": source}
    return {
        "name": name[:500],
        "digest": fingerprint[:36],  # MLflow takes no more
        "context": context,
        "source_type": "hugging_face" if "path" in where else "local" if is_file else "http",
        "source": json.dumps(where),
        "profile": json.dumps(
            {"num_rows": counts["rows"], "tokens": counts["tokens"]}
            | {"supervised_tokens": counts["supervised_tokens"]}
        ),
    }


def comparable(task: Mapping[str, Any]) -> str:
    """Return a digest of what values of two studies must have in common to be compared."""
    return hashlib.sha256(json.dumps(judged_by(task), sort_keys=True).encode()).hexdigest()[:16]


def judged_by(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what trials are judged by: a study's task (`sweep.study.task`) without what is learnt,
    and by whom."""
    others = ("base_model", "train", "optimizer", "evaluations", "adapted")
    kept = {key: value for key, value in task.items() if key not in others}
    if kept.get("template_arguments") == "{}":  # as a task of an older version, without the key
        del kept["template_arguments"]
    return {**kept, "max_length": task.get("base_model", {}).get("max_length")}


def _there(values: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}
