"""The eval loss, one number for all trials of a study whatever fits into a batch; and a metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trials.config import TOKEN_ACCURACY, TrialConfig
from trials.data.batches import collate, micro_batches, queued, supervised_tokens
from trials.data.tokens import TokenRows
from trials.distributed.group import Group
from trials.evaluation.generate import Prompts, predictions
from trials.evaluation.metrics import score
from trials.models.frozen_base import FrozenBase


class Evaluator:
    """Measures a trial's eval loss and its objective, on rows that all trials of a study share.

    Args:
        group: Each of its processes takes its share of the rows; each gets the result.
    """

    def __init__(self, config: TrialConfig, base: FrozenBase, group: Group) -> None:
        self._config, self._base, self._group = config, base, group
        self._data_dir = Path(config.data_dir)
        # Eval rows are cut at the largest max_length of the space, whatever this trial's own is:
        # the eval losses of a study are over the same tokens.
        self._sample = TokenRows(self._data_dir / "sample", max_length=2**31)
        self._asked = Prompts.load(self._data_dir) if config.objective.is_generated else None

    def measure(self, model: Any, batch_size: int) -> Measured:
        """Return the eval loss and, where that is the objective, the token accuracy.

        Args:
            batch_size: Rows per forward pass.
        """
        is_accuracy = self._config.objective.name == TOKEN_ACCURACY and self._asked is None
        return measure(
            self._base, model, self._sample, batch_size, self._group, counts_correct=is_accuracy
        )

    @property
    def is_generated(self) -> bool:
        """Whether the objective needs `score` too."""
        return self._asked is not None

    def score(self, model: Any, batch_size: int) -> float:
        """Return the metric of the completions that the model writes.

        Raises:
            MetricFailed: The user's metric gave no score.
        """
        assert self._asked is not None, "of a metric of written completions"
        written = predictions(
            self._base, model, self._config.model, self._asked, batch_size, self._group
        )
        found = math.nan
        if self._group.rank == 0:  # the user's own may not give each process the same
            # Into the trial's log: a wrong template or a missing stop shows there.
            print(f"written: {written[0]!r:.300}", flush=True)
            print(f"expected: {self._asked.references[0]!r:.300}", flush=True)
            found = score(
                self._config.objective,
                self._data_dir,
                written,
                self._asked.references,
                self._asked.rows,
            )
        return self._group.broadcast(found)


@dataclass(frozen=True, slots=True)
class Measured:
    """One pass over eval rows."""

    loss: float
    """Mean negative log-likelihood per supervised token, in nats."""
    accuracy: float | None
    """Share of supervised tokens that are the model's first choice; None: not counted."""
    row_nlls: npt.NDArray[np.float64]
    """Negative log-likelihood of each row, in the rows' own order, (rows,), in nats."""
    row_correct: npt.NDArray[np.float64] | None = None
    """Supervised tokens of each row that are the model's first choice; None: not counted."""


@torch.no_grad()
def measure(
    base: FrozenBase,
    model: Any,
    rows: TokenRows,
    batch_size: int,
    group: Group,
    *,
    counts_correct: bool = False,
    after_batch: Callable[[], None] = lambda: None,
) -> Measured:
    """Return what the model makes of `rows`, which have their true tokens before each other.

    The loss sums over all tokens and divides once, so that it does not depend on how rows are
    batched. A mean of batch means would weigh the tokens of short completions more.

    Args:
        after_batch: Called after each; what it raises ends the pass.
    """
    was_training = model.training
    model.eval()
    try:
        order = rows.lengths.argsort(kind="stable")[::-1]
        n, n_tokens = len(order), 0
        # Nats of each row, then its tokens that are the first choice, then tokens in all.
        sums = torch.zeros(2 * n + 1, dtype=torch.float64, device=base.device)
        for batch_rows in micro_batches(order[group.rank :: group.size], batch_size):
            batch = collate([rows[index] for index in batch_rows])
            n_tokens += supervised_tokens(batch)
            nlls, correct = base.nll_rows(model, batch, counts_correct=counts_correct)
            places = queued(torch.from_numpy(batch_rows.copy()), base.device)
            sums[places] = nlls
            if correct is not None:
                sums[places + n] = correct
            after_batch()
        sums[-1] += n_tokens
        group.sum(sums)
        on_host = sums.cpu().numpy()
        row_correct = on_host[n:-1] if counts_correct else None
        return Measured(
            loss=float(on_host[:n].sum() / on_host[-1]),
            accuracy=None if row_correct is None else float(row_correct.sum() / on_host[-1]),
            row_nlls=on_host[:n],
            row_correct=row_correct,
        )
    finally:
        model.train(was_training)
