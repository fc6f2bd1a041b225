"""The rows of `data.train`, `data.eval` and `data.test`, and what a report says of reading them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trials.config import DataError
from trials.data.examples import Example, Reading, Source, read_examples, shared_rows, split
from trials.data.formats import Rows
from trials.data.table import nearest
from trials.data.tokens import LEAST_SAMPLE_ROWS

_FIRST_WITHOUT_SPACES = "\u2e80"
"""The scripts of East Asia, which set no spaces between words, begin here."""

Splits = dict[str, list[Example]]
"""The rows of `train`, of `eval`, and of `test` where there are some."""

_WHY_APART = {
    ("eval", "train"): "eval loss would reward memorising them",
    ("test", "train"): "their loss would reward memorising them",
    ("test", "eval"): "the winner would be measured on what it was chosen by",
}


def read_splits(
    train: str | list[str],
    eval_: str | float | list[str],
    test: str | float | list[str] | None,
    reading: Reading,
    *,
    chat: bool | None,
    seed: int,
) -> tuple[Splits, dict[str, Any]]:
    """Return the rows, and `files`, `unread`, `skipped`, `own_system` and notes of the report.

    Raises:
        DataError: With the problems of all files; or rows of two splits are equal.
    """
    given = {"train": train, "eval": eval_, "test": test}
    asked = {name: found for name, found in given.items() if isinstance(found, str | list)}
    read: dict[str, Source] = {}
    problems: list[str] = []
    for name, sources in asked.items():
        try:
            read[name] = read_examples(sources, key=f"data.{name}", reading=reading)
        except DataError as error:
            problems.append(str(error))
    rows = [example for source in read.values() for example in source.examples]
    problems += _of_forms(rows, chat)
    if problems:
        raise DataError("\n".join(problems))
    splits = {name: source.examples for name, source in read.items()}
    _check_apart(splits)  # what is held out of train stays apart
    n_rows = len(splits["train"])
    for name in ("eval", "test"):
        if isinstance(share := given[name], float):
            of_the_rest = min(share * n_rows / len(splits["train"]), 1 - 1e-9)
            rest = split(splits["train"], of_the_rest, seed, key=f"data.{name}")
            splits["train"], splits[name] = rest
    return splits, _told(read, reading)


def _of_forms(rows: Sequence[Example], chat: bool | None) -> list[str]:
    """What is wrong with the rows' forms, as far as that is known without the model."""
    if chat and any(example.text is not None for example in rows):
        return [
            "data.chat: true needs rows with prompt and completion, found rows of one text each. "
            "Remove data.chat."
        ]
    n_turns = sum(example.messages is not None for example in rows)
    if chat is False and n_turns and any(example.prompt is not None for example in rows):
        return [
            f"data.chat: false joins prompt and completion as they are, but {n_turns:,} of "
            f"{len(rows):,} rows are conversations (messages, or rows with a history), which only "
            f"a chat template renders. Remove data.chat, or write data.ignore: [history]"
        ]
    return []


def _check_apart(splits: Splits) -> None:
    problems = []
    for (name, other), why in _WHY_APART.items():
        both = shared_rows(splits[other], splits[name]) if {name, other} <= splits.keys() else []
        if not both:
            continue
        shown = "\n".join(f"  {one} equals {in_other}" for in_other, one in both[:5])
        more = f"\n  and {len(both) - 5} more" if len(both) > 5 else ""
        problems.append(
            f"data.{name}: {len(both)} of its {len(splits[name])} rows are also {other} rows, so "
            f"{why}.\n{shown}{more}\n  Remove them from one of the files, or write "
            f"`{name}: 0.1`, a split that keeps equal rows together."
        )
    if problems:
        raise DataError("\n".join(problems))


def _told(read: dict[str, Source], reading: Reading) -> dict[str, Any]:
    together = Rows()
    for source in read.values():
        together.add(source)
    return {
        "files": {name: source.files for name, source in read.items()},
        "unread": dict(sorted(together.unread.items())),
        "skipped": [{"key": f"data.{n}", **why} for n, s in read.items() for why in s.skipped],
        "own_system": together.n_own_system,
        "reading_notes": [
            f"data.ignore: no column and no key of turns is called `{name}`"
            f"{nearest(name, together.unread)} Remove it, or write its name as the rows do."
            for name in reading.ignore
            if name not in together.ignored
        ],
    }


def check_plain(splits: Splits, *, chat: bool) -> None:
    """See that no row has what only a chat template renders.

    Args:
        chat: Whether prompts and completions become turns.

    Raises:
        DataError: Some have; says which columns, and the mend.
    """
    if chat:
        return
    pairs = [e for rows in splits.values() for e in rows if e.messages is None]
    for what, n in (
        ("system", sum(example.system is not None for example in pairs)),
        ("tools", sum(example.tools is not None for example in pairs)),
    ):
        if n:
            remove = "remove data.system, or " if what == "system" else ""
            raise DataError(
                f"data.chat: only a chat template renders {what}, which {n:,} rows have, but "
                f"prompt and completion are joined as they are here (chat: false). Set data.chat "
                f"to true with an instruct model; or write it into the prompt; or leave it out: "
                f"{remove}write data.ignore: [{what}]"
            )


def notes(train: Sequence[Example], *, chat: bool, n_held_out: Mapping[str, int]) -> list[str]:
    """Return sentences for the person whose rows they are, each with its mend.

    Args:
        chat: Whether prompts and completions become turns of a chat template.
        n_held_out: Rows of each other split that have a loss.
    """
    found = []
    touching = [] if chat else [example for example in train if _touch(example)]
    if len(touching) > len(train) / 2:
        prompt, completion = str(touching[0].prompt), str(touching[0].completion)
        found.append(
            f"data.train: prompt and completion touch in {len(touching):,} of {len(train):,} "
            f"rows, merging two words: …{prompt[-20:]}{completion[:20]}… Start completions with a "
            f"space, or end prompts with a line break."
        )
    for name, do in (("eval", "rank the trials"), ("test", "say how good the winner is")):
        if (n := n_held_out.get(name, LEAST_SAMPLE_ROWS)) < LEAST_SAMPLE_ROWS:
            found.append(
                f"data.{name}: only {n} rows {do}, fewer than {LEAST_SAMPLE_ROWS}: small "
                f"differences are chance. Add {name} rows."
            )
    return found


def _touch(example: Example) -> bool:
    if not example.prompt or not example.completion:
        return False
    border = example.prompt[-1] + example.completion[0]
    return border.isalnum() and max(border) < _FIRST_WITHOUT_SPACES
