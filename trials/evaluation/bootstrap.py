"""How far a metric moves by the choice of rows: it is computed on rows that are drawn again.

A metric of the user's own need be no mean of rows, so that no formula gives its error. The draws
depend on the number of rows alone: two adapters have the same ones, and what they differ by is
known draw by draw (Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 6).
"""

import base64
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

N_DRAWS = 200
"""Enough for a standard error, within 5 % of it."""

Rows = npt.NDArray[np.int64]


def drawn(
    n_rows: int, score: Callable[[Rows], float], after_each: Callable[[], None] = lambda: None
) -> npt.NDArray[np.float64]:
    """Return a metric of each draw, (draws,).

    Args:
        score: Of rows, by their indices, which come more than once.
        after_each: Called after each draw.
    """
    chance, found = np.random.default_rng(0), []
    for _ in range(N_DRAWS):
        found.append(score(chance.integers(0, n_rows, n_rows)))
        after_each()
    return np.asarray(found, dtype=np.float64)


def as_text(draws: npt.NDArray[np.float64]) -> str:
    return base64.b64encode(draws.astype("<f4").tobytes()).decode()


def from_text(text: str) -> npt.NDArray[np.float64]:
    """Return the draws again, (draws,)."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float64)
