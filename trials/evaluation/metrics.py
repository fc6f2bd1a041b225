"""Metrics of written completions: the built-in ones, and the user's own function."""

import functools
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from trials.config import Objective
from trials.evaluation.bootstrap import Rows

Metric = Callable[[list[str], list[str], list[dict[str, Any]]], float]
"""(predictions, references, rows) → the score."""


class MetricFailed(RuntimeError):
    """A metric gave no score, in words for the person whose metric it is."""


def score(
    objective: Objective,
    data_dir: Path,
    predictions: Sequence[str],
    references: Sequence[str],
    rows: Sequence[dict[str, Any]],
) -> float:
    """Return the objective's score of the predictions.

    Args:
        data_dir: Of the prepared data, where the user's file is.

    Raises:
        MetricFailed: The user's function raised, or gave what is no finite number.
    """
    if objective.python is None:
        return BUILT_IN[objective.name](list(predictions), list(references), list(rows))
    place = f"objective.python, {objective.python}"
    file_name, _, function = objective.python.rpartition(":")
    try:
        metric: Metric = getattr(_module(data_dir / file_name), function)
        found: object = metric(list(predictions), list(references), [dict(row) for row in rows])
    # SystemExit: it would end the worker's thread, and nobody would hear of it.
    except (Exception, SystemExit) as error:
        where = _line(error, data_dir / file_name)
        words = "; ".join(traceback.format_exception_only(error)[-1].strip().splitlines())
        raise MetricFailed(
            f"{place}{where} raised {words}. The traceback is in the log."
        ) from error
    try:
        value = float(found)  # type: ignore[arg-type]  # a NumPy or torch scalar is welcome
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(found, str | bytes | bool) or not math.isfinite(value):
        raise MetricFailed(f"{place}: must return a finite number, but it returned {found!r:.80}.")
    return value


def of_rows(
    objective: Objective,
    data_dir: Path,
    predictions: Sequence[str],
    references: Sequence[str],
    rows: Sequence[dict[str, Any]],
) -> Callable[[Rows], float]:
    """Return what scores some of the rows, by their indices; arguments as of `score`.

    The built-in metrics are means of rows, each of which is scored once.
    """

    def scored(chosen: Iterable[int]) -> float:
        some = [(predictions[n], references[n], rows[n]) for n in chosen]
        return score(objective, data_dir, *zip(*some, strict=True))

    if objective.python is not None:
        return scored
    each = np.array([scored([row]) for row in range(len(rows))])
    return lambda chosen: float(each[chosen].mean())


def exact_match(predictions: list[str], references: list[str], rows: list[dict[str, Any]]) -> float:
    """Return the share of predictions that equal their reference, white space at the ends apart."""
    return fmean(p.strip() == r.strip() for p, r in zip(predictions, references, strict=True))


def rouge_l(predictions: list[str], references: list[str], rows: list[dict[str, Any]]) -> float:
    """Return the mean ROUGE-L F1, from 0 to 1: of the longest common subsequence of words.

    As `rouge-score` counts words, without stemming: in lower case, and letters a to z and digits
    alone, so it says nothing of other scripts.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    pairs = zip(predictions, references, strict=True)
    return fmean(scorer.score(r, p)["rougeL"].fmeasure for p, r in pairs)


BUILT_IN: dict[str, Metric] = {"exact_match": exact_match, "rouge_l": rouge_l}


@functools.lru_cache(maxsize=1)
def _module(path: Path) -> Any:
    """Run the user's file, once in a process: it was named in the space for that."""
    spec = importlib.util.spec_from_file_location("sweep_objective", path)
    assert spec is not None and spec.loader is not None, "the space names a .py file"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles of it look there
    spec.loader.exec_module(module)
    return module


def _line(error: BaseException, path: Path) -> str:
    """The last line of the user's file that the error went through."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return f" (line {lines[-1]})" if lines else ""
