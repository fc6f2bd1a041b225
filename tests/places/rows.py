"""A row of the table: a place is made, all commands are given in it, and each cell is judged."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil

from tests import tiny
from tests.places.commands import Command
from tests.places.places import PLACES, Place
from trials.foreign_text import cleaned

ROOT = Path(__file__).resolve().parents[2]
MARK = "SWEEP_PLACES"
"""In the environment of all that a row starts."""
KNOWN = {"tiny.yaml", "train.jsonl", "eval.jsonl", "new.yaml", "exported", "checked", "out"}
SPACE = """\
name: tiny
base_model: {base}
data: {{train: train.jsonl, eval: eval.jsonl, max_length: 64}}
search: {{rank: [4], learning_rate: [1e-3, 3e-3], effective_batch_size: [8], epochs: [1]}}
budget: {{trials: 2}}
"""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command has said, and how it has ended."""

    code: int
    output: str
    error: str


@dataclass(slots=True)
class Row:
    """What was seen in one place."""

    place: str
    cells: dict[str, str] = field(default_factory=dict)
    """Of each command: `same`, `words`, or what is wrong."""
    found: list[str] = field(default_factory=list)
    """What is wrong with the whole row."""
    seconds: float = 0.0

    @property
    def wrong(self) -> list[str]:
        """All that is wrong."""
        kinds = ("same", "words")
        return [f"{n}: {c}" for n, c in self.cells.items() if c not in kinds] + self.found

    @property
    def words(self) -> str:
        """A line, and one for each thing that is wrong."""
        counts = [f"{list(self.cells.values()).count(kind)} {kind}" for kind in ("same", "words")]
        line = f"{self.place:24}  {', '.join(counts)}, {len(self.wrong)} wrong"
        return "\n    ".join([f"{line}  ({self.seconds:.0f} s)", *self.wrong])


@dataclass(slots=True)
class Course:
    """The folder of all rows, and what the plain place has said."""

    folder: Path
    base: Path
    commands: Sequence[Command]
    plain: dict[str, Said] = field(default_factory=dict)
    adapter: str | None = None
    """The digest of the best adapter there."""

    def row(self, place: Place) -> Row:
        """Make a place, give all commands in it, and take it away."""
        row, began = Row(place.name), time.monotonic()
        here = Path(tempfile.mkdtemp(prefix="row-", dir=self.folder))
        sockets = tempfile.mkdtemp(prefix="p", dir="/tmp")
        with place.make(here):
            given = _Given(place, here, self.base, sockets)
            given.lay_out()
            output = given.work / place.output
            runs = any(command.name == "run" for command in self.commands)
            if not runs and self._sweep.exists():
                with suppress(OSError):  # mounted, or too long
                    shutil.copytree(self._sweep, output)
            before = given.outside()
            for command, said in given.say_all(self.commands):
                cell = self._judge(place, given, command, said)
                # Where nothing has run, there is nothing to look at.
                is_after = row.cells.get("run") == "words" and "traceback" not in cell
                row.cells[command.name] = "words" if is_after and said.code < 3 else cell
            row.found += [f"written outside: {path}" for path in sorted(given.outside() - before)]
            row.found += [f"left in {sockets}: {name}" for name in Path(sockets).iterdir()]
            row.found += self._state(place, given)
            row.found += _left(given.mark)
        row.seconds = time.monotonic() - began
        shutil.rmtree(sockets, ignore_errors=True)
        if not row.wrong:
            shutil.rmtree(here, ignore_errors=True)
        return row

    @property
    def _sweep(self) -> Path:
        """That of the plain place, to be looked at where none is to be run."""
        return self.folder / "plain" / "work" / "out"

    def take_plain(self) -> None:
        """Take what is said in the plain place for the truth."""
        before = self.folder / "plain.json"
        if before.exists():
            kept = json.loads(before.read_text(encoding="utf-8"))
            self.plain = {name: Said(**said) for name, said in kept["said"].items()}
            self.adapter = kept["adapter"]
        if all(command.name in self.plain for command in self.commands):
            return
        here = self.folder / "plain"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        given = _Given(PLACES[0], here, self.base, tempfile.mkdtemp(prefix="p", dir="/tmp"))
        given.lay_out()
        for command, said in given.say_all(self.commands):
            if said.code != command.code:
                raise RuntimeError(f"{command.name} ended with {said}")
            self.plain[command.name] = said
        self.adapter = given.adapter()
        kept = {"said": {n: asdict(s) for n, s in self.plain.items()}, "adapter": self.adapter}
        before.write_text(json.dumps(kept), encoding="utf-8")

    def _judge(self, place: Place, given: _Given, command: Command, said: Said) -> str:
        everything = said.output + said.error
        if "Traceback" in everything:
            return f"a traceback: {everything.strip().splitlines()[-1]}"
        if place.is_ascii and not everything.isascii():
            return f"not ASCII: {everything!a}"
        plain = self.plain[command.name]
        expected = _Given(PLACES[0], self.folder / "plain", self.base, "").usual(plain.output)
        if place.is_ascii and not plain.output.startswith(("{", "[")):
            expected = _in_ascii(expected)
        seen = given.usual(said.output)
        if said.code == plain.code and (seen == expected or place.is_silent):
            return "same"
        flat = " ".join(everything.split())
        if place.words and said.code < 3 and re.search(place.words, flat):
            return "words"
        if place.is_silent and said.code == 2 and not everything:
            return "words"  # that nobody can read
        return f"exit code {said.code}: {_difference(expected, seen)} {said.error[-300:]!r}"

    def _state(self, place: Place, given: _Given) -> list[str]:
        """What is wrong with a sweep that has run."""
        if not any(command.name.startswith("run") for command in self.commands):
            return []
        best = given.work / place.output / "tiny" / "best"
        if not os.path.exists(best):  # noqa: PTH110 - a name that is too long is no error there
            return []
        found = [] if given.adapter() == self.adapter else ["another adapter than in a plain place"]
        with closing(sqlite3.connect(given.work / place.output / "tiny" / "mlflow.db")) as runs:
            wanted = "SELECT count(*) FROM runs WHERE status != 'FINISHED'"
            unfinished = runs.execute(wanted).fetchone()[0]
        return found + ([f"{unfinished} runs of MLflow have not finished"] if unfinished else [])


class _Given:
    """A place that is there, and what is given in it."""

    def __init__(self, place: Place, here: Path, base: Path, sockets: str) -> None:
        self.place, self.here, self.base, self.sockets = place, here, base, sockets
        self.work, self.mark = here / place.folder, here.name

    def lay_out(self) -> None:
        """Write the space and its data; make a home and a folder for what is temporary."""
        for folder in (self.work, self.here / "home", self.here / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        for name, n, seed in (("train.jsonl", 16, 2), ("eval.jsonl", 16, 3)):
            tiny.write_rows(self.work / name, n, seed)
        text = SPACE.format(base=json.dumps(str(self.base)))
        (self.work / self.place.space).write_text(text, encoding="utf-8")

    def say_all(self, commands: Sequence[Command]) -> Iterator[tuple[Command, Said]]:
        """Give commands in turn; those that are quick in one process, unless a shell has a part."""
        for is_quick, some in itertools.groupby(commands, lambda command: command.is_quick):
            together = list(some)
            if is_quick and self.place.shell.endswith("{}"):
                yield from zip(together, self._say_together(together), strict=True)
            else:
                for command in together:
                    yield command, self._say("sweep", *self._words(command))

    def _words(self, command: Command) -> list[str]:
        names = {
            "{space}": self.place.space,
            "{train}": "train.jsonl",
            "{output}": self.place.output,
            "{base}": str(self.base),
        }
        return [names.get(word, word) for word in command.words.split()]

    def _say_together(self, commands: Sequence[Command]) -> list[Said]:
        given = json.dumps([self._words(command) for command in commands])
        with tempfile.TemporaryDirectory() as folder:
            done = self._say("tests.places.together", given, folder)
            if done.code:
                raise RuntimeError(done)
            texts = [
                [(Path(folder) / f"{number}.{end}").read_bytes() for end in ("code", "out", "err")]
                for number in range(len(commands))
            ]
        decoded = [[text.decode(errors="replace") for text in each] for each in texts]
        return [Said(int(code), output, error) for code, output, error in decoded]

    def _say(self, module: str, *words: str) -> Said:
        given = shlex.join([sys.executable, "-P", "-m", module, *words])
        done = subprocess.run(
            ["/bin/bash", "-c", self.place.shell.replace("{}", given)],
            cwd=self.work,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=600,
            check=False,
        )
        output, error = (part.decode(errors="replace") for part in (done.stdout, done.stderr))
        return Said(done.returncode, output, error)

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "USER") if name in os.environ}
        usual = {
            "HOME": f"{self.here}/home",
            "TMPDIR": f"{self.here}/tmp",
            "RAY_TMPDIR": self.sockets,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            MARK: self.mark,
        }
        odd = {
            name: None if value is None else value.replace("{here}", str(self.here))
            for name, value in self.place.environment.items()
        }
        return {n: value for n, value in {**kept, **usual, **odd}.items() if value is not None}

    def usual(self, output: str) -> str:
        """Return an output without what differs from place to place, and from run to run."""
        text = re.sub(self.place.says, "", output) if self.place.says else output
        with suppress(ValueError):  # its escapes are read
            text = json.dumps(json.loads(text), ensure_ascii=False)
        text = re.sub(r"(about )?[\d:]+( s)?( to [\d:]+( s)?)?\s+left", "# left", text)
        text = re.sub(r"[\d.,]+\s+(?=tokens/s)", "# ", text)  # else it ends the number before it
        text = re.sub(r"\b(\d+:)?\d?\d:\d\d\b|\b\d+ (s|min)\b|sqlite\+pysqlite", "#", text)
        text = "".join(text.replace("sqlite:", "#:").split())
        works = (self.work, self.work.resolve(), self.here.parent / "plain" / "work")
        for path, name in (*((work, "WORK") for work in works), (self.here, "HERE")):
            quoted = quote(os.fsencode(path), safe=" +/")
            spelt = json.dumps(str(path), ensure_ascii=False)[1:-1]
            for shown in (str(path), shlex.quote(str(path)), cleaned(str(path)), quoted, spelt):
                text = text.replace("".join(shown.split()), name)
                text = text.replace(_in_ascii("".join(shown.split())), name)
        for ours, plain in ((self.place.output, "out"), (self.place.space, "tiny.yaml")):
            text = text.replace(shlex.quote(ours), plain).replace(ours, plain)
        text = re.sub(r"[0-9a-f]{8,}(-[0-9a-f]{4,})*", "#", text)
        losses = r"(?<!\d)\d\.\d{4}(?!\d)"
        return re.sub(rf"({losses})|[\d.,]*\d", lambda found: found[1] or "#", text)

    def adapter(self) -> str | None:
        """The digest of the best adapter; None: there is none."""
        best = self.work / self.place.output / "tiny" / "best" / "adapter"
        file = best / "adapter_model.safetensors"
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None

    def outside(self) -> set[str]:
        """All files that are not the sweep's, nor the cache's."""
        ours = [self.work.resolve(), self.here / "home" / ".cache", self.here / "home" / ".config"]
        found = {
            ascii(str(path.relative_to(self.here)))
            for path in self.here.rglob("*")
            if not any(path.is_relative_to(folder) for folder in ours)
        }
        found = {path for path in found if "tmp/torchinductor_" not in path}  # torch's own cache
        known = {*KNOWN, self.place.output, Path(self.place.space).name}
        found |= {ascii(path.name) for path in self.work.iterdir() if path.name not in known}
        return found


def lay_out(folder: Path, commands: Sequence[Command]) -> Course:
    """Make the base model, and give the commands in the plain place."""
    base = folder / "base"
    folder.mkdir(parents=True, exist_ok=True)
    if not base.exists():
        tiny.make_base(base)
    course = Course(folder.resolve(), base.resolve(), commands)
    course.take_plain()
    return course


def _in_ascii(text: str) -> str:
    from sweep.screen import in_ascii

    in_ascii.register()
    return text.encode("ascii", in_ascii.NAME).decode()


def _difference(expected: str, seen: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(expected, seen, strict=False)) if a != b), None)
    at = min(len(expected), len(seen)) if at is None else at
    begin = max(0, at - 20)
    return f"{expected[begin : at + 40]!a} is {seen[begin : at + 100]!a}"


def _left(mark: str) -> list[str]:
    """End what a row has left running; return what it was."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(f"still runs: {process.pid} {' '.join(process.cmdline())[:100]}")
                process.kill()
        except psutil.Error:
            continue
    return found
