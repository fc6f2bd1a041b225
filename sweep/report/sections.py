"""`report.html`: what a sweep has found, in one file that needs nothing else, not even a network.

Its charts are plotly's, whose script (some megabytes) is in the file once. A drawing made
beforehand would be smaller, but has one width and one theme, and cannot say which trial a line is;
the axes of the parallel coordinates can be dragged here, which is what that chart is for. So that
10,000 trials still open, only some of them are drawn, and the page says so where it is.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from html import escape

from sweep.report import charts
from sweep.results.conclusion import Conclusion
from sweep.results.confirmed import Confirmed
from sweep.results.confirmed_words import verdicts
from sweep.results.reading import StoredSweep
from sweep.study.importance import MAX_TRIALS, MIN_TRIALS, N_RESAMPLES, importances, usable
from sweep.text.numbers import counted, duration, gpu_hours
from sweep.text.trials import an
from sweep.tracking.location import command
from trials.config import Objective

EARLY_STOPS = ("overfit", "diverged", "outclassed", "stopped")
LOST = ("failed", "out_of_memory")
N_ROWS = 20
"""Of a table that could be long."""
N_ENDS = 60
"""Trials of which is said why they ended."""
Chart = Callable[[charts.Figure], str]


def best_ten_section(sweep: StoredSweep, found: Conclusion | None) -> str:
    if not sweep.ranked and not sweep.going:
        return ""
    names = sweep.searched
    rows = []
    for trial in sorted([*sweep.decided[:10], *sweep.going[:10]], key=sweep.place)[:10]:
        seconds = "" if trial.seconds is None else duration(trial.seconds)
        is_winner = found is not None and trial.number == found.winner.number
        won = " <strong>winner</strong>" if is_winner else ""
        cells = [f"{trial.number:03d}{won}", *sweep.columns.of(trial)]
        cells += [value_cell(trial.hyperparameters.get(name)) for name in names]
        far = "" if trial.counts else f", {sweep.done(trial):.0%} done"
        rows.append([*cells, outcome_cell(trial.outcome) + far, seconds])
    notes = []
    if sweep.columns.measured:
        notes.append(
            "The first are in the order of the final evaluation, with its figures on all eval "
            "rows; the rest, and the charts, are of the search's sample of eval rows."
        )
    if sweep.going:
        notes.append("A trial that has not ended shows the best that it has reached so far.")
    return f"<h2>The best ten</h2><p>{' '.join(notes)}</p>" + html_table(
        ["trial", *map(escape, [*sweep.columns.headings, *names]), "outcome", "time"], rows
    )


def curves_section(sweep: StoredSweep, found: Conclusion | None, chart: Chart) -> str:
    with_curve = sum(bool(trial.curve) for trial in sweep.trials)
    if not with_curve:
        return ""
    heading = escape(sweep.objective.heading)
    better, worse = _falls_and_turns(sweep.objective)
    text = (
        f"<h2>{escape(sweep.objective.opening)} of the trials</h2><p>See whether the winner's "
        f"curve still {better} at its end (try more epochs) or has turned {worse} (try fewer). "
        "Each trial over its own run; the worst tenth is cut off. A triangle at the edge is a "
        "trial that lies beyond it.</p>"
    )
    if with_curve > charts.N_CURVES:
        text += thinned(charts.N_CURVES, with_curve, "curves")
    text += chart(charts.curves(sweep, None if found is None else found.winner))
    if not sweep.ranked:
        return text
    return (
        f"{text}<h2>The best {heading} over time</h2><p>If it is flat at the right end, "
        "more trials of this search will gain little.</p>"
        f'<div class="grid">{chart(charts.best_by_trial(sweep))}{chart(charts.best_by_time(sweep))}'
        "</div>"
    )


def importance_section(sweep: StoredSweep, chart: Chart) -> str:
    head = "<h2>What mattered</h2>"
    n = len(usable(sweep.frozen))
    found = importances(sweep.frozen, direction=sweep.objective.direction)
    that_counts = f"{escape(an(sweep.objective))} that counts"
    if not found:
        if n >= MIN_TRIALS:
            return f"{head}<p>No hyperparameter was searched in all trials.</p>"
        return (
            f"{head}<p>{counted(n, 'trial')} with {that_counts}: too few to say, {MIN_TRIALS} are "
            f"needed.</p>"
        )
    drawn = f", {MAX_TRIALS:,} of them drawn at random" if n > MAX_TRIALS else ""
    first = found[0]
    sure = (
        f"{escape(first.name)} comes first, beyond resampling noise."
        if len(found) == 1 or first.low > found[1].high
        else "The order of the first two is uncertain: their spreads overlap."
    )
    return (
        f"{head}<p>Look for bars whose spread is clear of the next one's. {sure}</p>"
        f"{chart(charts.importance(found))}"
        f'<p class="dim">PED-ANOVA: how much the best tenth differ from all trials in each '
        f"hyperparameter, over {n} trials with {that_counts} (no outclassed ones){drawn}. The "
        f"spread is the 10th to the 90th percentile of {N_RESAMPLES} resamples.</p>"
    )


def slices_section(sweep: StoredSweep, chart: Chart) -> str:
    names = sweep.searched
    there = sum(trial.value is not None for trial in sweep.trials)
    if not names or not there:
        return ""
    extreme = sweep.objective.extreme
    text = (
        f"<h2>Each hyperparameter by itself</h2><p>See where the {extreme} dots gather; at "
        f"the edge of a range, widen it. A trial stopped early shows the {extreme} it reached; the "
        "worst are triangles at the edge.</p>"
    )
    if there > charts.N_POINTS:
        text += thinned(charts.N_POINTS, there, "trials")
    text += f'<div class="grid">{"".join(chart(charts.one_slice(sweep, n)) for n in names)}</div>'
    if len(sweep.ranked) < 2:
        return text
    return (
        f"{text}<h2>All of them together</h2><p>Follow the bluest lines (the {extreme} "
        f"{escape(sweep.objective.heading)}). Drag along an axis to keep only the trials there.</p>"
        f'<div class="wide">{chart(charts.parallel(sweep))}</div>'
    )


def ends_section(sweep: StoredSweep) -> str:
    """Why each trial ended, as it was said then."""
    ended = [trial for trial in sweep.trials if trial.reason]
    if not ended:
        return ""
    rows = [
        [f"{t.number:03d}", outcome_cell(t.outcome), escape(first_line(t.reason))]
        for t in ended[:N_ENDS]
    ]
    more = f"{command('show', sweep.folder)} --csv"
    rest = f"<p>and {len(ended) - N_ENDS:,} more: <code>{escape(more)}</code></p>"
    return (
        f"<h2>Why each trial ended</h2>{html_table(['trial', 'outcome', 'reason'], rows)}"
        f"{rest if len(ended) > N_ENDS else ''}"
    )


def out_of_memory_section(sweep: StoredSweep) -> str:
    trials = [trial for trial in sweep.trials if trial.outcome == "out_of_memory"]
    head = "<h2>What ran out of memory</h2>"
    if not trials:
        return f"{head}<p>Nothing did.</p>"
    names = sweep.searched
    rows = [
        [
            f"{trial.number:03d}",
            *(value_cell(trial.hyperparameters.get(name)) for name in names),
            escape(first_line(trial.reason)),
        ]
        for trial in trials[:N_ROWS]
    ]
    more = f"<p>and {len(trials) - N_ROWS} more.</p>" if len(trials) > N_ROWS else ""
    return (
        f"{head}<p>Look for what they have in common, and remove it from the "
        f"search.</p>{html_table(['trial', *map(escape, names), 'reason'], rows)}{more}"
    )


def time_section(sweep: StoredSweep, chart: Chart) -> str:
    timed = [trial for trial in sweep.trials if trial.seconds is not None]
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
    saved, n_saved = saved_seconds(sweep)
    lines = [
        "Check that most of it went into trials that completed or taught something.",
        f"Completed trials: {duration(useful)}. Stopped early: {duration(stopped)}. "
        f"Lost to failures: {duration(lost)}.",
    ]
    if n_saved:
        lines.append(
            f"Stopping {counted(n_saved, 'trial')} early saved about {duration(saved)}, the rest "
            f"of each run at its own speed."
        )
    if sweep.gpu_hours:
        held = gpu_hours([sweep.gpu_hours], sweep.price_per_gpu_hour)
        lines.append(
            f"Total: {held}, counting each GPU of a trial (or CPU worker), interrupted "
            "runs, and time outside training and evaluation."
        )
    return (
        head
        + "".join(f"<p>{line}</p>" for line in lines)
        + chart(
            charts.seconds_by_outcome(
                sorted(((o, s) for o, s in spent.items() if s), key=lambda row: -row[1])
            )
        )
    )


def saved_seconds(sweep: StoredSweep) -> tuple[float, int]:
    """Estimate what stopping early saved, in seconds, and of how many trials.

    From a trial's seconds and the share of its run that was done; one without an evaluation says
    nothing and is left out.
    """
    known = [
        trial.seconds * (1 / sweep.done(trial) - 1)
        for trial in sweep.trials
        if trial.outcome in EARLY_STOPS and trial.seconds and 0 < sweep.done(trial) < 1
    ]
    return sum(known), len(known)


def _falls_and_turns(objective: Objective) -> tuple[str, str]:
    return ("falls", "up") if objective.direction == "minimize" else ("rises", "down")


def confirmed_section(found: Sequence[Confirmed]) -> str:
    """Return the means of the configurations and the verdicts; nothing where there is none."""
    if not found:
        return ""
    rows = []
    for each in found:
        mean = each.mean
        error = None if mean is None else mean.standard_error
        cells = ["0", ""] if mean is None else [str(mean.n), f"{mean.mean:.4f}"]
        cells.append("" if error is None else f"{error:.4f}")
        cells.append("  ".join(f"{value:.4f}" for value in each.values.values()))
        rows.append([f"{each.trial:03d}", *cells])
    words = "".join(f"<li>{escape(line)}</li>" for line in verdicts(found))
    return (
        "<h2>The best trials, retrained with other seeds</h2><p>Where two cannot be told apart, "
        "take the cheaper one. Eval losses here are over all eval rows, unlike the sweep's.</p>"
        + html_table(["trial", "seeds", "mean", "± standard error", "each seed"], rows)
        + f"<ul>{words}</ul>"
    )


def thinned(n_shown: int, n: int, what: str) -> str:
    return (
        f'<p class="dim">{n_shown:,} of {n:,} {what} drawn: the best, and a sample of the rest.</p>'
    )


def html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
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


def outcome_cell(outcome: str) -> str:
    colour = charts.COLOURS[outcome]
    return f'<span class="dot" style="background:{colour}"></span>{outcome_words(outcome)}'


def outcome_words(outcome: str) -> str:
    return escape(outcome.replace("_", " "))


def first_line(reason: str) -> str:
    return (reason.splitlines() or [""])[0]


def value_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:g}"
    return escape(str(value))
