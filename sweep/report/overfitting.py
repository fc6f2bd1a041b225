"""Where trials overfit: train and eval loss of each on one axis, and what follows from them."""

import itertools
from collections.abc import Sequence
from html import escape
from statistics import median

from sweep.report import charts
from sweep.report.sections import Chart, outcome_cell
from sweep.results.conclusion import Conclusion
from sweep.results.losses import Losses, known, losses_of
from sweep.results.reading import StoredSweep
from sweep.study.ended import StoredTrial, place
from sweep.text.numbers import counted
from sweep.tracking.location import command

N_TRIALS = 12
"""Drawn one by one."""
FAR = 3.0
"""A trial further above the lowest loss than so many times the usual has an axis of its own."""
ENOUGH = 5
"""Overfit trials, before it is said what their learning rates have to do with it."""


def losses_section(sweep: StoredSweep, found: Conclusion | None, chart: Chart) -> str:
    """Train and eval loss of the best trials, each in a chart of its own, on equal axes."""
    there = [(trial, it) for trial in _best_first(sweep, found) if (it := losses_of(sweep, trial))]
    there = [(trial, it) for trial, it in there if known(it.eval)]
    if not there:
        return ""
    shown = there[:N_TRIALS]
    axis = _range([it for _, it in shown])
    drawn = "".join(
        f"<figure><figcaption>{_caption(trial, it, axis, found)}</figcaption>"
        f"{chart(_figure(trial, it, axis))}</figure>"
        for trial, it in shown
    )
    return (
        f"<h2>Train and eval loss</h2><p>{_words(sweep, len(shown), len(there))}</p>"
        f'<div class="grid small">{drawn}</div>'
    )


def _best_first(sweep: StoredSweep, found: Conclusion | None) -> list[StoredTrial]:
    def order(trial: StoredTrial) -> tuple[bool, bool, float, int]:
        is_winner = found is not None and trial.number == found.winner.number
        return not is_winner, not trial.counts, *place(sweep.objective, trial)

    return sorted(sweep.trials, key=order)


def _words(sweep: StoredSweep, n_shown: int, n: int) -> str:
    line = f"{command('show', sweep.folder)} --plot NUMBER"
    more = f" {n_shown} of {n:,} trials are drawn; any other: <code>{escape(line)}</code>"
    return (
        "Eval loss solid, train loss dotted, in nats over epochs, the best trial first. The dot is "
        "its best evaluation. Shaded is what was trained after it while eval loss rose and train "
        f"loss fell: there the trial overfits.{more if n > n_shown else ''}"
    )


def _top(losses: Losses) -> float:
    """Of what a chart must show: a first evaluation may lie above it."""
    evals = known(losses.eval)
    return max(min(evals), evals[-1])


def _range(shown: Sequence[Losses]) -> tuple[float, float]:
    """The axis that the trials have in common."""
    low = min(loss for it in shown for loss in known([*it.eval, *it.train]))
    tops = [_top(it) for it in shown]
    high = max(top for top in tops if top <= low + FAR * (median(tops) - low))
    room = 0.08 * (high - low) or 0.05 * abs(low) or 0.1
    return low - room, high + 2 * room


def _is_beyond(losses: Losses, axis: tuple[float, float]) -> bool:
    return _top(losses) > axis[1]


def _caption(
    trial: StoredTrial, losses: Losses, axis: tuple[float, float], found: Conclusion | None
) -> str:
    best = min(known(losses.eval)) if losses.kept is None else losses.eval[losses.kept]
    won = ", <strong>winner</strong>" if found and trial.number == found.winner.number else ""
    own = ", on an axis of its own" if _is_beyond(losses, axis) else ""
    return f"{trial.number:03d} {outcome_cell(trial.outcome)} {best:.4f}{won}{own}"


def _figure(trial: StoredTrial, losses: Losses, axis: tuple[float, float]) -> charts.Figure:
    colour, x = charts.COLOURS[trial.outcome], list(losses.epochs)
    mode = "lines" if len(x) > 1 else "markers"
    hover = {"hovertemplate": "%{y:.4f}", "connectgaps": True, "mode": mode}
    traces: list[charts.Figure] = [
        {"type": "scatter", "name": name, "x": x, "y": list(y), "line": line, **hover}
        for name, y, line in (
            ("train", losses.train, {"color": "#8a8f98", "width": 2, "dash": "dot"}),
            ("eval", losses.eval, {"color": colour, "width": 2}),
        )
    ]
    shapes: list[charts.Figure] = []
    if (kept := losses.kept) is not None:
        dot = {"x": [x[kept]], "y": [losses.eval[kept]], "marker": {"color": colour, "size": 9}}
        traces.append({"type": "scatter", "name": "best", **hover, **dot, "mode": "markers"})
        if losses.overfits:
            place = {"x0": x[kept], "x1": x[-1], "yref": "paper", "y0": 0, "y1": 1}
            fill = {"fillcolor": "rgba(217,154,0,0.18)", "line": {"width": 0}, "layer": "below"}
            shapes.append({"type": "rect", **place, **fill})
    y_axis = {"automargin": True, "nticks": 4}
    return {
        "data": traces,
        "layout": {
            "height": 170,
            "margin": {"l": 10, "r": 8, "t": 4, "b": 10},
            "showlegend": False,
            "hovermode": "x unified",
            "shapes": shapes,
            "xaxis": {"automargin": True, "nticks": 5, "rangemode": "tozero"},
            "yaxis": y_axis | ({} if _is_beyond(losses, axis) else {"range": list(axis)}),
        },
    }


def overfitting_section(sweep: StoredSweep, chart: Chart) -> str:
    """In words where it began; beside the learning rates where there are trials that did."""
    overfit = [t for t in sweep.trials if t.outcome == "overfit" and t.best_epoch is not None]
    head = "<h2>Where overfitting began</h2>"
    if not overfit:
        return f"{head}<p>{_none_overfit(sweep)}</p>"
    placed = [t for t in overfit if "learning_rate" in t.hyperparameters]
    drawn = chart(charts.overfitting(placed, sweep.objective)) if placed else ""
    return f"{head}<p>{_began(sweep, overfit)} {_by_rate(placed)}</p>{drawn}"


def _none_overfit(sweep: StoredSweep) -> str:
    last = [t.points[-1]["index"] for t in _completed(sweep)]
    best = [(t.result.get("best") or {}).get("index") for t in _completed(sweep)]
    n_at_end = sum(a == b for a, b in zip(last, best, strict=True))
    words = "No trial was stopped as overfit."
    if not last:
        return words
    more = " More epochs may gain." if n_at_end > len(last) / 2 else ""
    of = counted(len(last), "completed trial")
    return f"{words} Of {of}, {n_at_end} reached the best at the very end.{more}"


def _completed(sweep: StoredSweep) -> list[StoredTrial]:
    return [t for t in sweep.trials if t.outcome == "completed" and t.points]


def _began(sweep: StoredSweep, overfit: Sequence[StoredTrial]) -> str:
    epochs = sorted(t.best_epoch for t in overfit if t.best_epoch is not None)
    n = counted(len(sweep.trials), "trial")
    best = f"{escape(sweep.objective.heading)} was {sweep.objective.extreme}"
    middle = counted(float(f"{median(epochs):.3g}"), "epoch")
    if len(epochs) == 1:
        return f"1 of {n} overfit: its {best} after {middle}."
    spread = f" (median; {epochs[0]:.3g} to {epochs[-1]:.3g})" if epochs[0] < epochs[-1] else ""
    return (
        f"{len(epochs)} of {n} overfit. Their {best} after {middle}{spread}: training them for "
        "longer brought nothing."
    )


def _by_rate(overfit: Sequence[StoredTrial]) -> str:
    """Whether a higher learning rate made it begin sooner: of all pairs of trials, how many say so
    (Kendall's rank correlation)."""
    if len(overfit) < ENOUGH:
        return ""
    points = [(t.hyperparameters["learning_rate"], t.best_epoch or 0.0) for t in overfit]
    signs = [(a - c) * (b - d) for (a, b), (c, d) in itertools.combinations(points, 2)]
    sooner, later = sum(sign < 0 for sign in signs), sum(sign > 0 for sign in signs)
    if abs(later - sooner) < 0.5 * len(signs):
        return "Their learning rates did not decide when."
    return f"The higher the learning rate, the {'sooner' if sooner > later else 'later'} it began."
