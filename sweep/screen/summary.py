"""What was learnt, in words: the summary at the end of a sweep."""

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.space.domains import in_words
from sweep.study.summary import Summary
from sweep.text.emphasis import first_in_bold
from sweep.text.numbers import counted, duration, gpu_hours, listed
from sweep.text.trials import COLOURS, SHOWN, an, short, where_differs
from sweep.tracking.location import command
from trials.trial_folder import ADAPTER

TO_MEND = ("failed", "out_of_memory")
"""Outcomes that a user should do something about."""
MOST_NAMED = 20


def summary_text(summary: Summary) -> RenderableType:
    parts: list[RenderableType] = [Text()]
    counts = Counter(trial.outcome for trial in summary.ended)
    headline = Text(f"{summary.name}: {counted(len(summary.ended), 'trial')}", style="bold")
    headline.append(f" in {duration(summary.wall_seconds)}", style="not bold")
    if summary.price_per_gpu_hour is not None:
        spent = gpu_hours([summary.gpu_hours], summary.price_per_gpu_hour)
        headline.append(f", {spent}", style="not bold")
    for outcome, n in counts.most_common():
        headline.append(f"  {n} {outcome}", style=f"not bold {COLOURS[outcome]}")
    parts.append(headline)
    parts += _winner(summary)
    parts += _stopped(summary)
    if summary.n_waiting:
        words = f"{counted(summary.n_waiting, 'trial')} interrupted; the same command resumes."
        parts.append(Text(words, style="magenta"))
    if summary.n_paused:
        words = f"{counted(summary.n_paused, 'trial')} paused; the same command resumes."
        parts.append(Text(words, style="bright_black"))
    if summary.report is not None and summary.report.exists():
        parts.append(Text(f"Report with charts:  {summary.report}"))
    parts.append(Text(f"All trials in MLflow:  {summary.see_it_all}"))
    return Group(*parts)


def _winner(summary: Summary) -> list[RenderableType]:
    winner = summary.winner
    if winner is None or winner.value is None:
        yet = " yet" if summary.n_waiting or summary.n_paused else ""
        return [Text(f"No winner{yet}: no trial has {an(summary.objective)} that counts.")]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    where = where_differs(trial.hyperparameters for trial in summary.ended)
    names = (*SHOWN.values(), *where.values())
    for heading in ("", "trial", *summary.columns.headings, *names, "outcome"):
        table.add_column(heading, no_wrap=heading not in where.values())
    for trial in summary.ranked[:5]:
        table.add_row(
            "winner" if trial.number == winner.number else "",
            f"{trial.number:03d}",
            *summary.columns.of(trial),
            *(short(trial.hyperparameters[name]) for name in SHOWN),
            *(Text(in_words(trial.hyperparameters.get(name, ""))) for name in where),
            Text(trial.outcome, style=COLOURS[trial.outcome]),
            style="bold" if trial.number == winner.number else "",
        )
    parts: list[RenderableType] = [table, Text(summary.judged.in_words(summary.objective))]
    if words := summary.conclusion.removesuffix(summary.next_step).rstrip():
        parts.append(first_in_bold(words))
    if summary.best_dir is not None:
        parts.append(Text(f"Adapter:  {summary.best_dir / ADAPTER}"))
        folder = summary.best_dir.parent
        export = f"{command('export', folder)} --to {summary.name}-adapter"
        ask = f"Ask it, beside the base model:  {command('try', folder)}"
        parts += map(Text, filter(None, [summary.next_step, ask, f"Take it along:  {export}"]))
    return parts


def _stopped(summary: Summary) -> list[RenderableType]:
    """Who ended early. Why was said as each did; only what should be mended is said again."""
    found: dict[tuple[str, str], list[str]] = {}
    for trial in summary.ended:
        why = trial.reason.partition("\n")[0] if trial.outcome in TO_MEND else ""
        if trial.outcome != "completed":
            found.setdefault((trial.outcome, why), []).append(str(trial.number))
    parts: list[RenderableType] = []
    for (outcome, why), numbers in found.items():
        more = [f"{len(numbers) - MOST_NAMED} more"] if len(numbers) > MOST_NAMED else []
        noun = "trial" if len(numbers) == 1 else "trials"
        line = Text().append(outcome.replace("_", " ").capitalize(), style=COLOURS[outcome])
        line.append(f":  {noun} {listed([*numbers[:MOST_NAMED], *more])}")
        parts.append(line.append(f". {why}" if why else ""))
    return parts
