"""A tokenised, masked data set on disk, one for all trials: each maps it into memory."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trials.whole_file import usual_mode

IGNORED = -100
"""The label of a token that carries no loss, as in torch's and transformers' cross entropy."""

EVALUATION_SHARE = 0.15
"""Evaluation may cost this share of a trial's training time before the sample is made smaller."""

EVALUATION_COST = 0.5
"""A token's evaluation beside its training: one forward pass of two passes (the base is frozen)."""

LEAST_SAMPLE_ROWS = 32
"""Fewer eval rows than this rank nothing, whatever they cost."""

PARTS = ("ids", "supervised", "offsets")
"""The arrays of a split: each is a file `<path>.<part>.npy`."""


@dataclass(frozen=True, slots=True)
class TokenSplit:
    """The rows of a split end to end, whole: nothing is cut."""

    ids: npt.NDArray[np.int32]
    """(tokens,)"""
    supervised: npt.NDArray[np.bool_]
    """Whether a token carries loss, (tokens,)."""
    offsets: npt.NDArray[np.int64]
    """Where each row begins, and the end of the last, (rows + 1,)."""

    @classmethod
    def of(
        cls,
        *,
        ids: npt.NDArray[np.int32],
        supervised: npt.NDArray[np.bool_],
        lengths: npt.NDArray[np.int64],
    ) -> TokenSplit:
        """Return the split whose rows have `lengths` tokens, (rows,)."""
        return cls(ids, supervised, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @classmethod
    def joined(cls, splits: Sequence[TokenSplit]) -> TokenSplit:
        return cls.of(
            ids=np.concatenate([split.ids for split in splits]),
            supervised=np.concatenate([split.supervised for split in splits]),
            lengths=np.concatenate([split.lengths for split in splits]),
        )

    @classmethod
    def load(cls, path: Path) -> TokenSplit:
        """Map the arrays of `save` into memory; only offsets are read."""
        return cls(
            np.load(f"{path}.ids.npy", mmap_mode="r", allow_pickle=False),
            np.load(f"{path}.supervised.npy", mmap_mode="r", allow_pickle=False),
            np.load(f"{path}.offsets.npy", allow_pickle=False),
        )

    def save(self, path: Path) -> None:
        """Write the arrays as new, read-only files: whoever has the old ones mapped keeps them."""
        for part in PARTS:
            file = Path(f"{path}.{part}.npy")
            file.unlink(missing_ok=True)
            np.save(file, getattr(self, part))
            file.chmod(usual_mode() & 0o444)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, (rows,)."""
        return np.diff(self.offsets)

    def supervised_tokens(self, max_length: int) -> npt.NDArray[np.int64]:
        """Tokens that carry loss in each row when it is cut, (rows,).

        The first token of a row is never predicted, so it does not count.
        """
        found = np.zeros(len(self.lengths), np.int64)
        cut_lengths = np.minimum(self.lengths, max_length)
        rows = np.flatnonzero(cut_lengths > 1)
        begins = self.offsets[rows] + 1
        # reduceat sums from each border to the next: inside a row, then up to the next row.
        borders = np.stack([begins, begins + cut_lengths[rows] - 1], axis=1).ravel()
        if len(rows) and borders[-1] == len(self.supervised):
            borders = borders[:-1]  # the last sum ends where the array does
        found[rows] = np.add.reduceat(np.asarray(self.supervised), borders, dtype=np.int64)[::2]
        return found

    def taken(self, rows: Sequence[int], max_length: int) -> TokenSplit:
        """Return `rows` alone, in that order and cut."""
        begins = self.offsets[:-1][rows]
        lengths = np.minimum(self.lengths[rows], max_length)
        slices = [slice(b, b + n) for b, n in zip(begins, lengths, strict=True)]
        return TokenSplit.of(
            ids=np.concatenate([self.ids[each] for each in slices]),
            supervised=np.concatenate([self.supervised[each] for each in slices]),
            lengths=lengths,
        )


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """What became of the rows of one split at one `max_length`."""

    rows: int
    cut: int
    """Rows that lost tokens beyond max_length and are trained on all the same."""
    dropped: int
    """Rows of which no supervised token was left."""
    tokens: int
    """Tokens kept."""
    supervised_tokens: int
    longest: int
    """Tokens of the longest row, before cutting."""
    median: int


def count(split: TokenSplit, max_length: int) -> SplitCounts:
    """Count what cutting at `max_length` does to the rows."""
    lengths = split.lengths
    n_supervised = split.supervised_tokens(max_length)
    kept = lengths[n_supervised > 0]
    return SplitCounts(
        rows=len(lengths),
        cut=int((kept > max_length).sum()),
        dropped=len(lengths) - len(kept),
        tokens=int(np.minimum(kept, max_length).sum()),
        supervised_tokens=int(n_supervised.sum()),
        longest=int(lengths.max()),
        median=int(np.sort(lengths)[len(lengths) // 2]),
    )


class TokenRows:
    """Rows of a split, mapped into memory, cut at `max_length`; rows without loss left out."""

    def __init__(self, path: Path, max_length: int) -> None:
        self._split = TokenSplit.load(path)
        supervised = self._split.supervised_tokens(max_length)
        kept = np.flatnonzero(supervised)
        self.supervised_tokens = supervised[kept]
        """Tokens that carry loss in each row, (rows,)."""
        self._begins = self._split.offsets[kept]
        self._ends = self._begins + np.minimum(self._split.lengths[kept], max_length)

    def __len__(self) -> int:
        return len(self._begins)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return self._ends - self._begins

    def __getitem__(self, index: int) -> dict[str, npt.NDArray[np.int64]]:
        """`input_ids` and `labels` of a row, each (tokens,)."""
        row = slice(self._begins[index], self._ends[index])
        input_ids = self._split.ids[row].astype(np.int64)
        return {
            "input_ids": input_ids,
            "labels": np.where(self._split.supervised[row], input_ids, IGNORED),
        }


def sample_size(
    *,
    n_eval_rows: int,
    eval_tokens: int,
    train_tokens: int,
    smallest_epochs: float,
    n_evaluations: int,
    at_most: int,
) -> int:
    """Return how many eval rows each evaluation reads: one number for all trials of a study.

    At most `at_most`, and fewer where the evaluations of the shortest trial would cost more
    than `EVALUATION_SHARE` of its training, but never below `LEAST_SAMPLE_ROWS`.
    """
    allowed_tokens = EVALUATION_SHARE / EVALUATION_COST * train_tokens * smallest_epochs
    affordable = math.floor(allowed_tokens / n_evaluations / (eval_tokens / n_eval_rows))
    return min(n_eval_rows, at_most, max(affordable, LEAST_SAMPLE_ROWS))


def write_sample(rows: TokenRows, path: Path) -> None:
    """Write rows as JSON lines, `input_ids` and `labels`, to check an eval loss by hand."""
    with path.open("w") as file:
        for index in range(len(rows)):
            file.write(json.dumps({k: v.tolist() for k, v in rows[index].items()}) + "\n")


def sample_tokens(path: Path) -> dict[str, Any]:
    """Return what tells one sample that `write_sample` wrote from another, and its counts."""
    digest, n_tokens, n_learnt = hashlib.sha256(), 0, 0
    for line in path.read_text().splitlines():
        row = json.loads(line)
        digest.update(json.dumps([row["input_ids"], row["labels"]]).encode())
        n_tokens += len(row["input_ids"])
        n_learnt += sum(label != IGNORED for label in row["labels"][1:])
    return {"digest": digest.hexdigest(), "tokens": n_tokens, "learnt": n_learnt}
