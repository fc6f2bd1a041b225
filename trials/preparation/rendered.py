"""What the chat template made of the rows: what is refused, left out, or worth a note."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trials.config import DataError
from trials.data.conversation import Example
from trials.data.tokens import TokenSplit
from trials.preparation.rows import Splits
from trials.rendering.left_out import CALLS, REASONING
from trials.rendering.renderer import SYSTEM_REFUSED, Renderer, RowCounts

_MENDS = {
    "tools": "name a template that renders them (data.chat_template), or leave them out knowingly: "
    "data.ignore: [tools]",
    CALLS: "name a template that renders them (data.chat_template)",
}
_EXAMPLES = 4
"""Rows that are shown, of as many forms."""


def usable(splits: Splits, counts: Mapping[str, RowCounts], *, skip: bool) -> Splits:
    """Return the rows that were rendered.

    Args:
        skip: Whether rows that the template refuses are left out.

    Raises:
        DataError: Rows are refused and not to be skipped, or none is left; or the template leaves
            out all of one kind of content.
    """
    problems: dict[str, list[str]] = {}  # words → the splits that they are true of
    for name, seen in counts.items():
        if seen.refused and (not skip or len(seen.refused_rows) == len(splits[name])):
            for words in _refused(seen, splits[name]):
                problems.setdefault(words, []).append(f"data.{name}")
        for words in _all_left_out(seen):
            problems.setdefault(words, []).append(f"data.{name}")
    if problems:
        raise DataError("\n".join(f"{', '.join(k)}: {w}" for w, k in problems.items()))
    refused = {name: set(seen.refused_rows) for name, seen in counts.items()}
    return {
        name: [row for n, row in enumerate(rows) if n not in refused[name]]
        for name, rows in splits.items()
    }


def _refused(seen: RowCounts, rows: Sequence[Example]) -> Iterator[str]:
    for reason, (n, *places) in seen.refused.items():
        mend = "Fix or remove these rows, or set data.skip_bad_rows: true."
        if n == len(rows) > 1:
            mend = "All rows fail alike: fix the template, or name another (data.chat_template)."
        if reason.endswith(SYSTEM_REFUSED):
            mend = "Put the system text before the first user turn, or leave it out."
        yield f"{n:,} of {len(rows):,} rows: {reason} ({_listed(n, places)}). {mend}"


def _all_left_out(seen: RowCounts) -> Iterator[str]:
    for kind, (n, n_lost, _) in seen.parts.items():
        if n and n == n_lost and kind != REASONING:
            mend = _MENDS.get(kind, "name another template: data.chat_template")
            yield f"the chat template leaves out all {kind} of the rows; {mend}."


def rendering_notes(counts: Iterable[RowCounts]) -> list[str]:
    """Say in sentences what the template does to the rows that a reader would not expect."""
    seen = functools.reduce(RowCounts.plus, counts)
    return [*_left_out(seen), *_noted(seen)]


def _left_out(seen: RowCounts) -> Iterator[str]:
    for kind, (n, n_lost, n_characters) in seen.parts.items():
        if n_lost:
            size = f" ({n_characters:,} characters)" if n_characters else ""
            what = f"the reasoning of {n_lost:,} of {n:,} turns" if kind == REASONING else ""
            yield (
                f"The chat template leaves out {what or f'{n_lost:,} of {n:,} {kind}'}{size}, so a "
                f"model never sees it. Another template may keep it: data.chat_template."
            )


def _noted(seen: RowCounts) -> Iterator[str]:
    for reason, (n, *places) in seen.refused.items():
        yield f"{n:,} rows are skipped: {reason} ({_listed(n, places)})."
    if seen.rewritten:
        yield (
            f"Before {seen.rewritten:,} of {seen.turns:,} learnt turns the chat template renders "
            f"the conversation otherwise when a model generates them."
        )
    if seen.closed:
        yield (
            f"The chat template does not end the last turn: an end is added, and learnt, in "
            f"{seen.closed:,} rows."
        )
    if seen.split:
        yield (
            f"In {seen.split:,} rows a token would lie across the border of what is learnt: they "
            f"are tokenised in two there, as when a model generates. Where a prompt of yours ends "
            f"with a space, move it to the beginning of the answer."
        )


def _listed(n: int, places: Sequence[str]) -> str:
    return ", ".join(places) + (", …" if n > len(places) else "")


def examples(
    rows: Sequence[Example], split: TokenSplit, renderer: Renderer, max_length: int
) -> list[dict[str, Any]]:
    """Return the first row of each form: `place` and `segments`, each a text and whether learnt.

    Args:
        max_length: Rows are shown up to there; those of which nothing is then learnt are not.
    """
    firsts: dict[tuple[bool, ...], int] = {}
    for index in np.flatnonzero(split.supervised_tokens(max_length)).tolist():
        firsts.setdefault(_form(rows[index]), index)
    return [
        {
            "place": rows[index].place
            + (f", its first {max_length} tokens" if split.lengths[index] > max_length else ""),
            "segments": _segments(split, index, renderer, max_length),
        }
        for index in sorted(firsts.values())[:_EXAMPLES]
    ]


def _form(row: Example) -> tuple[bool, ...]:
    turns = row.messages or ()
    return (
        row.text is not None,
        row.messages is not None,
        row.system is not None or any(turn.role in ("system", "developer") for turn in turns),
        row.tools is not None or any(turn.tool_calls for turn in turns),
        any(turn.reasoning for turn in turns),
        sum(turn.role == "assistant" for turn in turns) > 1,
        any(not turn.learnt for turn in turns),
    )


def _segments(
    split: TokenSplit, index: int, renderer: Renderer, max_length: int
) -> list[list[Any]]:
    ids, learnt = (part[:max_length] for part in _tokens(split, index))
    starts = [n for n in range(len(ids)) if n == 0 or learnt[n] != learnt[n - 1]]
    return [
        [_decoded(ids[a:b], renderer), learnt[a]]
        for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)
    ]


def token_rows(
    rows: Sequence[Example], split: TokenSplit, renderer: Renderer, n: int
) -> list[dict[str, Any]]:
    """Return the first rows token by token: `place` and `tokens`, each text, id, whether learnt."""
    return [
        {
            "place": rows[index].place,
            "tokens": [
                [_decoded([token], renderer), token, learnt]
                for token, learnt in zip(*_tokens(split, index), strict=True)
            ],
        }
        for index in range(min(n, len(rows)))
    ]


def _tokens(split: TokenSplit, index: int) -> tuple[list[int], list[bool]]:
    """The ids of a row, and whether each is learnt."""
    row = slice(split.offsets[index], split.offsets[index + 1])
    return split.ids[row].tolist(), split.supervised[row].tolist()


def _decoded(ids: Sequence[int], renderer: Renderer) -> str:
    return str(renderer.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
