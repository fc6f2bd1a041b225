"""The charts of report.html, as figures of plotly: plain data, drawn by its script in the page.

Colours of text and grid are not in them: the page sets these, for light or dark.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from sweep.results.reading import StoredSweep
from sweep.study.ended import StoredTrial, place
from sweep.study.importance import Importance
from trials.config import Objective

Figure = dict[str, Any]

COLOURS = {
    "completed": "#2a9d5c",
    "overfit": "#d99a00",
    "diverged": "#d1495b",
    "outclassed": "#4a90c8",
    "stopped": "#3aa6a0",
    "out_of_memory": "#9b6de0",
    "failed": "#e0603a",
    "running": "#8a8f98",
    "paused": "#6f8fa8",
    "waiting": "#8a8f98",
}
N_CURVES = 200
N_POINTS = 1500
"""Drawn at most: more are one blot, and slow on a phone."""
LOW_TO_HIGH = [[0, "#1f77e0"], [0.5, "#8a8f98"], [1, "#d99a00"]]
"""Stands out on white and on black, and to those who do not tell red from green."""
LOGARITHMIC = ("learning_rate",)


def thinned(trials: Sequence[StoredTrial], most: int, objective: Objective) -> list[StoredTrial]:
    """Return the best quarter of `most`, and of the others every so many; all if they are few."""
    if len(trials) <= most:
        return list(trials)
    ranked = sorted(trials, key=lambda trial: (not trial.counts, place(objective, trial)))
    best, others = ranked[: most // 4], ranked[most // 4 :]
    n = most - len(best)
    return best + [others[i * len(others) // n] for i in range(n)]


def curves(sweep: StoredSweep) -> Figure:
    """The objective over the share of each trial's own run."""
    winner = sweep.decided[0] if sweep.decided else None
    n = sweep.n_evaluations
    shown = thinned([trial for trial in sweep.trials if trial.curve], N_CURVES, sweep.objective)
    traces: list[Figure] = []
    for outcome in COLOURS:
        x: list[float | None] = []
        y: list[float | None] = []
        text: list[str | None] = []
        for trial in shown:
            if trial.outcome != outcome or trial is winner:
                continue
            x += [*(100 * index / n for index, _ in trial.curve), None]
            y += [*(loss for _, loss in trial.curve), None]
            text += [*(f"trial {trial.number:03d}" for _ in trial.curve), None]
        if x:
            traces.append(_lines(outcome, COLOURS[outcome], x, y, text, width=1, opacity=0.7))
    if winner is not None:
        x, y = [100 * i / n for i, _ in winner.curve], [loss for _, loss in winner.curve]
        text = [f"trial {winner.number:03d}, the winner"] * len(x)
        traces.append(_lines("winner", COLOURS[winner.outcome], x, y, text, width=4, opacity=1))
    axis = _value_axis(curve_values(shown), sweep.objective)
    return _figure(traces, "share of the trial's run, %", axis, legend=True)


def best_by_trial(sweep: StoredSweep) -> Figure:
    """The best objective so far, over trials in the order in which they ended."""
    ended = in_order(sweep)
    return _best(ended, list(range(1, len(ended) + 1)), "trials ended", sweep.objective)


def best_by_time(sweep: StoredSweep) -> Figure:
    """The same over hours since the first trial began, pauses included."""
    ended = in_order(sweep)
    began = sweep.began_at or 0.0
    since = [((trial.ended_at or began) - began) / 3600 for trial in ended]
    hours = list(itertools.accumulate([0.0, *since], max))[1:]  # the clock may have been set back
    if max(hours, default=0.0) < 1:
        minutes = [60 * h for h in hours]
        return _best(ended, minutes, "minutes since the first trial began", sweep.objective)
    return _best(ended, hours, "hours since the first trial began", sweep.objective)


def in_order(sweep: StoredSweep) -> list[StoredTrial]:
    """Trials that have ended, in the order in which they did."""
    ended = [trial for trial in sweep.trials if trial.ended_at is not None]
    return sorted(ended, key=lambda trial: (trial.told, trial.ended_at, trial.number))


def _best(
    ended: Sequence[StoredTrial], places: Sequence[float], title: str, objective: Objective
) -> Figure:
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str | None] = []
    best: float | None = None
    for trial, at in zip(ended, places, strict=True):
        if not trial.counts or trial.value is None:
            continue
        if best is None or objective.key(trial.value) < objective.key(best):
            best = trial.value
            x, y, text = [*x, at], [*y, best], [*text, f"trial {trial.number:03d}"]
    if x:
        x, y, text = [*x, places[-1]], [*y, best], [*text, "so far"]
    trace = _lines("best", COLOURS["completed"], x, y, text, width=3, opacity=1)
    trace |= {"mode": "lines+markers", "line": {**trace["line"], "shape": "hv"}}
    return _figure([trace], title, {"title": {"text": f"best {axis_title(objective)}"}})


def importance(found: Sequence[Importance]) -> Figure:
    """Shares as bars, with the spread over resamples."""
    rising = list(reversed(found))
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [one.name for one in rising],
        "x": [one.share for one in rising],
        "marker": {"color": COLOURS["outclassed"]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, one.high - one.share) for one in rising],
            "arrayminus": [max(0.0, one.share - one.low) for one in rising],
        },
    }
    figure = _figure([trace], "importance (all sum to 1)", {})
    figure["layout"]["height"] = 110 + 34 * len(found)
    return figure


def one_slice(sweep: StoredSweep, name: str) -> Figure:
    """The best objective of each trial against one hyperparameter."""
    there = [
        t for t in sweep.trials if t.value is not None and t.hyperparameters.get(name) is not None
    ]
    shown = thinned(there, N_POINTS, sweep.objective)
    traces = []
    for outcome, colour in COLOURS.items():
        some = [trial for trial in shown if trial.outcome == outcome]
        if some:
            x = [_plain(trial.hyperparameters[name]) for trial in some]
            traces.append(_dots(outcome, colour, x, [trial.value for trial in some], some))
    figure = _figure(traces, name, _value_axis(best_values(shown), sweep.objective))
    figure["layout"]["xaxis"] |= _x_axis(name, [trial.hyperparameters[name] for trial in shown])
    figure["layout"]["height"] = 260
    return figure


def parallel(sweep: StoredSweep) -> Figure:
    """Hyperparameters of each trial that counts, as a line across axes, coloured by objective."""
    shown = thinned(sweep.ranked, N_POINTS, sweep.objective)
    names = [n for n in sweep.searched if all(t.hyperparameters.get(n) is not None for t in shown)]
    losses = [trial.value for trial in shown if trial.value is not None]
    # Up to where eight in ten lie: one bad trial would give all others the same colour.
    ranked = sorted(losses, key=sweep.objective.key)
    low, high = sorted([ranked[0], ranked[int(0.8 * (len(ranked) - 1))]])
    ends = {"cmin": low, "cmax": high, "reversescale": sweep.objective.direction == "maximize"}
    axes = [_axis(name, [trial.hyperparameters[name] for trial in shown]) for name in names]
    trace = {
        "type": "parcoords",
        "dimensions": [*axes, {"label": sweep.objective.heading, "values": losses}],
        "line": {"color": losses, "colorscale": LOW_TO_HIGH, **ends},
        "labelangle": -20,
        "labelside": "bottom",
        "rangefont": {"color": "rgba(0,0,0,0)"},  # would lie over the labels
    }
    margin = {"l": 50, "r": 70, "t": 25, "b": 90}
    return {"data": [trace], "layout": {"height": 380, "margin": margin}}


def _axis(name: str, values: Sequence[Any]) -> Figure:
    kind = _axis_type(name, values)
    if kind == "category":
        words = sorted({str(value) for value in values})
        places = [words.index(str(value)) for value in values]
        ticks = {"tickvals": list(range(len(words))), "ticktext": words}
        return {"label": name, "values": places, **ticks}
    if kind == "log":
        logs = [math.log10(value) for value in values]
        marks = [min(logs) + i * (max(logs) - min(logs)) / 4 for i in range(5)]
        ticks = {"tickvals": marks, "ticktext": [f"{10**mark:.1e}" for mark in marks]}
        return {"label": name, "values": logs, **ticks}
    few = sorted(set(values))
    ticks = {"tickvals": few} if len(few) <= 8 else {}
    return {"label": name, "values": list(values), **ticks}


def overfitting(trials: Sequence[StoredTrial], objective: Objective) -> Figure:
    """Epoch of the lowest eval loss of overfit trials against their learning rate."""
    some = thinned(trials, N_POINTS, objective)
    x = [trial.hyperparameters["learning_rate"] for trial in some]
    trace = _dots("overfit", COLOURS["overfit"], x, [trial.best_epoch for trial in some], some)
    axis = {"title": {"text": "epoch where it began"}, "rangemode": "tozero"}
    figure = _figure([trace], "learning_rate", axis)
    figure["layout"]["xaxis"] |= _x_axis("learning_rate", x)
    return figure


def seconds_by_outcome(rows: Sequence[tuple[str, float]]) -> Figure:
    """Hours of trials by outcome."""
    shown = list(reversed(rows))
    unit, per = ("hours", 3600) if sum(s for _, s in rows) >= 3600 else ("minutes", 60)
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [outcome for outcome, _ in shown],
        "x": [seconds / per for _, seconds in shown],
        "marker": {"color": [COLOURS[outcome] for outcome, _ in shown]},
    }
    figure = _figure([trace], f"{unit} of training and evaluation", {})
    figure["layout"]["height"] = 110 + 34 * len(rows)
    return figure


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _axis_type(name: str, values: Sequence[Any]) -> str:
    if any(isinstance(_plain(value), str) for value in values):
        return "category"
    return "log" if name in LOGARITHMIC and min(values, default=1) > 0 else "linear"


def _are_apart(values: Sequence[float], kind: str) -> bool:
    """Whether each of some ascending values has room for its label beside the next."""
    places = [math.log10(value) for value in values] if kind == "log" else values
    room = 0.12 * (places[-1] - places[0])
    return all(after - before >= room for before, after in itertools.pairwise(places))


def _x_axis(name: str, values: Sequence[Any]) -> Figure:
    kind = _axis_type(name, values)
    few = sorted(set(values)) if kind != "category" else []
    if 0 < len(few) <= 8 and _are_apart(few, kind):
        words = [f"{value:.1e}" if 0 < value < 0.01 else f"{value:g}" for value in few]
        return {"type": kind, "tickvals": few, "ticktext": words}
    if kind == "log":
        decades = math.log10(max(values) / min(values))
        return {"type": kind, "tickformat": ".0e", "dtick": 1 if decades >= 2.5 else "D2"}
    return {"type": kind}


def axis_title(objective: Objective) -> str:
    """With its unit."""
    return "eval loss, nats" if objective.is_eval_loss else objective.name


def _value_axis(values: Sequence[float], objective: Objective) -> Figure:
    axis: Figure = {"title": {"text": axis_title(objective)}}
    return axis | ({"range": value_range(values, objective)} if values else {})


def value_range(values: Sequence[float], objective: Objective) -> list[float]:
    """From the best to where nine in ten lie: a few that are far off would flatten the rest.

    Args:
        values: One at least.
    """
    ranked = sorted(values, key=objective.key)
    best, worst = ranked[0], ranked[int(0.9 * (len(ranked) - 1))]
    room = 0.08 * abs(worst - best) or 0.05 * abs(best) or 0.1
    if objective.direction == "minimize":
        return [best - room, worst + 2 * room]
    return [worst - 2 * room, best + room]


def curve_values(trials: Sequence[StoredTrial]) -> list[float]:
    """The objective in all curves, without those of trials that diverged."""
    return [value for trial in _sound(trials) for _, value in trial.curve]


def best_values(trials: Sequence[StoredTrial]) -> list[float]:
    """The best of each trial that has one, without those that diverged."""
    return [trial.value for trial in _sound(trials) if trial.value is not None]


def _sound(trials: Sequence[StoredTrial]) -> Sequence[StoredTrial]:
    return [trial for trial in trials if trial.outcome != "diverged"] or trials


def _lines(
    name: str,
    colour: str,
    x: Sequence[float | None],
    y: Sequence[float | None],
    text: Sequence[str | None],
    *,
    width: int,
    opacity: float,
) -> Figure:
    line = {"color": colour, "width": width}
    shown = {"x": x, "y": y, "text": text, "hovertemplate": "%{text}<br>%{y:.4f}<extra></extra>"}
    return {"type": "scatter", "mode": "lines", "name": name, "line": line} | {
        "opacity": opacity,
        **shown,
    }


def _dots(
    name: str,
    colour: str,
    x: Sequence[Any],
    y: Sequence[float | None],
    trials: Sequence[StoredTrial],
) -> Figure:
    marker = {"color": colour, "size": 7, "opacity": 0.7}
    text = [f"trial {trial.number:03d}" for trial in trials]
    hover = "%{text}<br>%{x}: %{y:.4f}<extra></extra>"
    dots = {"type": "scatter", "mode": "markers", "name": name, "marker": marker}
    return {**dots, "x": x, "y": y, "text": text, "hovertemplate": hover}


def _figure(traces: list[Figure], x_title: str, y_axis: Figure, *, legend: bool = False) -> Figure:
    layout = {
        "height": 400 if legend else 300,
        "margin": {"l": 10, "r": 12, "t": 10, "b": 10},
        "showlegend": legend,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {"title": {"text": x_title}, "automargin": True},
        "yaxis": {"automargin": True, **y_axis},
    }
    return {"data": traces, "layout": layout}
