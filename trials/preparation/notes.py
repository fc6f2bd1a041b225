"""What is worth knowing of rows that can be trained on as they are."""

from __future__ import annotations

from collections.abc import Sequence

from trials.data.examples import Example
from trials.data.tokens import LEAST_SAMPLE_ROWS

_FIRST_WITHOUT_SPACES = "\u2e80"
"""The scripts of East Asia, which set no spaces between words, begin here."""


def notes(train: Sequence[Example], *, chat: bool, n_eval_rows: int) -> list[str]:
    """Return sentences for the person whose rows they are, each with its mend.

    Args:
        chat: Whether prompts and completions become turns of a chat template.
        n_eval_rows: Eval rows that have a loss.
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
    if n_eval_rows < LEAST_SAMPLE_ROWS:
        found.append(
            f"data.eval: only {n_eval_rows} rows rank the trials, fewer than {LEAST_SAMPLE_ROWS}: "
            f"small differences are chance. Add eval rows."
        )
    return found


def _touch(example: Example) -> bool:
    if not example.prompt or not example.completion:
        return False
    border = example.prompt[-1] + example.completion[0]
    return border.isalnum() and max(border) < _FIRST_WITHOUT_SPACES
