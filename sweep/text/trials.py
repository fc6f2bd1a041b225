"""How trials and losses are written, the same everywhere."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sweep.text.numbers import counted
from trials.config import EvalPoint, Objective

SHOWN = {
    "rank": "rank",
    "alpha": "alpha",
    "learning_rate": "lr",
    "epochs": "epochs",
    "effective_batch_size": "batch",
}
"""The hyperparameters of a table, and their headings."""

WHERE = {"target_modules": "modules", "experts": "experts"}
"""What is adapted, and its headings: in a table only where its trials differ in it."""


def where_differs(points: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Those of `WHERE` in which trials differ: without them a table shows two trials as one."""
    given = list(points)
    return {key: WHERE[key] for key in WHERE if len({point.get(key) for point in given}) > 1}


def seen(point: EvalPoint) -> str:
    """What a trial had trained on by an evaluation: `5 steps, 12,340 tokens`."""
    tokens = "" if point.tokens is None else f", {point.tokens:,} tokens"
    return f"{counted(point.step, 'step')}{tokens}"


def an(objective: Objective) -> str:
    """`an eval loss`, `a score of exact_match`."""
    return "an eval loss" if objective.is_eval_loss else f"a score of {objective.name}"


def short(value: float) -> str:
    """A hyperparameter as a table shows it."""
    return f"{value:.2g}" if value < 0.1 else f"{value:g}"


def against_base(eval_loss: float, base_eval_loss: float | None) -> str:
    """The winner's eval loss beside the base model's own, which may be unknown."""
    if base_eval_loss is None:
        return f"Eval loss {eval_loss:.4f}; the base model's is unknown."
    return (
        f"Eval loss {eval_loss:.4f} vs {base_eval_loss:.4f} for the base model "
        f"(perplexity {math.exp(eval_loss):.2f} vs {math.exp(base_eval_loss):.2f})."
    )


def judged_against_base(
    objective: Objective,
    value: float,
    base_value: float | None,
    eval_loss: float | None,
    base_eval_loss: float | None,
) -> str:
    """The winner beside the base model: by its objective, then by its eval loss."""
    losses = "" if eval_loss is None else against_base(eval_loss, base_eval_loss)
    if objective.is_eval_loss:
        return losses
    base = "" if base_value is None else f" vs {base_value:.4f} for the base model"
    return f"{objective.name} {value:.4f}{base} ({objective.direction}d). {losses}".rstrip()


COLOURS: Mapping[str, str] = {
    "completed": "green",
    "overfit": "yellow",
    "diverged": "red",
    "outclassed": "cyan",
    "stopped": "blue",
    "out_of_memory": "red",
    "failed": "bold red",
    "paused": "bright_black",
    "interrupted": "magenta",
}


def as_loss(loss: float | None) -> str:
    """A loss in nats; nothing where there is none."""
    return "" if loss is None else f"{loss:.4f}"
