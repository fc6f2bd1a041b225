"""What `sweep confirm` has found, in words and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.results.confirmed import Confirmed
from sweep.results.paired_test import CONFIDENCE
from sweep.text.numbers import counted
from sweep.text.trials import SHOWN, short
from trials.config import BY_EVAL_LOSS, Objective

FEW_SEEDS = 3


def confirmed_text(
    name: str, found: Sequence[Confirmed], objective: Objective = BY_EVAL_LOSS
) -> RenderableType:
    """The table, and what it says."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")  # 80 columns hold it
    mean_of = f"mean {objective.heading}"
    for heading in ("trial", "seeds", mean_of, "± s.e.", "in sweep", *SHOWN.values()):
        table.add_column(heading, no_wrap=True)
    for place, each in enumerate(found):
        mean = each.mean
        error = mean.standard_error if mean else None
        table.add_row(
            f"{each.trial:03d}",
            str(mean.n if mean else 0),
            f"{mean.mean:.4f}" if mean else "",
            f"{error:.4f}" if error is not None else "",
            "" if each.first is None else f"{each.first:.4f}",
            *(short(each.hyperparameters[key]) for key in SHOWN),
            style="bold" if place == 0 else "",
        )
    title = Text(f"{name}: the best trials, retrained with other seeds, on all eval rows", "bold")
    return Group(title, table, *(Text(line) for line in verdicts(found)))


def verdicts(found: Sequence[Confirmed]) -> list[str]:
    """What the runs say of the order, in sentences."""
    lines = []
    ranked = [each for each in found if each.mean is not None]
    for each in found:
        for seed, why in each.lost.items():
            lines.append(f"Trial {each.trial} with seed {seed} does not count: {why}")
    if not ranked:
        return [*lines, "No run has a value that counts."]
    best = ranked[0]
    for other in ranked[1:]:
        lines.append(_verdict(best, other))
    n_seeds = min(each.mean.n for each in ranked if each.mean is not None)
    if n_seeds < FEW_SEEDS:
        lines.append(f"{counted(n_seeds, 'seed')} can hardly separate trials: add more --seeds.")
    for adapter in list(best.adapters.values())[:1]:
        lines.append(f"Adapter of trial {best.trial} (one per seed):  {adapter}")
    return lines


def _verdict(best: Confirmed, other: Confirmed) -> str:
    apart = other.above_best
    if apart is None:
        return f"Trials {best.trial} and {other.trial} have no seed in common."
    if apart.half_width is None:
        return (
            f"The order of trials {best.trial} and {other.trial} may be noise: one seed in common."
        )
    interval = f"{apart.mean:.4f} ± {apart.half_width:.4f}, {CONFIDENCE:.0%} interval"
    if not apart.is_beyond_noise:
        return f"Trials {best.trial} and {other.trial} cannot be told apart ({interval})."
    if apart.n < FEW_SEEDS:
        few = f"with {counted(apart.n, 'seed')}"
        return f"Trial {best.trial} may be better than {other.trial}, {few} ({interval})."
    return f"Trial {best.trial} is better than {other.trial} beyond noise ({interval})."


def as_json(name: str, found: Sequence[Confirmed]) -> dict[str, Any]:
    """The same for programs; an eval loss is in nats per supervised token."""
    configurations = []
    for each in found:
        apart = each.above_best
        is_beyond = None if apart is None else apart.is_beyond_noise
        configurations.append({**asdict(each), "is_worse_beyond_noise": is_beyond})
    return {"sweep": name, "configurations": configurations, "verdicts": verdicts(found)}
