"""A YAML file with the line of every key: read, changed by --set, and its problems put in words."""

import difflib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sweep.errors import SpaceError
from sweep.space.hyperparameters import Problem
from sweep.space.plain_yaml import NotPlain, check_plain

MOST_BYTES = 256 * 1024
"""A space takes two or three thousand."""


@dataclass(frozen=True, slots=True)
class SpaceFile:
    """A file as run: what it says, and where."""

    path: Path
    document: CommentedMap
    flags: Mapping[str, str]
    """Dotted key → the --set flag that gave it."""
    folder: Path
    """Relative paths begin here."""
    has_lines: bool = True
    """Whether somebody sees the lines: Python's own values have none."""

    @property
    def plain(self) -> dict[str, Any]:
        """The document in plain Python types: ruamel's own carry comments and style."""
        plain: dict[str, Any] = _plain(self.document)
        return plain

    @property
    def text(self) -> str:
        """The file as YAML, with what was set on the command line."""
        stream = io.StringIO()
        YAML(typ="rt").dump(self.document, stream)
        return stream.getvalue()

    def in_words(self, problems: Sequence[Problem]) -> str:
        """The message: the file, the number of problems, one line for each in the file's order.

        Keys without a lead come last, and what they list is told once.
        """
        placed = sorted(
            ((*self._place(problem.path), problem) for problem in problems),
            key=lambda p: (p[2].order, p[0]),
        )
        width = max(len(where) for _, where, _ in placed)
        noun = "problem" if len(placed) == 1 else "problems"
        lines, listed = [], set()
        for _, where, p in placed:
            words = p.words.removesuffix(p.listed) if p.listed in listed else p.words
            listed.add(p.listed)
            lead = f"{where:<{width}}   " if width else ""
            lines.append(f"  {lead}{_dotted(p.path)}: {words}")
        return "\n".join([f"{self.path}: {len(placed)} {noun}", *lines])

    def _place(self, path: tuple[str | int, ...]) -> tuple[int, str]:
        dotted = _dotted(path)
        for key, flag in self.flags.items():
            # What is wrong with a whole is blamed on the flag that changed a part of it.
            if f"{dotted}.".startswith((f"{key}.", f"{key}[")) or key.startswith(f"{dotted}."):
                return -1, flag
        line = 0
        node: Any = self.document
        for part in path:
            try:
                if isinstance(part, int):
                    line = node.lc.item(part)[0]
                else:  # a key may be a number or a date in the file
                    part = next(key for key in node if str(key) == part)
                    line = node.lc.key(part)[0]
                node = node[part]
            except (AttributeError, KeyError, TypeError, IndexError, StopIteration):
                break  # a missing key is placed where its parent stands
        return line, f"line {line + 1}" if self.has_lines else ""


def read(path: Path, overrides: Mapping[str, str], folder: Path | None = None) -> SpaceFile:
    """Read a file and apply `overrides` (dotted key → value as YAML).

    Args:
        folder: Where relative paths begin; None: at the file.

    Raises:
        SpaceError: The file cannot be read, or is not YAML.
    """
    document = _read(path)
    return SpaceFile(path, document, _overridden(document, overrides), folder or path.parent)


def of_text(text: str, path: Path) -> SpaceFile:
    """Return the file that a text would be at `path`."""
    return SpaceFile(path, _built(text), {}, path.parent)


def of_mapping(values: Mapping[str, Any], overrides: Mapping[str, str]) -> SpaceFile:
    """Return the file that Python's values would be in the current folder.

    Raises:
        SpaceError: They are not what a file could say, or have no name.
    """
    stream = io.StringIO()
    try:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False, default=os.fspath)
        YAML(typ="rt").dump(json.loads(text), stream)
    except (TypeError, ValueError) as error:
        raise SpaceError(
            f"The space: must hold texts, numbers, true, false, lists and mappings: {error}."
        ) from None
    document = _built(stream.getvalue())
    if not isinstance(document, CommentedMap) or "name" not in {**document, **overrides}:
        raise SpaceError("The space: must have a `name`, since no file gives it one. Add it.")
    flags = _overridden(document, overrides)
    return SpaceFile(Path("The space"), document, flags, Path.cwd(), has_lines=False)


def _overridden(document: CommentedMap, overrides: Mapping[str, str]) -> dict[str, str]:
    return {key: _override(document, key, text) for key, text in overrides.items()}


def _read(path: Path) -> CommentedMap:
    text = _text(path)
    try:
        document = _built(text)
    except MarkedYAMLError as error:
        raise SpaceError(f"{path}: 1 problem\n  {_not_yaml(error)}") from None
    except YAMLError:  # the only one without a mark is about characters
        raise SpaceError(f"{path}: must be YAML text, but is a binary file.") from None
    except ValueError as error:
        raise SpaceError(
            f"{path}: a number or date cannot be read: {error}. Put it in quotation marks."
        ) from None
    except TypeError:  # what cannot be hashed
        raise SpaceError(f"{path}: a key must be text, not a list or a mapping.") from None
    if document is None:
        raise SpaceError(f"{path}: is empty. Start from a copy of search_spaces/quickstart.yaml.")
    if not isinstance(document, CommentedMap):
        raise SpaceError(
            f"{path}: must be keys and values such as `name: my-sweep`, "
            f"not a {'list' if isinstance(document, CommentedSeq) else 'single value'}."
        )
    return document


def _built(text: str) -> Any:
    check_plain(text)
    return YAML(typ="rt").load(text)


def _check_path(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise SpaceError(f"{path}: is a broken link. Fix it, or name the file itself.")
    if not path.exists():
        folder = path.parent
        siblings = [p.name for p in folder.glob("*.y*ml")] if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        raise SpaceError(f"{path}: no such file{did_you_mean([str(folder / n) for n in near])}")
    if path.is_dir():
        raise SpaceError(f"{path}: must be a YAML file, but is a folder; name the file in it.")
    if not path.is_file():  # a pipe would be waited for, and a device has no end
        raise SpaceError(f"{path}: must be a regular file, but is a pipe or a device.")


def _text(path: Path) -> str:
    try:
        _check_path(path)
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SpaceError(f"{path}: cannot be read: {error.strerror}.") from None
    if len(data) > MOST_BYTES:
        raise SpaceError(
            f"{path}: must be a space of at most {MOST_BYTES // 1024} KiB, but is larger. "
            f"If it is the data, name it under data.train."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpaceError(
            f"{path}: must be UTF-8 text, but byte {error.start}, on line {line}, is not "
            f"(0x{data[error.start]:02x}). Save it as UTF-8."
        ) from None


IN_WORDS: Sequence[tuple[str, str]] = (
    (r"'\\t' that cannot", "a tab is used here; YAML takes only spaces, so use spaces"),
    (r"character '(.)' that", "a value cannot start with {0}; put it in quotation marks"),
    (r"undefined alias|alphabetic", "a value cannot start with *; put it in quotation marks"),
    (r'duplicate key "(.*?)" with', "`{0}` is given twice; remove one of the two"),
    (
        r"expected ',' or '(.)'",
        "a comma or {0} is missing before this; the bracket opens on line {line}",
    ),
    (r"but found '([\]}])'", "{0} closes nothing here; remove it"),
    (r"end of stream", "a quotation mark opens here and never closes; close it"),
    (r"expected ':'", "must be `key: value`; a colon and a space are missing"),
    (r"unknown escape", "a backslash in double quotation marks; use single ones"),
    (r"another document", "a file holds one space, but a second starts here; remove `---`"),
    (r"'<document start>'", "indented unlike the first line; start all top keys in one column"),
    (r"but found '-'", "a list item (-) among keys; indent it, or write `key: value`"),
    (r"<block end>", "indented unlike the keys above; indent keys of one level alike"),
    (
        r"mapping values",
        "no colon is allowed here; look for one missing on the line above or a wrong indentation, "
        "or put text that holds a colon in quotation marks",
    ),
)
"""What ruamel says, and what it means for the person who wrote the file."""


def _not_yaml(error: MarkedYAMLError) -> str:
    said = str(error.problem or error.context)
    context, mark = error.context_mark, error.problem_mark
    if context and re.search(r"expected ':'|end of stream", said):
        mark = context  # what is open, not where ruamel noticed
    words = shortened(said)
    for pattern, ours in IN_WORDS:
        if match := re.search(pattern, said):
            words = ours.format(
                *map(shortened, match.groups()), line=context.line + 1 if context else 1
            )
            break
    place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "line 1"
    verdict = words if isinstance(error, NotPlain) else f"not YAML: {words}"
    return f"{place}   {verdict}."


FLAGS = {"name": "--name", "seed": "--seed", "budget.trials": "--trials", "budget.hours": "--hours"}
"""Settings with a flag of their own on the command line."""


def _override(document: CommentedMap, key: str, text: str) -> str:
    """Set dotted `key` in the document; returns the flag as the user typed it."""
    flag = f"{FLAGS[key]} {text}" if key in FLAGS else f"--set {key}={text}"
    try:
        value = _built(text)
    except NotPlain as error:
        raise SpaceError(f"{shortened(flag)}: {error.problem}.") from None
    except (YAMLError, ValueError, TypeError):
        raise SpaceError(
            f"{shortened(flag)}: the value is not YAML. Quote it for your shell."
        ) from None
    *parents, last = key.split(".")
    place: Any = document
    for parent in parents:
        if parent not in place or not isinstance(place[parent], CommentedMap):
            place[parent] = CommentedMap()
        place = place[parent]
    place[last] = value
    return shortened(flag)


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):  # bool first: it is an int
        if isinstance(node, kind):
            return kind(node)
    return node


def did_you_mean(near: Sequence[str]) -> str:
    """The end of a sentence: the nearest name, if there is one."""
    return f"; did you mean {near[0]}?" if near else "."


def _dotted(path: tuple[str | int, ...]) -> str:
    words = ""
    for part in path:
        words += f"[{part}]" if isinstance(part, int) else f".{shortened(part)}"
    return words.lstrip(".")


def shortened(text: str) -> str:
    """A text in a message, without the rest of a very long one."""
    return text if len(text) <= 200 else f"{text[:199]}…"
