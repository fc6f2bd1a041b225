"""Which rows each optimizer step trains on, and in which micro-batches."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils.rnn import pad_sequence

from trials.data.tokens import IGNORED

Rows = npt.NDArray[np.int64]
"""Indices of rows, (rows,)."""


class EffectiveBatches:
    """The rows of each optimizer step, by the step's index from 0.

    Every epoch has an order of its own, drawn from the seed, so a step's rows are known without
    going through the steps before it. The last batch of an epoch may be smaller.

    Args:
        lengths: Tokens of each row, (rows,).
        size: Rows of an effective batch.
    """

    def __init__(self, lengths: Rows, *, size: int, seed: int) -> None:
        self._lengths, self._size, self._seed = lengths, size, seed
        self._epoch = -1
        self._order: Rows = np.empty(0, np.int64)
        self.steps_per_epoch = math.ceil(len(lengths) / size)

    def n_steps(self, epochs: float) -> int:
        """Return the optimizer steps of a run; there is at least one."""
        return max(1, round(self.steps_per_epoch * epochs))

    def __getitem__(self, step: int) -> Rows:
        """Rows of a step, the longest first: micro-batches of it then hold little padding."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng(self._seed + epoch).permutation(len(self._lengths))
        batch = self._order[index * self._size : (index + 1) * self._size]
        return batch[np.argsort(-self._lengths[batch], kind="stable")]


def micro_batches(rows: Rows, size: int) -> list[Rows]:
    """Cut rows, in their order, into batches of `size`; the last may be smaller."""
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def micro_batches_by_tokens(
    rows: Rows, lengths: Rows, *, tokens: int, most_rows: int | None = None
) -> list[Rows]:
    """Cut the rows of a step, the longest first, into as few micro-batches as hold them.

    Short rows come many at a time, and one long row does not make all micro-batches small.

    Args:
        lengths: Tokens of each row of the data set.
        tokens: Of a micro-batch, padding counted: its rows × the longest of them. A row that is
            longer goes alone.
        most_rows: None: as many as the tokens allow.
    """
    parts, first = [], 0
    while first < len(rows):
        n = max(1, tokens // int(lengths[rows[first]]))
        parts.append(rows[first : first + min(n, most_rows or n)])
        first += len(parts[-1])
    return parts


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad rows on the right: `input_ids`, `labels`, `attention_mask`, each (batch, longest row)."""

    def padded(name: str, padding: int) -> torch.Tensor:
        tensors = [torch.as_tensor(row[name]) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=padding)

    attention_mask = pad_sequence(
        [torch.ones(len(row["input_ids"]), dtype=torch.long) for row in rows], batch_first=True
    )
    # The id of a padded token is of no account: it is masked, and its label carries no loss.
    return {
        "input_ids": padded("input_ids", 0),
        "labels": padded("labels", IGNORED),
        "attention_mask": attention_mask,
    }


def queued(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a copy on the device, for which the host does not wait.

    Only from pinned memory is a copy queued; from elsewhere the host waits until it is made.
    """
    on_host = tensor.pin_memory() if device.type == "cuda" else tensor
    return on_host.to(device, non_blocking=True)


def supervised_tokens(batch: Mapping[str, torch.Tensor]) -> int:
    """Targets of a batch: the first token of a row is never predicted."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())
