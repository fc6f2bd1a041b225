"""The report's main charts as pictures, for places that show nothing else: MLflow's description."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.folder import layout
from sweep.report.charts import (
    COLOURS,
    LOGARITHMIC,
    N_CURVES,
    N_POINTS,
    axis_title,
    best_values,
    curve_values,
    in_order,
    thinned,
    value_range,
)
from sweep.results.reading import StoredSweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_plots(sweep: StoredSweep) -> list[Path]:
    """Write PNG files into `plots/` of a sweep's folder, and return their paths.

    Raises:
        OSError: They cannot be written.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # of a home that cannot be written
    from matplotlib.figure import Figure  # half a second, which only the end of a sweep pays

    draw: dict[str, Callable[[StoredSweep, Figure], None]] = {
        "curves_by_trial": _curves,
        "best_so_far": _best,
        "hyperparameters": _slices,
    }
    if not any(trial.curve for trial in sweep.trials):
        return []
    (sweep.folder / layout.PLOTS).mkdir(exist_ok=True)
    paths = []
    for name, on in draw.items():
        figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
        on(sweep, figure)
        path = sweep.folder / layout.PLOTS / f"{name}.png"
        figure.savefig(path)
        paths.append(path)
    return paths


def _axes(place: Axes, x_label: str) -> Axes:
    place.spines[["top", "right"]].set_visible(False)
    place.grid(alpha=0.25)
    place.set_xlabel(x_label)
    place.ticklabel_format(axis="y", useOffset=False)  # 2.6471, not 14 and +2.647 elsewhere
    return place


def _curves(sweep: StoredSweep, figure: Any) -> None:
    axes = _axes(figure.subplots(), "share of the trial's run, %")
    winner = sweep.decided[0] if sweep.decided else None
    shown = thinned([trial for trial in sweep.trials if trial.curve], N_CURVES, sweep.objective)
    named = set()
    for trial in shown:
        label = trial.outcome if trial.outcome not in named else None
        named.add(trial.outcome)
        axes.plot(
            [100 * index / sweep.n_evaluations for index, _ in trial.curve],
            [loss for _, loss in trial.curve],
            color=COLOURS[trial.outcome],
            label=label and label.replace("_", " "),
            linewidth=3 if trial is winner else 1,
            alpha=1 if trial is winner else 0.6,
            marker="." if len(trial.curve) == 1 else "",
            zorder=3 if trial is winner else 2,
        )
    axes.set_ylim(*value_range(curve_values(shown), sweep.objective))
    axes.set_ylabel(axis_title(sweep.objective))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def _best(sweep: StoredSweep, figure: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes = _axes(figure.subplots(), "trials ended")
    ended = in_order(sweep)
    best, so_far = math.nan, []
    for trial in ended:
        if trial.counts and trial.value is not None:
            best = min((b for b in (trial.value, best) if b == b), key=sweep.objective.key)
        so_far.append(best)
    axes.step(range(1, len(ended) + 1), so_far, where="post", color=COLOURS["completed"])
    if sweep.base_value is not None:
        axes.axhline(sweep.base_value, color="#8a8f98", linestyle=":", label="base model")
        axes.legend(frameon=False)
    axes.set_ylabel(f"best {axis_title(sweep.objective)}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _slices(sweep: StoredSweep, figure: Any) -> None:
    names = sweep.searched[:6]
    if not names:
        return
    all_axes: Sequence[Any] = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    there = [trial for trial in sweep.trials if trial.value is not None]
    shown = thinned(there, N_POINTS, sweep.objective)
    for name, place in zip(names, all_axes, strict=True):
        axes = _axes(place, name.replace("_", " "))
        values = [trial.hyperparameters.get(name) for trial in shown]
        is_text = any(isinstance(value, bool | str) or value is None for value in values)
        axes.scatter(
            [str(value) for value in values] if is_text else values,  # type: ignore[arg-type]
            [trial.value for trial in shown],  # type: ignore[arg-type]
            c=[COLOURS[trial.outcome] for trial in shown],
            s=16,
            alpha=0.7,
        )
        if name in LOGARITHMIC:
            axes.set_xscale("log")
        elif not is_text and len(few := sorted(set(values))) <= 5:  # type: ignore[type-var]
            axes.set_xticks(few)  # type: ignore[arg-type]
    all_axes[0].set_ylim(*value_range(best_values(shown), sweep.objective))
    all_axes[0].set_ylabel(f"best {axis_title(sweep.objective)}")
