"""`sweep init`: a space for a file of rows, tried on them before it is written."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sweep.driver.preparation import answered, request
from sweep.errors import SpaceError
from sweep.folder import layout
from sweep.space.loading import DEFAULT_TRIALS, checked
from sweep.space.named_files import missing, missing_model
from sweep.space.settings import as_name
from sweep.space.yaml_file import of_text
from trials.data.table import data_suffix
from trials.parent import module_command

LONGEST = 4096
"""Tokens of a row, at most: else a few long rows decide how much memory all trials need."""
_KEYS = ("train", "eval", "columns", "ignore", "skip_bad_rows", "chat_template", "max_length")
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
    data: Path, path: Path, model: str, *, on_gpus: bool, say: Callable[[str], None]
) -> str:
    """Return the text of a space for the rows of `data`, to lie at `path`.

    Raises:
        SpaceError: The rows cannot be read, or the model cannot be had; in the reader's words.
    """
    if not data.exists():
        raise SpaceError(f"{data}: no such file. DATA is a file of training rows on this machine.")
    train, folder = _seen_from(path.parent, data), path.parent
    base_model = _seen_from(folder, Path(model)) if Path(model).is_dir() else model
    if words := missing(missing_model, folder, base_model):
        raise SpaceError(f"--model: {words}")
    keys = {"train": train, "eval": 0.1, "max_length": LONGEST}
    draft = checked(of_text(_text(base_model, keys, {}, n_rows=1), path))

    def command(*paths: str) -> list[str]:
        return module_command("trials.preparation.discover", *paths)

    with tempfile.TemporaryDirectory() as scratch:
        asked = request(draft, Path(scratch) / layout.DATA, on_gpus=on_gpus)
        report = answered(asked, say, command)
    found = report["found"]
    [counts] = report["train"].values()
    keys = {"train": train, **found["keys"]}
    if isinstance(keys["eval"], str):
        keys["eval"] = _seen_from(folder, data.parent / keys["eval"])
    why = {**found["why"], "unread": ", ".join(report["unread"])}
    text = _text(base_model, keys, why, n_rows=counts["rows"] - counts["dropped"])
    checked(of_text(text, path))
    return text


def _seen_from(folder: Path, path: Path) -> str:
    return os.path.relpath(path.absolute(), folder.absolute())


def _text(base_model: str, keys: Mapping[str, Any], why: Mapping[str, str], *, n_rows: int) -> str:
    """The file, a comment on each line.

    Args:
        n_rows: That are trained on.
    """
    # Ten steps an epoch at least, as far as batches of four rows have that.
    batch = next((n for n in (32, 16, 8) if n_rows >= 10 * n), 4)
    epochs = [1, 2, 3] if n_rows >= 1000 else [2, 4, 6]
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
        (f"  epochs: {epochs}", "passes over the rows; the more, the sooner it overfits"),
        (f"  effective_batch_size: [{batch // 2}, {batch}]", f"of {n_rows:,} train rows"),
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
