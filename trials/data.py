"""Rows → one tokenised, masked data set on disk that every trial maps into memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from trials.config import DataError
from trials.rows import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["completion", "all"]

IGNORED = -100
"""The label of a token that carries no loss, as in torch's and transformers' cross entropy."""

EVALUATION_SHARE = 0.15
"""Evaluation may cost this share of a trial's training time before the sample is made smaller."""

EVALUATION_COST = 0.5
"""A token's evaluation beside its training: one forward pass of two passes (the base is frozen)."""

LEAST_SAMPLE_ROWS = 32
"""Fewer eval rows than this rank nothing, whatever they cost."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a rendered row."""

    text: str
    supervised: bool
    """Whether its tokens carry loss."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One tokenised row: `input_ids` and `supervised`, each (tokens,)."""

    input_ids: list[int]
    supervised: list[bool]


def render(
    example: Example, tokenizer: PreTrainedTokenizerBase, *, chat: bool, loss_on: LossOn
) -> list[Segment]:
    """Return the row as the model reads it, in stretches with and without loss.

    With `chat`, a prompt and its completion become one user and one assistant turn of the
    tokenizer's chat template. Otherwise they stand one after the other, closed by the
    tokenizer's end of sequence. Every assistant turn of a conversation is supervised.

    Raises:
        DataError: The chat template cannot be split at the assistant's turns.
    """
    if example.text is not None:
        return [Segment(example.text + _end_of_sequence(tokenizer), True)]
    if example.messages is not None:
        messages = [{"role": m.role, "content": m.content} for m in example.messages]
        segments = _chat_segments(messages, tokenizer, example.place)
    elif chat:
        messages = [
            {"role": "user", "content": str(example.prompt)},
            {"role": "assistant", "content": str(example.completion)},
        ]
        segments = _chat_segments(messages, tokenizer, example.place)
    else:
        completion = f"{example.completion}{_end_of_sequence(tokenizer)}"
        segments = [Segment(str(example.prompt), False), Segment(completion, True)]
    if loss_on == "all":
        return [Segment(segment.text, True) for segment in segments]
    return segments


def _end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.eos_token or "")


def _chat_segments(
    messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, place: str
) -> list[Segment]:
    """Split the rendered conversation before and after each assistant turn."""

    def rendered(n_messages: int, *, prompt: bool) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages[:n_messages], tokenize=False, add_generation_prompt=prompt
            )
        )

    whole = rendered(len(messages), prompt=False)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    segments: list[Segment] = []
    done = ""
    for turn in turns:
        before, after = rendered(turn, prompt=True), rendered(turn + 1, prompt=False)
        if not (before.startswith(done) and after.startswith(before) and whole.startswith(after)):
            # Some templates rewrite earlier turns (they drop old reasoning, say). The last turn
            # alone is then the one whose context is what the model will see.
            before = rendered(turns[-1], prompt=True)
            if not whole.startswith(before):
                raise DataError(
                    f"{place}: the chat template of this tokenizer does not begin a conversation "
                    f"with its own prompt, so the supervised part cannot be told. "
                    f"Give rows with prompt and completion, and set data.chat to false."
                )
            return [Segment(before, False), *_closed(whole[len(before) :])]
        segments += [Segment(before[len(done) :], False), *_closed(after[len(before) :])]
        done = after
    return segments


def _closed(turn: str) -> list[Segment]:
    """Split off the line break behind an end-of-turn token: nobody samples it."""
    body = turn.rstrip("\n")
    return [Segment(body, True)] + ([Segment(turn[len(body) :], False)] if body != turn else [])


def tokenize(
    segments: Sequence[Segment], tokenizer: PreTrainedTokenizerBase, *, chat: bool
) -> TokenRow:
    """Tokenise each stretch on its own, so that the border of the loss is exact.

    Outside a chat template the tokenizer's own beginning of sequence, if any, opens the row.
    """
    input_ids: list[int] = []
    supervised: list[bool] = []
    if not chat:
        opening = tokenizer("").input_ids
        if opening and opening[0] == tokenizer.bos_token_id:
            input_ids.append(opening[0])
            supervised.append(False)
    for segment in segments:
        tokens = tokenizer(segment.text, add_special_tokens=False).input_ids
        input_ids += tokens
        supervised += [segment.supervised] * len(tokens)
    return TokenRow(input_ids, supervised)


def has_loss(row: TokenRow, max_length: int) -> bool:
    """Whether a token that carries loss is left when the row is cut.

    The first token of a row is never predicted, so it does not count.
    """
    return any(row.supervised[1:max_length])


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


def count(rows: Sequence[TokenRow], max_length: int) -> SplitCounts:
    """Count what cutting at `max_length` does to `rows`."""
    lengths = sorted(len(row.input_ids) for row in rows)
    kept = [row for row in rows if has_loss(row, max_length)]
    return SplitCounts(
        rows=len(rows),
        cut=sum(len(row.input_ids) > max_length for row in kept),
        dropped=len(rows) - len(kept),
        tokens=sum(min(len(row.input_ids), max_length) for row in kept),
        supervised_tokens=sum(sum(row.supervised[1:max_length]) for row in kept),
        longest=lengths[-1],
        median=lengths[len(lengths) // 2],
    )


def write_rows(rows: Sequence[TokenRow], path: Path) -> None:
    """Write rows end to end: ids and supervised (tokens,), offsets (rows + 1,)."""
    lengths = [len(row.input_ids) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    ids = np.fromiter((i for row in rows for i in row.input_ids), np.int32, offsets[-1])
    supervised = np.fromiter((s for row in rows for s in row.supervised), np.bool_, offsets[-1])
    np.save(f"{path}.ids.npy", ids)
    np.save(f"{path}.supervised.npy", supervised)
    np.save(f"{path}.offsets.npy", offsets)


class TokenRows:
    """Rows of a split, mapped into memory, cut at `max_length`; rows without loss left out."""

    def __init__(self, path: Path, max_length: int) -> None:
        self._ids: npt.NDArray[np.int32] = np.load(f"{path}.ids.npy", mmap_mode="r")
        self._supervised: npt.NDArray[np.bool_] = np.load(f"{path}.supervised.npy", mmap_mode="r")
        offsets: npt.NDArray[np.int64] = np.load(f"{path}.offsets.npy")
        begins = offsets[:-1]
        ends = np.minimum(offsets[1:], begins + max_length)
        # The running count of supervised tokens tells which rows keep one, without a loop.
        total = np.concatenate([[0], np.cumsum(self._supervised, dtype=np.int64)])
        kept = total[ends] > total[np.minimum(begins + 1, ends)]
        self._begins, self._ends = begins[kept], ends[kept]

    def __len__(self) -> int:
        return len(self._begins)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, (rows,)."""
        return self._ends - self._begins

    def __getitem__(self, index: int) -> dict[str, npt.NDArray[np.int64]]:
        """`input_ids` and `labels` of a row, each (tokens,)."""
        row = slice(self._begins[index], self._ends[index])
        input_ids = self._ids[row].astype(np.int64)
        return {
            "input_ids": input_ids,
            "labels": np.where(self._supervised[row], input_ids, IGNORED),
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


def batches(
    rows: TokenRows, *, effective_batch_size: int, micro_batch_size: int, seed: int
) -> Iterator[list[int]]:
    """Yield the micro-batches of one epoch as row indices, shuffled by `seed`.

    Inside an effective batch rows stand by length, so that micro-batches hold little padding.
    The token-weighted loss of the effective batch does not depend on their order.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    lengths = rows.lengths
    for first in range(0, len(order), effective_batch_size):
        batch = order[first : first + effective_batch_size]
        batch = batch[np.argsort(-lengths[batch], kind="stable")]
        for begin in range(0, len(batch), micro_batch_size):
            yield batch[begin : begin + micro_batch_size].tolist()


def write_sample(rows: TokenRows, path: Path) -> None:
    """Write rows as JSON lines, `input_ids` and `labels`, to check an eval loss by hand."""
    with path.open("w") as file:
        for index in range(len(rows)):
            file.write(json.dumps({k: v.tolist() for k, v in rows[index].items()}) + "\n")
