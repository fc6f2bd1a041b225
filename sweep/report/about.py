"""What the page begins and ends with: what was found, what it rests on, how to have it again."""

import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from html import escape
from typing import Any

from sweep.errors import SpaceError
from sweep.folder import layout
from sweep.report import charts
from sweep.report.sections import outcome_words, value_cell
from sweep.results.conclusion import Conclusion, in_html
from sweep.results.reading import StoredSweep
from sweep.results.status import HINTS, IN_WORDS, against_base
from sweep.space.domains import in_words as value_in_words
from sweep.space.domains import is_fixed
from sweep.space.loading import space_as_run
from sweep.space.space import Space
from sweep.storage.attributes import WALL_SECONDS
from sweep.storage.of_folder import read_about
from sweep.text.numbers import counted, duration
from sweep.text.trials import an
from sweep.tracking.location import command
from sweep.tracking.run_data import in_words
from trials.config import DataError
from trials.trial_folder import read_report


def headline_section(sweep: StoredSweep, found: Conclusion | None) -> str:
    top = f"<h1>{escape(sweep.name)}</h1>"
    if found is None:
        return (
            f'{top}<div class="headline"><p>No winner: no trial has reached '
            f"{escape(an(sweep.objective))} that counts.</p></div>{_state(sweep)}"
        )
    winner = found.winner
    names = sweep.searched or list(winner.hyperparameters)
    point = ", ".join(
        f"{escape(name)} {value_cell(winner.hyperparameters.get(name))}" for name in names
    )
    words, _, line = (found.next_step or f"Export it: {_export(sweep)}").partition(": ")
    return (
        f'{top}<div class="headline"><p><strong>Trial {winner.number} has the '
        f"{found.superlative}</strong>, with {point}.</p>"
        f"<p>{escape(against_base(sweep, winner))}</p><p>{in_html(found)}</p>"
        f"<p>{escape(words)}: <code>{escape(line)}</code></p></div>{_state(sweep)}"
    )


def _export(sweep: StoredSweep) -> str:
    return f"{command('export', sweep.folder)} --to {sweep.name}-adapter"


def _state(sweep: StoredSweep) -> str:
    counts = Counter(trial.outcome for trial in sweep.trials)
    outcomes = ", ".join(
        f'<span class="dot" style="background:{charts.COLOURS[o]}"></span>{n} {outcome_words(o)}'
        for o, n in counts.most_common()
    )
    state = f"The sweep {escape(IN_WORDS.get(sweep.state, sweep.state))}"
    if sweep.state in HINTS:
        again = command("run --resume", sweep.folder)
        state += f"; {HINTS[sweep.state]}: <code>{escape(again)}</code>"
    return f'<p class="dim">{counted(len(sweep.trials), "trial")}: {outcomes}. {state}</p>'


def facts_section(sweep: StoredSweep) -> str:
    """What the losses rest on. What cannot be read any more is left out."""
    space, report = None, None
    with suppress(SpaceError, OSError):
        space = space_as_run(sweep.folder / layout.SPACE)
    with suppress(DataError):
        report = read_report(sweep.folder / layout.DATA)
    rows = [*_model(sweep), *_rows(space, report or {}), *_when(sweep, space)]
    rows += [*_untried(sweep, space), *_versions(sweep)]
    return (
        '<dl class="facts">'
        + "".join(f"<dt>{name}</dt><dd>{escape(words)}</dd>" for name, words in rows)
        + "</dl>"
    )


Facts = Iterator[tuple[str, str]]


def _model(sweep: StoredSweep) -> Facts:
    model: Mapping[str, Any] = sweep.task.get("base_model") or {}
    if name := model.get("name"):
        revision = f" at {model['revision']}" if model.get("revision") else ""
        how = (str(model.get(key)) for key in ("quantization", "compute_dtype", "backend"))
        known = [word for word in how if word not in ("None", "none", "auto")]
        yield "model", ", ".join([f"{name}{revision}", *known])


def _rows(space: Space | None, report: Mapping[str, Any]) -> Facts:
    data = None if space is None else space.settings.data
    train = next(iter((report.get("train") or {}).values()), None)
    yield from _split("train", None if data is None else in_words(data.train), train)
    sample = report.get("sample_rows")
    each = f"; {sample:,} of them at each evaluation" if sample else ""
    for which, more in (("eval", each), ("test", "")):
        given = getattr(data, which, None)
        name = None if given is None else in_words(given)
        name = f"{name} of train, held out" if isinstance(given, float) else name
        yield from ((what, f"{it}{more}") for what, it in _split(which, name, report.get(which)))


def _split(which: str, name: str | None, counts: Mapping[str, int] | None) -> Facts:
    of = "" if counts is None else f"{counts['rows']:,} rows, {counts['tokens']:,} tokens"
    learnt = "" if counts is None else f" ({counts['supervised_tokens']:,} supervised)"
    if name or counts:
        yield which, ": ".join(filter(None, [name, f"{of}{learnt}"]))


def _when(sweep: StoredSweep, space: Space | None) -> Facts:
    ended = [trial.ended_at for trial in sweep.trials if trial.ended_at is not None]
    if sweep.began_at is not None:
        is_over = sweep.state not in ("running", "broken off")
        last = max([sweep.began_at, *ended, (is_over and sweep.since) or 0.0])
        began, end = time.localtime(sweep.began_at), time.localtime(last)
        is_one_day = began[:3] == end[:3]
        until = time.strftime("%H:%M" if is_one_day else "%Y-%m-%d %H:%M", end)
        seconds = sweep.attributes.get(WALL_SECONDS)
        in_all = f"; {duration(seconds)} in all" if seconds else ""
        yield "date", f"{time.strftime('%Y-%m-%d %H:%M', began)} to {until}{in_all}"
    used = f"used: {counted(len(ended), 'trial')}, {sweep.gpu_hours:.2f} GPU hours"
    limits = "" if space is None else space.budget_in_words
    yield "budget", "; ".join(filter(None, [limits, used]))


def _untried(sweep: StoredSweep, space: Space | None) -> Facts:
    """What was searched, but had one value in all trials: the winner says nothing of others."""
    if space is None or len(sweep.trials) < 2:
        return
    first, varied = sweep.trials[0].hyperparameters, sweep.searched
    same = [n for n, d in space.domains.items() if not is_fixed(d) and n not in varied]
    if same:
        had = ", ".join(f"{name} {value_in_words(first.get(name))}" for name in same)
        yield "not varied", f"{had}: searched, but no trial has had another value"


def _versions(sweep: StoredSweep) -> Facts:
    about = read_about(sweep.folder)
    known = {"sweep": about.get("version"), **(about.get("libraries") or {})}
    if words := ", ".join(f"{name} {number}" for name, number in known.items() if number):
        yield "versions", words


def again_section(sweep: StoredSweep, found: Conclusion | None) -> str:
    """The commands that train the winner again."""
    if found is None:
        return ""
    output = str(sweep.folder.parent)
    elsewhere = "" if output == "sweeps" else f" --output {shlex.quote(output)}"
    space = shlex.quote(str(sweep.folder / layout.SPACE))
    lines = {
        "In one process, with its seed and settings:": (
            f"sweep trial {space} --number {found.winner.number}{elsewhere}"
        ),
        "With another trainer, trl, axolotl or llama-factory:": (
            f"{command('best', sweep.folder)} --yaml trl > sft.yaml"
        ),
        "Or take its adapter, with a model card:": _export(sweep),
    }
    rows = "".join(
        f"<dt>{escape(words)}</dt><dd><code>{escape(line)}</code></dd>"
        for words, line in lines.items()
    )
    return f'<h2>Train the winner again</h2><dl class="commands">{rows}</dl>'
