"""A sweep's folder as its end leaves it, without the sweep: a study with trials that ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna

from sweep.space.hyperparameters import HYPERPARAMETERS
from sweep.storage.patient import storage_url
from trials.config import EvalPoint, ModelConfig, TrialConfig, TrialResult
from trials.evaluation.row_nlls import as_text

SPACE = """\
base_model: base
data: {train: data/train.jsonl, eval: data/eval.jsonl, columns: {prompt: question}}
search: {rank: [8]}
"""


MODEL = ModelConfig(
    name="org/model",
    revision="v2",
    quantization="nf4",
    compute_dtype="auto",
    backend="transformers",
    max_length=512,
    trust_remote_code=False,
)
SETTINGS: dict[str, Any] = {
    "model": MODEL,
    "data_dir": "data",
    "output_dir": "trial",
    "rank": 8,
    "alpha": 22.6,
    "learning_rate": 5e-5,
    "epochs": 1.5,
    "effective_batch_size": 24,
    "gpus_per_trial": 2,
    "micro_batch_size": 12,
    "eval_batch_size": 12,
    "max_length": 512,
    "dropout": 0.05,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "lr_scheduler": "warmup_stable_decay",
    "optimizer": "adamw_8bit",
    "max_grad_norm": 0.5,
    "target_modules": "qv",
    "use_rslora": True,
    "use_dora": False,
    "neftune_alpha": 5.0,
    "n_evaluations": 4,
    "evaluate_base": False,
    "checkpoint_minutes": 10.0,
    "stall_minutes": 10.0,
    "seed": 7,
}


def make_config(number: int = 0) -> TrialConfig:
    """The configuration of a trial in which nothing is as usual."""
    return TrialConfig(number=number, **SETTINGS)


def point(index: int, eval_loss: float, step: int | None = None) -> EvalPoint:
    """An evaluation, whose other numbers are of no account."""
    return EvalPoint(
        index=index,
        step=10 * index if step is None else step,
        epoch=index / 2,
        eval_loss=eval_loss,
        train_loss=1.0,
        learning_rate=1e-3,
        grad_norm=0.5,
        tokens_per_second=1234.5,
        gpu_memory_gib=None,
        seconds=1.0,
    )


def measured(index: int, nlls: npt.ArrayLike, n_tokens: int = 10) -> EvalPoint:
    """An evaluation with the losses of its rows, each of so many supervised tokens."""
    of_rows = np.asarray(nlls, dtype=np.float64)
    loss = float(of_rows.sum()) / (n_tokens * len(of_rows))
    return replace(point(index, loss), row_nlls=as_text(of_rows))


def result(outcome: str, curve: Sequence[EvalPoint], **changes: object) -> TrialResult:
    """How a trial with this curve ended."""
    ended = TrialResult(
        outcome=outcome,  # type: ignore[arg-type]
        reason=f"It is {outcome}.\nThe end of log.txt:\nmore",
        best=min(curve, key=lambda p: p.eval_loss) if curve else None,
        micro_batch_size=4,
        gradient_checkpointing=False,
        training_seconds=3.0,
        evaluation_seconds=1.0,
    )
    return replace(ended, **changes)  # type: ignore[arg-type]


def write_sweep(
    folder: Path, trials: Sequence[tuple[TrialConfig, TrialResult, Sequence[EvalPoint]]]
) -> Path:
    """Write a sweep's folder with these trials, in the order of their numbers; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps({"schema": 1, "version": "0.1.0"}))
    (folder / "lock").touch()
    (folder / "space.yaml").write_text(SPACE)
    study = optuna.create_study(study_name=folder.name, storage=storage_url(folder))
    study.set_user_attr("task", {"evaluations": 4})
    study.set_user_attr("base_eval_loss", 3.0)
    study.set_user_attr("state", ["finished", "", 1000.0])
    for config, ended, curve in trials:
        trial = study.ask()
        known: dict[str, Any] = {
            "hyperparameters": {name: getattr(config, name) for name in HYPERPARAMETERS},
            "outcome": ended.outcome,
            "outcome_reason": ended.reason,
            "result": asdict(ended),
            "curve": [asdict(each) for each in curve],
        }
        if ended.best is not None:
            known["eval_loss_best"] = ended.best.eval_loss
        for key, value in known.items():
            trial.set_user_attr(key, value)
        for each in curve:
            trial.report(each.eval_loss, each.index)
        failed = ended.outcome == "failed"
        lowest = None if failed or ended.best is None else ended.best.eval_loss
        study.tell(trial, lowest, state=optuna.trial.TrialState.FAIL if failed else None)
        trial_dir = folder / "trials" / f"{config.number:03d}"
        trial_dir.mkdir(parents=True, exist_ok=True)
        (trial_dir / "config.json").write_text(json.dumps(asdict(config)))
    return folder
