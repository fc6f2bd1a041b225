"""`report.html`: what a sweep has found, in one file that needs nothing else, not even a network.

Its charts are plotly's, whose script (some megabytes) is in the file once. A drawing made
beforehand would be smaller, but has one width and one theme, and cannot say which trial a line is;
the axes of the parallel coordinates can be dragged here, which is what that chart is for. So that
10,000 trials still open, only some of them are drawn, and the page says so where it is.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from sweep.report import charts
from sweep.report.importance import MAX_TRIALS, MIN_TRIALS, N_RESAMPLES, importances, usable
from sweep.report.report_confirmed import confirmed_section
from sweep.report.style import POLICY, SCRIPT, STYLE
from sweep.results.sweep_data import Data, Shown, read_data
from sweep.screen.summary import an, judged_against_base
from sweep.text.numbers import counted, duration
from trials.config import Objective
from trials.whole_file import write_whole

FILE_NAME = "report.html"
EARLY_STOPS = ("overfit", "diverged", "outclassed", "stopped")
LOST = ("failed", "out_of_memory")
N_ROWS = 20
"""Of the tables that could be long."""


def write_report(folder: Path, data: Data | None = None) -> Path:
    """Write report.html into the folder of a sweep, whole or not at all, and return its path.

    Args:
        data: What there is of the sweep, where it has been read.

    Raises:
        StudyError: There is no study, or it cannot be read.
        OSError: The file cannot be written.
    """
    path = folder / FILE_NAME
    write_whole(path, page(data or read_data(folder)))
    return path


def page(data: Data) -> str:
    """The report as HTML."""
    from plotly.offline import get_plotlyjs

    figures: list[charts.Figure] = []

    def chart(figure: charts.Figure) -> str:
        figures.append(figure)
        return f'<div class="chart" id="chart-{len(figures) - 1}"></div>'

    body = "\n".join(
        [
            _headline(data),
            _best_ten(data),
            confirmed_section(data.confirmed, _table),
            _curves(data, chart),
            _importance(data, chart),
            _slices(data, chart),
            _overfitting(data, chart),
            _out_of_memory(data),
            _time(data, chart),
        ]
    )
    # `<` would end the element that the figures are in, wherever a value holds `</script>`.
    in_json = json.dumps(figures, allow_nan=False).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(data.name)}: sweep report</title>
<style>{STYLE}</style>
</head>
<body>
{body}
<script type="application/json" id="figures">{in_json}</script>
<script>{get_plotlyjs()}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


Chart = Callable[[charts.Figure], str]


def _headline(data: Data) -> str:
    counts = Counter(trial.outcome for trial in data.trials)
    outcomes = ", ".join(
        f'<span class="dot" style="background:{charts.COLOURS[o]}"></span>{n} {_words(o)}'
        for o, n in counts.most_common()
    )
    top = f"<h1>{escape(data.name)}</h1>"
    state = f"{counted(len(data.trials), 'trial')}: {outcomes}. The sweep: {escape(data.state)}."
    if not data.ranked:
        return (
            f'{top}<div class="headline"><p>No trial has reached '
            f"{escape(an(data.objective))} that counts, so "
            f'there is no winner.</p></div><p class="dim">{state}</p>'
        )
    winner = data.ranked[0]
    assert winner.best is not None
    names = data.searched or list(winner.values)
    point = ", ".join(f"{escape(name)} {_value(winner.values.get(name))}" for name in names)
    return (
        f'{top}<div class="headline"><p><strong>Trial {winner.number:03d} has the '
        f"{data.objective.extreme} {escape(data.objective.heading)}</strong>, with {point}.</p>"
        f"<p>{escape(_against_base(data))}</p>"
        f'<p>{beyond_noise(data)}{_no_better_than_base(data)}</p></div><p class="dim">{state}</p>'
    )


def _against_base(data: Data) -> str:
    best = data.ranked[0].best
    assert best is not None
    eval_loss = best if data.objective.is_eval_loss else None
    return judged_against_base(
        data.objective, best, data.base_value, eval_loss, data.base_eval_loss
    )


def beyond_noise(data: Data) -> str:
    """Whether the winner's lead is more than chance, in words."""
    n, n_ranked = data.n_like_the_winner, len(data.ranked)
    if n_ranked < 2:
        heading = escape(an(data.objective))
        return f"No other trial has {heading} that counts, so nothing says how good that is."
    if data.noise == 0 and not data.objective.is_eval_loss:
        return (
            "How much of its lead is noise is not known: late in the trials the score stays where "
            "it is. Each row that it is measured on is worth one step of it; the rows are few."
        )
    if data.noise == 0:
        return "How much of its lead is noise is not known: no trial has two late evaluations."
    unit = " nats" if data.objective.is_eval_loss else ""
    is_counted = data.objective.name == "exact_match"
    or_a_row = ", or one row if that is more" if is_counted else ""
    move = f"the median move between late evaluations of a trial{or_a_row}"
    noise = f"noise ({data.noise:.4f}{unit}, {move})"
    seeds = "One seed each: another seed may move a trial further than that."
    if n == 1:
        second = data.ranked[1].best or 0.0
        lead = abs(second - (data.ranked[0].best or 0.0))
        return f"Its lead of {lead:.4f} over the second is beyond {noise}. {seeds}"
    return (
        f"<strong>The first {n} are not told apart</strong>: they differ by no more than {noise}. "
        f"Take the cheapest of them. {seeds}"
    )


def _no_better_than_base(data: Data) -> str:
    base, best = data.base_value, data.ranked[0].best
    key = data.objective.key
    if base is None or best is None or key(base) - key(best) > data.noise:
        return ""
    return " <strong>The winner is no better than the base model, beyond noise.</strong>"


def _best_ten(data: Data) -> str:
    if not data.ranked:
        return ""
    names = data.searched
    rows = []
    for trial in data.ranked[:10]:
        seconds = "" if trial.seconds is None else duration(trial.seconds)
        cells = [f"{trial.number:03d}", f"{trial.best:.4f}"]
        cells += [_value(trial.values.get(name)) for name in names]
        rows.append([*cells, _outcome(trial.outcome), seconds])
    return "<h2>The best ten</h2>" + _table(
        ["trial", escape(data.objective.heading), *map(escape, names), "outcome", "time"], rows
    )


def _curves(data: Data, chart: Chart) -> str:
    with_curve = sum(bool(trial.curve) for trial in data.trials)
    if not with_curve:
        return ""
    heading = escape(data.objective.heading)
    better, worse = _falls_and_turns(data.objective)
    text = (
        f"<h2>{escape(data.objective.opening)} of the trials</h2><p>Look at whether the winner's "
        f"curve still {better} at its end (more epochs may help) or has turned {worse} (fewer). "
        f"Each trial over its own run; the worst tenth is cut off.</p>"
    )
    if with_curve > charts.N_CURVES:
        text += _thinned(charts.N_CURVES, with_curve, "curves")
    text += chart(charts.curves(data))
    if not data.ranked:
        return text
    return (
        f"{text}<h2>The best {heading} over time</h2><p>Look at the right end: where it is flat, "
        "more trials of this search bring little.</p>"
        f'<div class="grid">{chart(charts.best_by_trial(data))}{chart(charts.best_by_time(data))}'
        "</div>"
    )


def _importance(data: Data, chart: Chart) -> str:
    head = "<h2>What mattered</h2>"
    n = len(usable(data.frozen))
    found = importances(data.frozen, direction=data.objective.direction)
    that_counts = f"{escape(an(data.objective))} that counts"
    if not found:
        if n >= MIN_TRIALS:
            return f"{head}<p>No hyperparameter was searched in all trials.</p>"
        return (
            f"{head}<p>{counted(n, 'trial')} with {that_counts}: too few to say. From "
            f"{MIN_TRIALS} on it is shown here.</p>"
        )
    drawn = f", {MAX_TRIALS:,} of them drawn at random" if n > MAX_TRIALS else ""
    first = found[0]
    sure = (
        f"{escape(first.name)} comes first, beyond what resampling moves."
        if len(found) == 1 or first.low > found[1].high
        else "The order of the first two is not certain: their spreads overlap."
    )
    return (
        f"{head}<p>Look for bars whose spread stays clear of the next one's. {sure}</p>"
        f"{chart(charts.importance(found))}"
        f'<p class="dim">PED-ANOVA: how much the best tenth differ from all in each '
        f"hyperparameter. From {n} trials with {that_counts} (those stopped as "
        f"outclassed are not among them); the spread is from the 10th to the 90th percentile of "
        f"{N_RESAMPLES} resamples of these trials{drawn}.</p>"
    )


def _slices(data: Data, chart: Chart) -> str:
    names = data.searched
    there = sum(trial.best is not None for trial in data.trials)
    if not names or not there:
        return ""
    extreme = data.objective.extreme
    text = (
        f"<h2>Each hyperparameter by itself</h2><p>Look for where the {extreme} dots gather; at "
        f"the edge of a range, widen the search there. A trial that was stopped early shows the "
        f"{extreme} it had reached; the worst are cut off.</p>"
    )
    if there > charts.N_POINTS:
        text += _thinned(charts.N_POINTS, there, "trials")
    text += f'<div class="grid">{"".join(chart(charts.one_slice(data, n)) for n in names)}</div>'
    if len(data.ranked) < 2:
        return text
    return (
        f"{text}<h2>All of them together</h2><p>Look at which way the bluest lines (the {extreme} "
        f"{escape(data.objective.heading)}) go. Drag along an axis to keep only the trials in "
        "that part.</p>"
        f'<div class="wide">{chart(charts.parallel(data))}</div>'
    )


def _overfitting(data: Data, chart: Chart) -> str:
    overfit = [t for t in data.trials if t.outcome == "overfit"]
    placed = [t for t in overfit if t.best_epoch is not None and "learning_rate" in t.values]
    head = "<h2>Where overfitting began</h2>"
    if not placed:
        return f"{head}<p>No trial was stopped as overfit.</p>" if not overfit else ""
    return (
        f"{head}<p>The epoch at which each of {counted(len(placed), 'overfit trial')} had its "
        "best evaluation. Look for the height above which there are no dots: more epochs than "
        f"that are not needed at that learning rate.</p>{chart(charts.overfitting(placed))}"
    )


def _out_of_memory(data: Data) -> str:
    trials = [trial for trial in data.trials if trial.outcome == "out_of_memory"]
    head = "<h2>What ran out of memory</h2>"
    if not trials:
        return f"{head}<p>Nothing did.</p>"
    names = data.searched
    rows = [
        [
            f"{trial.number:03d}",
            *(_value(trial.values.get(name)) for name in names),
            escape(_first_line(trial.reason)),
        ]
        for trial in trials[:N_ROWS]
    ]
    more = f"<p>and {len(trials) - N_ROWS} more.</p>" if len(trials) > N_ROWS else ""
    return (
        f"{head}<p>Look for what these have in common, and take it out of the search.</p>"
        f"{_table(['trial', *map(escape, names), 'reason'], rows)}{more}"
    )


def _time(data: Data, chart: Chart) -> str:
    timed = [trial for trial in data.trials if trial.seconds is not None]
    spent: defaultdict[str, float] = defaultdict(float)
    for trial in timed:
        spent[trial.outcome] += trial.seconds or 0.0
    total = sum(spent.values())
    head = "<h2>Where the GPU time went</h2>"
    if not total:
        return f"{head}<p>No trial's time is known yet.</p>"
    useful = spent["completed"]
    stopped = sum(spent[outcome] for outcome in EARLY_STOPS)
    lost = sum(spent[outcome] for outcome in LOST)
    saved, n_saved = saved_seconds(timed)
    lines = [
        "Look at whether most of it went into trials that completed or taught something.",
        f"Completed trials: {duration(useful)}. Stopped early: {duration(stopped)}. "
        f"Lost to failures: {duration(lost)}.",
    ]
    if n_saved:
        lines.append(
            f"Stopping {counted(n_saved, 'trial')} early saved about {duration(saved)}: what the "
            "rest of each run would have taken at its own speed."
        )
    if data.gpu_hours is not None:
        lines.append(
            f"GPUs (or CPU workers) held trials for {data.gpu_hours:.2f} hours in all; that also "
            "counts each GPU of a trial that has several, runs that were cut off, and what is "
            "neither training nor evaluation."
        )
    lines += _failures(data)
    return (
        head
        + "".join(f"<p>{line}</p>" for line in lines)
        + chart(
            charts.seconds_by_outcome(
                sorted(((o, s) for o, s in spent.items() if s), key=lambda row: -row[1])
            )
        )
    )


def saved_seconds(trials: Sequence[Shown]) -> tuple[float, int]:
    """Estimate what stopping early saved, in seconds, and of how many trials.

    From a trial's seconds and the share of its run that was done; one without an evaluation says
    nothing and is left out.
    """
    known = [
        trial.seconds * (1 / trial.done - 1)
        for trial in trials
        if trial.outcome in EARLY_STOPS and trial.seconds and 0 < trial.done < 1
    ]
    return sum(known), len(known)


def _failures(data: Data) -> list[str]:
    failed = [trial for trial in data.trials if trial.outcome == "failed"]
    rows = [f"{t.number:03d}: {escape(_first_line(t.reason))}" for t in failed[:N_ROWS]]
    more = [f"and {len(failed) - N_ROWS} more."] if len(failed) > N_ROWS else []
    return [f"Failed: trial {row}" for row in rows] + more


def _thinned(n_shown: int, n: int, what: str) -> str:
    return f'<p class="dim">{n_shown:,} of {n:,} {what} are drawn: the best, and every so many.</p>'


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself. Takes HTML: what is in it must be escaped."""
    top = "".join(f"<th>{heading}</th>" for heading in headings)
    classes = ["words" if heading == "reason" else "value" for heading in headings]
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{cell}</td>' for kind, cell in zip(classes, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _outcome(outcome: str) -> str:
    colour = charts.COLOURS[outcome]
    return f'<span class="dot" style="background:{colour}"></span>{_words(outcome)}'


def _falls_and_turns(objective: Objective) -> tuple[str, str]:
    return ("falls", "up") if objective.direction == "minimize" else ("rises", "down")


def _words(outcome: str) -> str:
    return escape(outcome.replace("_", " "))


def _first_line(reason: str) -> str:
    return (reason.splitlines() or [""])[0]


def _value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:g}"
    return escape(str(value))
