"""`sweep init`: a space for a file of rows, tried on them before it is written."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sweep.driver.asked import answered
from sweep.driver.preparation import request
from sweep.errors import SpaceError
from sweep.folder import layout
from sweep.space.loading import DEFAULT_TRIALS, checked
from sweep.space.named_files import missing, missing_model, missing_template
from sweep.space.settings import as_name
from sweep.space.space import Space
from sweep.space.yaml_file import of_text
from sweep.text.numbers import counted
from trials.data.table import data_suffix
from trials.parent import module_command
from trials.rendering.chat_templates import SUFFIX
from trials.unfinished import scratch_dir

LONGEST = 4096
"""Tokens of a row, at most: else a few long rows decide how much memory all trials need."""
_KEYS = "train eval test columns ignore skip_bad_rows chat_template max_length".split()
_MOST_EVALUATION = 0.3
"""Of the shortest trial's training time: `sweep check` says so of more."""
_NAMELESS = ("train", "training", "data", "dataset", "rows")
"""Names of files that say nothing of what they hold."""
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_NOT_TEXT = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")


def usual_path(data: Path) -> Path:
    """Return NAME.yaml beside the data: its name, or its folder's where that says more."""
    suffix = data_suffix(data.name) or data.suffix
    stem = data.name[: data.name.lower().rfind(suffix)] if suffix else data.name
    name = data.absolute().parent.name if stem.lower() in _NAMELESS else stem
    return data.parent / f"{as_name(name)}.yaml"


def new_space(
    data: Path,
    path: Path,
    model: str,
    template: str | None = None,
    *,
    on_gpus: bool,
    say: Callable[[str], None],
) -> str:
    """Return the text of a space for the rows of `data`, to lie at `path`.

    Args:
        template: A chat template's name or file; None: the model's own.

    Raises:
        SpaceError: The rows cannot be read, or the model cannot be had; in the reader's words.
    """
    if not data.exists():
        raise SpaceError(f"{data}: no such file. DATA is a file of training rows on this machine.")
    train, folder = _seen_from(path.parent, data), path.parent
    base_model = _seen_from(folder, Path(model)) if Path(model).is_dir() else model
    if words := missing(missing_model, folder, base_model):
        raise SpaceError(f"--model: {words}")
    given = {} if template is None else {"chat_template": _template(folder, template)}
    keys: dict[str, Any] = {"train": train, "eval": 0.1, "max_length": LONGEST, **given}
    draft = checked(of_text(_text(base_model, keys, {}, n_rows=1), path))
    report = _discovered(draft, on_gpus=on_gpus, say=say)
    found, [counts] = report["found"], report["train"].values()
    n_rows = counts["rows"] - counts["dropped"]
    keys = {"train": train, **found["keys"], **given}
    for split in ("eval", "test"):
        if isinstance(keys.get(split), str):  # a file beside DATA, not a share of its rows
            keys[split] = _seen_from(folder, data.parent / keys[split])
    why = {**found["why"], "unread": ", ".join(report["unread"])}
    if given:
        why["chat_template"] = "as --chat-template said, in place of the model's own"
    if "skip_bad_rows" in keys:
        say(_skipped(why["skip_bad_rows"], report))
        why["skip_bad_rows"] += ": a check says why"
    share = report["evaluation_share"] * draft.smallest["epochs"] / _epochs(n_rows)[0]
    if share > _MOST_EVALUATION:
        keys["times"], why["times"] = _fewer_evaluations(draft, share, n_rows)
    text = _text(base_model, keys, why, n_rows=n_rows)
    checked(of_text(text, path))
    return text


def _template(folder: Path, given: str) -> str:
    name = _seen_from(folder, Path(given)) if given.endswith(SUFFIX) else given
    if words := missing(missing_template, folder, name):
        raise SpaceError(f"--chat-template: {words}")
    return name


def _discovered(draft: Space, *, on_gpus: bool, say: Callable[[str], None]) -> dict[str, Any]:
    def command(*paths: str) -> list[str]:
        return module_command("trials.preparation.discover", *paths)

    with scratch_dir() as scratch:
        asked = request(draft, Path(scratch) / layout.DATA, on_gpus=on_gpus)
        try:
            return answered(asked, say, command)
        except SpaceError as error:
            if "data.chat_template" not in str(error):
                raise
            mend = "Here data.chat_template is the option --chat-template, such as chatml."
            raise SpaceError(f"{error}\n{mend}") from None


def _skipped(rule: str, report: Mapping[str, Any]) -> str:
    """Say how many rows are left out, and why: the reader's, and the chat template's reasons."""
    reasons = [
        f"{counted(why['rows'], 'row')}, {why['reason']}: {why['places']}"
        for why in report.get("skipped", ())
    ]
    reasons += [note for note in report["notes"] if "rows are skipped" in note]
    return "\n  ".join([f"{rule}, so data.skip_bad_rows leaves them out:", *reasons])


def _fewer_evaluations(draft: Space, share: float, n_rows: int) -> tuple[int, str]:
    """Return how many cost little, and why.

    Args:
        share: What the usual number of them adds to the shortest trial's training time.
    """
    usual, overfit = draft.settings.evaluate.times, draft.settings.pruning.overfit
    # Of very few rows a trial has fewer steps than that, and is evaluated after each.
    # Seldom enough, and often enough for a trial to be stopped as overfit.
    least = overfit.patience + 2 if overfit else 1
    times = max(least, int(min(usual, n_rows) * _MOST_EVALUATION / share))
    return times, f"{usual} would add {share:.0%} to the shortest trial's training time"


def _epochs(n_rows: int) -> list[int]:
    return [1, 2, 3] if n_rows >= 1000 else [2, 4, 6]


def _seen_from(folder: Path, path: Path) -> str:
    return os.path.relpath(path.absolute(), folder.absolute())


def _text(base_model: str, keys: Mapping[str, Any], why: Mapping[str, str], *, n_rows: int) -> str:
    """The file, a comment on each line.

    Args:
        n_rows: That are trained on.
    """
    # Ten steps an epoch at least, as far as batches of four rows have that.
    batch = next((n for n in (32, 16, 8) if n_rows >= 10 * n), 4)
    times = f"evaluate: {{times: {keys.get('times')}}}"
    lines = [
        (f"base_model: {in_flow(base_model)}", "a hub id, a folder, or the built-in smollm2-135m"),
        ("data:", f"not read: {why['unread']}" if why.get("unread") else ""),
        *((f"  {key}: {in_flow(keys[key])}", why.get(key, "")) for key in _KEYS if key in keys),
        ("search:", "[...]: one of these; min and max: a range"),
        ("  rank: [8, 16, 32]", "the adapter's size"),
        (
            "  learning_rate: {min: 1e-4, max: 2e-3, log: true}",
            "published bests of LoRA: 3e-4 to 1e-3",
        ),
        (f"  epochs: {_epochs(n_rows)}", "passes over the rows; the more, the sooner it overfits"),
        (f"  effective_batch_size: [{batch // 2}, {batch}]", f"of {n_rows:,} train rows"),
        *([(times, why["times"])] if "times" in keys else []),
        (f"budget: {{trials: {DEFAULT_TRIALS}}}", "or hours, or gpu_hours"),
    ]
    return "".join(_lines(lines))


def _lines(lines: list[tuple[str, str]]) -> Iterator[str]:
    width = min(max(len(line) for line, _ in lines), 50)
    for line, comment in lines:
        shown = "".join(c if c.isprintable() else " " for c in comment)
        yield f"{line:<{width}}  # {shown}\n" if shown else f"{line}\n"


def in_flow(value: object) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{in_flow(k)}: {in_flow(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(in_flow, value))}]"
    is_plain = isinstance(value, str) and _PLAIN.fullmatch(value)
    if is_plain and str(value).lower() not in _NOT_TEXT:
        return str(value)
    quoted = json.dumps(value, ensure_ascii=False)  # JSON's pairs of surrogates are no YAML
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
