"""`sweep check`: all that can be known before the first GPU second."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.driver.asked import answered
from sweep.driver.cards import card_notes
from sweep.space.backend import backend_in_words, backend_notes, choose_backend
from sweep.space.domains import Choices, Domain, TimesRank, is_fixed
from sweep.space.epochs import epochs_text
from sweep.space.hyperparameters import Value
from sweep.space.space import Space
from sweep.study.task import NO_ROWS_YET, RowsSoFar
from sweep.study.trial_config import model_config, trial_settings
from sweep.text.numbers import counted
from trials.foreign_text import all_cleaned
from trials.parent import module_command

MOST_SHOWN = 6
"""Of the first trials."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was found, and where the prepared data lies."""

    data_dir: Path
    report: dict[str, Any]
    """Of `trials.preparation.prepare`."""
    on_gpus: bool
    """Whether trials are to run on GPUs."""


def request(
    space: Space, data_dir: Path, *, on_gpus: bool, so_far: RowsSoFar = NO_ROWS_YET
) -> dict[str, Any]:
    """What `trials.preparation.prepare` is asked.

    Args:
        so_far: Rows of each evaluation, and the day, in a study that goes on.

    Raises:
        SpaceError: Unsloth is asked for and not installed.
    """
    settings, data = space.settings, space.settings.data
    fixed = trial_settings(space, on_gpus=on_gpus)
    smallest, largest = space.smallest, space.largest
    n_rows_of_a_process = int(largest["effective_batch_size"]) // settings.processes_per_trial
    return {
        "train": space.source("train"),
        "eval": space.source("eval"),
        "test": space.source("test"),
        "reading": {
            "columns": data.columns,
            "template": data.template,
            "prompt": data.prompt,
            "completion": data.completion,
            "system": data.system,
            "ignore": data.ignore,
            "skip_bad_rows": data.skip_bad_rows,
        },
        "chat": data.chats,
        "loss_on": data.loss_on,
        "chat_template": space.chat_template,
        "template_arguments": data.template_arguments,
        "date": so_far.date,
        "model": asdict(model_config(space, choose_backend(space, on_gpus=on_gpus))),
        "max_lengths": sorted({int(smallest["max_length"]), int(largest["max_length"])}),
        "n_evaluations": settings.evaluate.times,
        "sample_rows": settings.evaluate.rows,
        "n_sample_rows": so_far.sample,
        "generation": _generation(space, so_far) if space.objective.is_generated else None,
        "answers": settings.answers,
        "smallest_epochs": smallest["epochs"],
        "smallest_batch": int(smallest["effective_batch_size"]),
        "adapters": {
            "target_modules": list(_values(space, "target_modules")),
            "experts": list(_values(space, "experts")),
            "use_dora": space.may_be("use_dora", True),
            "largest_rank": int(largest["rank"]),
            "largest_dropout": largest["dropout"],
        },
        "micro_batch_size": min(fixed.micro_batch_size, n_rows_of_a_process),
        "optimizer": fixed.optimizer,
        "on_gpus": on_gpus,
        "seed": settings.seed,
        "output_dir": str(data_dir.resolve()),
    }


def _generation(space: Space, so_far: RowsSoFar) -> dict[str, Any]:
    return {
        "rows": space.settings.objective.rows,
        "max_new_tokens": space.settings.objective.max_new_tokens,
        "n_rows": so_far.generated,
        "file": None if space.metric_file is None else str(space.metric_file),
    }


def prepare_data(
    space: Space,
    data_dir: Path,
    *,
    on_gpus: bool,
    say: Callable[[str], None],
    so_far: RowsSoFar = NO_ROWS_YET,
    show_rows: int = 0,
) -> Check:
    """Read and tokenise the data, size up the model, in a process of its own.

    Args:
        show_rows: Train rows that are told token by token.

    Raises:
        SpaceError: With every problem of the data, or the model's; or Unsloth is not installed.
    """
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    asked = request(space, data_dir, on_gpus=on_gpus, so_far=so_far)

    def command(*paths: str) -> list[str]:
        return module_command("trials.preparation.prepare", *paths)

    report = all_cleaned(answered({**asked, "show_rows": show_rows}, say, command))
    return Check(data_dir, report, on_gpus)


def _values(space: Space, name: str) -> tuple[Value, ...]:
    domain = space.domains[name]
    assert isinstance(domain, Choices)
    return domain.values


def check_table(space: Space, check: Check) -> RenderableType:
    """The check as a person reads it."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    read = _reading_rows(check.report)
    name = ("sweep", space.name)
    for row in (
        name,
        *read,
        *_data_rows(space, check),
        *_model_rows(space, check),
        *_search_rows(space),
    ):
        table.add_row(*row)
    backend = choose_backend(space, on_gpus=check.on_gpus)
    said = (check.report.get(key, []) for key in ("reading_notes", "notes"))
    notes = [*chain.from_iterable(said), *backend_notes(space, backend)]
    notes += card_notes(check.report, space.settings.gpus_per_trial) if check.on_gpus else []
    yellow = [Text(note, style="yellow") for note in notes]
    shown = [part for example in check.report["examples"] for part in _example(example)]
    rows = [part for row in check.report.get("rows", ()) for part in _token_row(row)]
    return Group(table, *yellow, *shown, *rows)


def _example(example: dict[str, Any]) -> Iterator[RenderableType]:
    """A row as the model reads it. Brackets tell what is learnt where there are no colours."""
    yield Text(f"\n{example['place']}, its supervised part ⟦marked⟧:")
    text = Text("", overflow="fold")
    for segment, supervised in example["segments"]:
        marked = f"⟦{segment}⟧" if supervised else segment
        text.append(marked, style="bold green reverse" if supervised else "dim")
    yield text


def _token_row(row: dict[str, Any]) -> Iterator[RenderableType]:
    yield Text(f"\n{row['place']}, token by token:")
    table = Table("token", "id", "learnt", box=None, padding=(0, 2, 0, 0))
    for text, token, is_learnt in row["tokens"]:
        table.add_row(Text(repr(text)[1:-1]), str(token), "yes" if is_learnt else "")
    yield table


Row = tuple[str, str]


def _reading_rows(report: dict[str, Any]) -> Iterator[Row]:
    """What of the files is not learnt, then their shares, where there are several."""
    if unread := report.get("unread"):
        nouns = {name: "turn" if "[]." in name else "row" for name in unread}
        yield "not read", ", ".join(f"{n} ({counted(unread[n], nouns[n])})" for n in unread)
    for why in report.get("skipped", ()):
        yield "skipped", f"{counted(why['rows'], 'row')}, {why['reason']}: {why['places']}"
    if n := report.get("own_system"):
        yield "system", f"own system turns: {counted(n, 'row')}; the others have data.system"
    for split, files in report.get("files", {}).items():
        total = sum(file["rows"] for file in files)
        shares = (f"{f['name']} {f['rows']:,} rows ({f['rows'] / total:.1%})" for f in files)
        if len(files) > 1:
            yield f"{split} files", ", ".join(shares)


def _data_rows(space: Space, check: Check) -> Iterator[Row]:
    report = check.report
    for length, counts in report["train"].items():
        yield "train", _counts_in_words(counts, length if len(report["train"]) > 1 else None)
    for name in ("eval", "test"):  # none of the latter, as a rule
        if name in report:
            yield name, _counts_in_words(report[name], None)
    times, share = space.settings.evaluate.times, report["evaluation_share"]
    yield (
        "evaluation",
        f"{times} times on {report['sample_rows']} eval rows; adds about {share:.0%} to the "
        f"shortest trial's training time"
        + (" (lower evaluate.times to cut this)" if share > 0.3 else ""),
    )
    if not space.objective.is_eval_loss:
        yield "objective", _objective_in_words(space, report)


def _model_rows(space: Space, check: Check) -> Iterator[Row]:
    memory = check.report["memory"]
    total = memory["weights_gib"] + memory["adapter_gib"] + memory["activations_gib"]
    yield (
        "base model",
        f"{space.settings.base_model}, {_millions(memory['base_parameters'])} parameters in "
        f"{space.quantization}; the largest adapter has "
        f"{_millions(memory['adapter_parameters'])}",
    )
    yield from _adapter_rows(space, check.report["adapters"])
    if (form := space.checkpoint) is not None:
        gib = f"{memory['weights_gib']:.1f} GiB"
        bits = f", turned into 16 bits when loaded: {gib}" if form.is_dequantised else f": {gib}"
        yield "checkpoint", f"quantised already, {form.name}{bits}"
    yield (
        "memory",
        f"at most about {total:.1f} GiB for the largest trial: weights "
        f"{memory['weights_gib']:.1f}, adapter {memory['adapter_gib']:.1f}, activations "
        f"{memory['activations_gib']:.1f}",
    )
    if words := _left_in_words(memory, space.quantization):
        yield "", words
    yield "backend", backend_in_words(space, on_gpus=check.on_gpus)


def _adapter_rows(space: Space, adapters: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """A row for each choice; the share they leave stands last, where it is the same."""
    quantised = space.quantization != "none"
    verb = "neither adapted nor quantised" if quantised else "not adapted"
    shares = [f"{adapter['untouched']:.0%} of the weights are {verb}" for adapter in adapters]
    is_same = len(shares) > 1 and len(set(shares)) == 1
    for adapter, share in zip(adapters, shares, strict=True):
        experts = " and experts" if adapter["experts"] else ""
        yield (
            "adapter",
            f"{Choices((adapter['target'],))}{experts}: {_millions(adapter['trained'])} parameters "
            f"at rank {int(space.largest['rank'])}, on {adapter['modules']}"
            + ("" if is_same else f"; {share}"),
        )
    if is_same:
        yield "", f"with each of them {shares[0]}"


LARGE_SHARE = 0.2
"""Of the weights' bytes."""


def _left_in_words(memory: dict[str, Any], quantization: str) -> str | None:
    """What transformers does not quantise, where that is much: `FalconLinear (12.5 GiB)`."""
    gib = {name: n * 2 / 2**30 for name, n in memory.get("left", {}).items()}
    if sum(gib.values()) <= LARGE_SHARE * memory["weights_gib"]:
        return None
    parts = ", ".join(f"{n} ({gib[n]:.1f} GiB)" for n in sorted(gib, key=lambda n: -gib[n])[:3])
    return f"transformers leaves these weights in 16 bits, with {quantization} too: {parts}"


def _search_rows(space: Space) -> Iterator[Row]:
    points = space.n_points
    yield "search", "continuous space" if math.isinf(points) else f"{points:,.0f} points"
    for name, domain in space.domains.items():
        if not is_fixed(domain):
            yield "", f"{name}: {domain}"
    if space.epochs_passed_through is not None:
        yield "", epochs_text(space.epochs_passed_through)
    fixed = [_fixed(name, domain) for name, domain in space.domains.items() if is_fixed(domain)]
    yield "fixed", ", ".join(fixed)
    yield "budget", space.budget_in_words
    yield from _first_trials_in_words(space)


def _fixed(name: str, domain: Domain) -> str:
    """`rank 16`, `alpha rank × 2`; `use_dora false`, as the YAML has it.

    Not by the domain's own words: studies keep those, to see what of the search has changed.
    """
    if isinstance(domain, TimesRank):
        return f"{name} rank × {domain.factor}"
    words = str(domain)
    return f"{name} {words.lower() if words in ('True', 'False') else words}"


def _objective_in_words(space: Space, report: dict[str, Any]) -> str:
    """`exact_match, maximized, on completions generated for 64 of these rows, …`."""
    objective = space.objective
    own = f" of {objective.python}" if objective.python else ""
    words = f"{objective.name}{own}, {objective.direction}d"
    if found := report.get("generation"):
        asked = space.settings.objective.rows
        fewer = f" (not {asked}: too costly)" if found["rows"] < asked else ""
        words += (
            f", on completions generated for {found['rows']} of these rows{fewer}, at most "
            f"{found['max_new_tokens']} tokens each"
        )
        if longer := found.get("longer"):
            words += f" ({longer} of the true ones are longer: raise objective.max_new_tokens)"
        if read := found.get("read"):
            words += f", compared {read}"
    return words


def _millions(count: float) -> str:
    if count < 1e5:
        return f"{count:,.0f}"
    return f"{count / 1e6:,.0f} M" if count >= 1e8 else f"{count / 1e6:,.1f} M"


def _counts_in_words(counts: dict[str, int], length: str | None) -> str:
    words = (
        f"{counts['rows']:,} rows, {counts['tokens']:,} tokens "
        f"({counts['supervised_tokens']:,} supervised; median {counts['median']}, "
        f"longest {counts['longest']})"
    )
    words += f"; {counts['cut']:,} cut" if counts["cut"] else "; none cut"
    if counts["dropped"]:
        words += f", {counts['dropped']:,} dropped: nothing that is learnt is within max_length"
    return words + (f" at max_length {length}" if length else "")


def _first_trials_in_words(space: Space) -> Iterator[Row]:
    """A row for each: where it comes from, and what is searched of its point."""
    from sweep.study.next_trial import first_trials

    found = first_trials(space)
    heading = "first trial" if len(found) == 1 else "first trials"
    searched = [name for name, domain in space.domains.items() if not is_fixed(domain)]
    for origin, point in found[:MOST_SHOWN]:
        values = ", ".join(f"{name} {_plain(point[name])}" for name in searched)
        yield heading, f"{origin}: {values}"
        heading = ""
    if n_more := len(found[MOST_SHOWN:]):
        yield "", f"and {n_more} more"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
