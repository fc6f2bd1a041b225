"""A YAML file with the line of every key: read, changed by --set, and its problems put in words."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sweep.parameters import Problem


class SpaceError(ValueError):
    """All problems of a space, in words, one to a line."""


@dataclass(frozen=True, slots=True)
class SpaceFile:
    """A file as run: what it says, and where."""

    path: Path
    document: CommentedMap
    flags: Mapping[str, str]
    """Dotted key → the --set flag that gave it."""

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
        """The message: the file, the number of problems, one line for each in the file's order."""
        placed = sorted(
            ((*self._place(problem.path), problem) for problem in problems), key=lambda p: p[0]
        )
        width = max(len(where) for _, where, _ in placed)
        noun = "problem" if len(placed) == 1 else "problems"
        lines = [f"  {where:<{width}}   {_dotted(p.path)}: {p.words}" for _, where, p in placed]
        return "\n".join([f"{self.path}: {len(placed)} {noun}", *lines])

    def _place(self, path: tuple[str | int, ...]) -> tuple[int, str]:
        dotted = _dotted(path)
        for key, flag in self.flags.items():
            if dotted == key or dotted.startswith((f"{key}.", f"{key}[")):
                return -1, flag
        line = 0
        node: Any = self.document
        for part in path:
            try:
                line = node.lc.item(part)[0] if isinstance(part, int) else node.lc.key(part)[0]
                node = node[part]
            except (AttributeError, KeyError, TypeError, IndexError):
                break  # a missing key is placed where its parent stands
        return line, f"line {line + 1}"


def read(path: Path, overrides: Mapping[str, str]) -> SpaceFile:
    """Read a file and apply `overrides` (dotted key → value as YAML).

    Raises:
        SpaceError: The file cannot be read, or is not YAML.
    """
    document = _read(path)
    flags = {key: _override(document, key, text) for key, text in overrides.items()}
    return SpaceFile(path, document, flags)


def _read(path: Path) -> CommentedMap:
    if not path.exists():
        folder = path.parent
        siblings = [p.name for p in folder.glob("*.y*ml")] if folder.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        raise SpaceError(f"{path}: no such file{did_you_mean(near, str(folder) + '/')}")
    if path.is_dir():
        raise SpaceError(f"{path}: is a folder; name the YAML file in it.")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpaceError(
            f"{path}: must be UTF-8 text; byte {error.start} is not. Save it as UTF-8."
        ) from None
    except OSError as error:
        raise SpaceError(f"{path}: cannot be read: {error.strerror}.") from None
    try:
        document = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        what = (error.problem or error.context or "not YAML").split("\n")[0].strip()
        raise SpaceError(f"{path}: 1 problem\n  {line}   not YAML: {what}.") from None
    except (YAMLError, ValueError) as error:
        raise SpaceError(f"{path}: not YAML: {str(error).splitlines()[0]}.") from None
    if document is None:
        raise SpaceError(f"{path}: is empty. Begin with a copy of search_spaces/quickstart.yaml.")
    if not isinstance(document, CommentedMap):
        raise SpaceError(
            f"{path}: must be keys and values such as `name: my-sweep`, "
            f"not a {'list' if isinstance(document, CommentedSeq) else 'single value'}."
        )
    return document


def _override(document: CommentedMap, key: str, text: str) -> str:
    """Set dotted `key` in the document; returns the flag as the user typed it."""
    flag = f"--set {key}={text}"
    try:
        value = YAML(typ="rt").load(text)
    except YAMLError:
        raise SpaceError(f"{flag}: the value is not YAML. Quote it for your shell.") from None
    *parents, last = key.split(".")
    place: Any = document
    for parent in parents:
        if parent not in place or not isinstance(place[parent], CommentedMap):
            place[parent] = CommentedMap()
        place = place[parent]
    place[last] = value
    return flag


def _plain(node: Any) -> Any:
    """The document in plain Python types: ruamel's own carry comments and style."""
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):  # bool first: it is an int
        if isinstance(node, kind):
            return kind(node)
    return node


def did_you_mean(near: Sequence[str], prefix: str = "") -> str:
    """The end of a sentence: the nearest name, if there is one."""
    return f"; did you mean {prefix}{near[0]}?" if near else "."


def _dotted(path: tuple[str | int, ...]) -> str:
    words = ""
    for part in path:
        words += f"[{part}]" if isinstance(part, int) else f".{part}"
    return words.lstrip(".")
