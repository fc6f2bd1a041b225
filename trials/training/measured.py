"""Measure an adapter that is there, on all rows of a split: nothing is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file

from trials.config import TOKEN_ACCURACY, EvalPoint, TrialConfig, TrialResult
from trials.data.tokens import TokenRows
from trials.distributed.group import ALONE, Group
from trials.evaluation.bootstrap import Rows, drawn
from trials.evaluation.bootstrap import as_text as draws_as_text
from trials.evaluation.evaluate import Measured, measure
from trials.evaluation.generate import Prompts, predictions
from trials.evaluation.metrics import MetricFailed, of_rows
from trials.evaluation.row_nlls import as_text
from trials.memory.micro_batches import MicroBatchMemory
from trials.models.frozen_base import FrozenBase


class NotThisAdapter(RuntimeError):
    """The weights of an adapter's file are not those that its configuration has."""


class _SetAside(Exception):
    """Somebody wants the end now."""


def measure_adapter(
    config: TrialConfig,
    base: FrozenBase,
    memory: MicroBatchMemory,
    group: Group = ALONE,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> TrialResult:
    """Measure the adapter of `config.measured_adapter` on the rows of `config.measured_rows`.

    Args:
        is_asked_to_stop: Called after each batch; on several GPUs only to give a sign of life,
            since they wait for each other at the end.

    Returns:
        A completed trial with one evaluation, whose losses of single rows are there; or one that
        was interrupted.

    Raises:
        NotThisAdapter: As the class says.
        BaseNotClean: The base could not be given back as it was: replace the process.
    """

    def after_batch() -> None:
        if is_asked_to_stop() and group.size == 1:
            raise _SetAside

    began = time.perf_counter()
    rows = TokenRows(Path(config.data_dir) / config.measured_rows, config.model.max_length)
    model = base.add_adapter(config)  # untrained it leaves the base as it is: B is zero
    task = _Task(config, base, memory, group, after_batch)
    try:
        if config.measured_adapter:
            put_weights(model, Path(config.measured_adapter))
        found = task.losses(model, rows)
        scored = task.scores(model, found, rows)
    except _SetAside:
        return TrialResult(outcome="interrupted", reason="Interrupted; to be measured again.")
    finally:
        del model
        base.remove_adapter()
    seconds = time.perf_counter() - began
    point = EvalPoint(
        index=0,
        step=0,
        epoch=0.0,
        eval_loss=found.loss,
        train_loss=None,
        learning_rate=None,
        grad_norm=None,
        tokens_per_second=None,
        gpu_memory_gib=None,
        seconds=seconds,
        eval_loss_error=loss_error(found.row_nlls, rows.supervised_tokens),
        row_nlls=None if config.model.backend == "unsloth" else as_text(found.row_nlls),
        **scored,
    )
    reason = f"Eval loss {found.loss:.4f} on all {len(rows)} rows of {config.measured_rows}."
    return TrialResult(outcome="completed", reason=reason, best=point, evaluation_seconds=seconds)


def loss_error(nlls: npt.NDArray[np.float64], tokens: npt.NDArray[np.int64]) -> float | None:
    """Return the standard error of Σ nlls / Σ tokens by the choice of rows, in nats.

    That of a ratio of means, √(n · var(nll − loss · tokens)) / Σ tokens (Cochran, "Sampling
    Techniques", 3rd edition, equation 2.46, without its finite population correction).

    Args:
        nlls: Nats of each row, (rows,).
        tokens: Supervised tokens of each row, (rows,).
    """
    if len(nlls) < 2:
        return None
    apart = nlls - nlls.sum() / tokens.sum() * tokens
    return math.sqrt(len(nlls) * float(np.var(apart, ddof=1))) / float(tokens.sum())


def put_weights(model: Any, folder: Path) -> None:
    """Put the weights of a saved adapter in place of those of the adapter on the model.

    Raises:
        NotThisAdapter: Its tensors have other names or shapes.
    """
    saved = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    # Views of the adapter's own parameters, by the names that they are saved under.
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in saved.items()}:
        raise NotThisAdapter(f"{folder}: its weights are not those of the trial's configuration.")
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(saved[name])
    now = get_peft_model_state_dict(model, save_embedding_layers=False)
    if not all(torch.equal(now[name].to("cpu"), weight) for name, weight in saved.items()):
        raise NotThisAdapter(f"{folder}: its weights could not be put on the base model.")


@dataclass(frozen=True, slots=True)
class _Task:
    """Measures one adapter, in batches that fit, as a trial's own evaluations are measured."""

    config: TrialConfig
    base: FrozenBase
    memory: MicroBatchMemory
    group: Group
    after_batch: Callable[[], None]

    def losses(self, model: Any, rows: TokenRows) -> Measured:
        counts = self.config.objective.name == TOKEN_ACCURACY
        return self.memory.evaluated(
            self.config,
            lambda size: measure(
                self.base,
                model,
                rows,
                size,
                self.group,
                counts_correct=counts,
                after_batch=self.after_batch,
            ),
        )

    def scores(self, model: Any, found: Measured, rows: TokenRows) -> dict[str, Any]:
        """Return what an evaluation holds of a metric; nothing where the objective is the loss."""
        if self.config.objective.is_eval_loss:
            return {}
        if found.row_correct is not None:
            correct, tokens = found.row_correct, rows.supervised_tokens
            return self._scored(len(rows), lambda of: float(correct[of].sum() / tokens[of].sum()))
        asked = Prompts.load(Path(self.config.data_dir), self.config.measured_rows)
        if not math.isfinite(found.loss):  # it would write up to the limit for nothing
            return {"score": math.nan, "score_rows": len(asked.rows)}
        written = self.memory.evaluated(
            self.config,
            lambda size: predictions(
                self.base, model, self.config.model, asked, size, self.group, self.after_batch
            ),
        )
        scored = None
        if self.group.rank == 0:  # the user's own may not give each process the same
            metric = of_rows(
                self.config.objective,
                Path(self.config.data_dir),
                written,
                asked.references,
                asked.rows,
            )
            scored = self._scored(len(written), metric)
        return self.group.broadcast(scored) or {}

    def _scored(self, n_rows: int, score: Callable[[Rows], float]) -> dict[str, Any]:
        whole = score(np.arange(n_rows))

        def of_draw(rows: Rows) -> float:
            try:
                return score(rows)
            except MetricFailed:  # the user's own need not be defined of any rows
                return math.nan

        draws = drawn(n_rows, of_draw, self.after_batch)
        return {"score": whole, "score_draws": draws_as_text(draws), "score_rows": n_rows}
