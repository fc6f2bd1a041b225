"""The places: names of folders, homes, temporary folders, locales, standard files, limits."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.small_disk import SmallDisk

Made = AbstractContextManager[object]


@dataclass(frozen=True, kw_only=True)
class Place:
    """One row of the table.

    Args:
        words: What a command may say in place of its result: a pattern. Empty: nothing.
        says: What it may say beside its result.
        environment: `{here}` is the row's own folder; None takes a variable away.
        shell: What the shell makes of the command, which is `{}`.
        make: Makes the place, given the row's folder, and takes it away.
    """

    name: str
    folder: str = "work"
    """Of the space, the data and the sweeps, below the row's own."""
    output: str = "out"
    space: str = "tiny.yaml"
    environment: Mapping[str, str | None] = field(default_factory=dict)
    shell: str = "{}"
    words: str = ""
    says: str = ""
    make: Callable[[Path], Made] = lambda here: nullcontext()
    is_ascii: bool = False
    """Whether all that is shown must be."""
    is_silent: bool = False
    """Whether standard output cannot be read."""
    is_cheap: bool = False
    """Whether the ordinary tests try it."""


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """An empty file system that cannot be written: not by root either."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "sweep-places", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """A disk of 1 MiB without a free byte."""
    disk = SmallDisk(folder, n_mib=1)
    disk.fill()
    try:
        yield
    finally:
        disk.unmount()


@contextmanager
def linked(here: Path) -> Iterator[None]:
    """The folder is a link to another."""
    (here / "elsewhere").mkdir()
    (here / "link").symlink_to("elsewhere")
    yield


def _named(name: str, folder: str, **more: object) -> Place:
    return Place(name=name, folder=folder, **more)  # type: ignore[arg-type]


FULL = r"No space left on device|disk is full"
PATHS = (
    Place(name="plain"),
    _named("?", "what? now", is_cheap=True),
    _named("%", "50% %41 off", is_cheap=True),
    _named("{", "{SCHEMA_VERSION} {}"),
    _named("quotes", 'it\'s "so"'),
    _named("# & = ;", "a#b&c=d;e?f=g"),
    _named("@ :", "me@host:22"),
    _named("spaces, umlauts, Greek", " größe α 数据 "),
    _named("newline", "two\nlines"),
    _named("-", "-dash", space="./-tiny.yaml", output="-sweeps"),
    _named("dots", "dots...", output="..out.."),
    _named("a shell's signs", "$HOME `id` \\ * [a] ~ !"),
    _named("long", "/".join(["l" * 60] * 5)),
    _named("longer", "/".join(["l" * 250] * 6), words="sqlite opens paths of at most"),
    _named("a link", "link", make=linked),
    _named("not UTF-8", os.fsdecode(b"l\xe4tin"), words="UTF-8", is_cheap=True),
    _named("too long", "work", output="o" * 300, words="File name too long.+[Ss]horter"),
)
WITHOUT_CACHE = (
    r"continuing without[^:]+:\s+[\w\s-]+?(system|directory|denied)|tokenising \d+ \w+ rows"
)
"""What is said there, on one line or two."""
NO_CACHE = "go on without a cache.+Set XDG_CACHE_HOME"
HOMES = (
    Place(name="HOME unset", environment={"HOME": None}, words=r"/root/\.cache/sweep"),
    Place(
        name="HOME missing",
        environment={"HOME": "/proc/nobody"},
        words=NO_CACHE,
        says=WITHOUT_CACHE,
    ),
    Place(
        name="HOME read-only",
        environment={"HOME": "{here}/ro"},
        make=lambda here: read_only(here / "ro"),
        words=NO_CACHE,
        says=WITHOUT_CACHE,
    ),
    Place(
        name="no home, no name",
        environment={"HOME": None, "USER": None, "LOGNAME": None},
        shell="unshare --user --map-user=12345 --map-group=12345 {}",
        words="Set XDG_CACHE_HOME",
    ),
    Place(
        name="cache read-only",
        environment={"XDG_CACHE_HOME": "{here}/ro"},
        make=lambda here: read_only(here / "ro"),
        words=NO_CACHE,
        says=WITHOUT_CACHE,
    ),
    Place(
        name="cache a file",
        environment={"XDG_CACHE_HOME": "/dev/null"},
        words=NO_CACHE,
        says=WITHOUT_CACHE,
    ),
    Place(name="cache relative", environment={"XDG_CACHE_HOME": "cache"}),
)
TEMPORARY = (
    Place(name="TMPDIR long", environment={"TMPDIR": "{here}/" + "t" * 120}),
    Place(
        name="TMPDIR full",
        environment={"TMPDIR": "{here}/full"},
        make=lambda here: full(here / "full"),
        words=FULL,
    ),
    Place(
        name="TMPDIR read-only",
        environment={"TMPDIR": "{here}/ro"},
        make=lambda here: read_only(here / "ro"),
    ),
    Place(name="TMPDIR missing", environment={"TMPDIR": "{here}/none"}),
    Place(
        name="RAY_TMPDIR long",
        environment={"RAY_TMPDIR": "{here}"},
        words=r"RAY_TMPDIR must be short.+Set RAY_TMPDIR",
    ),
    Place(
        name="RAY_TMPDIR missing",
        environment={"RAY_TMPDIR": "/tmp/none23"},
        words=r"/tmp/none23 cannot be written.+Set RAY_TMPDIR",
    ),
)
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = (
    Place(name="ASCII locale", environment=ASCII, is_ascii=True, is_cheap=True),
    Place(name="ASCII, umlauts", folder="größe α", environment=ASCII, is_ascii=True),
    Place(
        name="POSIX",
        environment={**ASCII, "LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii:strict"},
        is_ascii=True,
    ),
    Place(
        name="PYTHONIOENCODING=ascii",
        environment={"PYTHONIOENCODING": "ascii"},
        is_ascii=True,
        is_cheap=True,
    ),
    Place(name="no such locale", environment={"LC_ALL": "xx_YY.UTF-8", "LANG": "xx"}),
    Place(name="TZ odd", environment={"TZ": "Mars/Olympus+99:77"}),
)
CLOSED = r"Output: Bad file descriptor\. It was closed"
STANDARD = (
    Place(name="stdout closed", shell="{} >&-", words=CLOSED, is_silent=True, is_cheap=True),
    Place(name="stderr closed", shell="{} 2>&-"),
    Place(name="stdin closed", shell="{} <&-"),
    Place(name="all closed", shell="{} <&- >&- 2>&-", is_silent=True),
    Place(name="stdout full", shell="{} >/dev/full", words=FULL, is_silent=True),
    Place(name="stderr full", shell="{} 2>/dev/full"),
)
PYTHONS = (
    Place(name="PYTHONWARNINGS", environment={"PYTHONWARNINGS": "error"}, is_cheap=True),
    Place(name="PYTHONOPTIMIZE", environment={"PYTHONOPTIMIZE": "2"}, is_cheap=True),
    Place(name="COLUMNS=1", environment={"COLUMNS": "1", "LINES": "1"}),
    Place(name="TERM=dumb", environment={"TERM": "dumb"}),
    Place(name="PATH empty", environment={"PATH": None}),
)
LIMITS = (
    Place(name="ulimit -f", shell="ulimit -f 64; {}", words="ulimit -f unlimited"),
    Place(name="umask 077", shell="umask 077; {}"),
    Place(
        name="folder deleted",
        shell="mkdir gone; cd gone; rmdir ../gone; {}",
        words="The current folder must be there.+cd",
        is_cheap=True,
    ),
    Place(
        name="output read-only",
        make=lambda here: read_only(here / "work" / "out"),
        words=r"Read-only file system\..+name another|cannot be written to\.|no such sweep",
    ),
    Place(
        name="output full",
        make=lambda here: full(here / "work" / "out"),
        words=rf"{FULL}|A sweep needs .+ free some|no such sweep",
    ),
)
PLACES = (*PATHS, *HOMES, *TEMPORARY, *LOCALES, *STANDARD, *PYTHONS, *LIMITS)
