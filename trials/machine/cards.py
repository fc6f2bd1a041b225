"""The GPUs of this machine and who uses them, as nvidia-smi tells it."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trials.machine.finding import Finding

PATIENCE_SECONDS = 60.0
"""For nvidia-smi: without persistence mode it starts the driver of each GPU first."""
ELSEWHERE = "/usr/lib/wsl/lib"
"""Where nvidia-smi lies beside the search path."""
USED_MIB = 512
"""A GPU that nobody uses holds less. Processes outside of a container have no name in it."""
_OF_A_CARD = "index,uuid,name,driver_version,memory.total,memory.free,memory.used,mig.mode.current"
_OF_A_PROCESS = "gpu_uuid,pid,process_name,used_gpu_memory"


class NoAnswer(Exception):
    """The driver is there, but does not answer; in its own words."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that computes on a GPU."""

    pid: int
    name: str
    mib: int | None
    """None: nvidia-smi may not tell."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU."""

    index: int
    """nvidia-smi's, in the order of the PCI bus."""
    uuid: str
    name: str
    driver: str
    total_mib: int | None
    free_mib: int | None
    used_mib: int | None
    """None each: nvidia-smi does not tell, as of a GPU in slices."""
    slices: tuple[str, ...]
    """MIG's, by their UUIDs: each is a device of its own."""
    processes: tuple[Process, ...]

    @property
    def in_words(self) -> str:
        """`GPU 1 (NVIDIA L4)`."""
        return f"GPU {self.index} ({self.name})"

    @property
    def users(self) -> str | None:
        """Who uses it: `process 4711 (python3) uses 30.1 GiB`; None: nobody."""
        if self.processes:
            return ", ".join(
                f"process {p.pid} ({p.name}) uses {'some memory' if p.mib is None else gib(p.mib)}"
                for p in self.processes
            )
        if (self.used_mib or 0) < USED_MIB or self.slices:
            return None
        return f"{gib(self.used_mib)} are used by processes that cannot be seen from here"


def gib(mib: int | None) -> str:
    """`30.1 GiB`."""
    return "?" if mib is None else f"{mib / 1024:.1f} GiB"


def cards() -> list[Card] | None:
    """Return all GPUs; None: there is no nvidia-smi to ask.

    Raises:
        NoAnswer: It fails.
    """
    program = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=ELSEWHERE)
    if program is None:
        return None
    of_cards = list(_rows(_asked(program, f"--query-gpu={_OF_A_CARD}")))
    of_processes = list(_rows(_asked(program, f"--query-compute-apps={_OF_A_PROCESS}")))
    in_slices = any(row[7] == "Enabled" for row in of_cards)
    slices = _slices(_asked(program, "-L")) if in_slices else {}
    return [_card(row, slices.get(row[1], ()), of_processes) for row in of_cards]


def _asked(program: str, *words: str) -> str:
    form = ["--format=csv,noheader,nounits"] if words[0].startswith("--query") else []
    try:
        done = subprocess.run(
            [program, *words, *form],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"nvidia-smi did not answer within {PATIENCE_SECONDS:.0f} s") from None
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())
        raise NoAnswer(said[:300] or f"nvidia-smi ended with exit code {done.returncode}")
    return done.stdout


def _rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if ", " in line:  # else it is empty, or a sentence
            yield line.strip().split(", ")


def _card(row: list[str], slices: tuple[str, ...], of_processes: list[list[str]]) -> Card:
    index, uuid, name, driver, *memory, _ = row
    total, free, used = map(_number, memory)
    processes = tuple(
        # A name may hold commas; it may be a path, or a note in brackets.
        Process(int(pid), ", ".join(words).rpartition("/")[2].strip("[]"), _number(mib))
        for device, pid, *words, mib in of_processes
        if device in (uuid, *slices)
    )
    return Card(int(index), uuid, name, driver, total, free, used, slices, processes)


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None  # else [N/A], [Insufficient Permissions]


def _slices(listed: str) -> dict[str, tuple[str, ...]]:
    """Return the slices of each GPU, from `nvidia-smi -L`: a slice's line follows its GPU's."""
    card, found = "", dict[str, tuple[str, ...]]()
    for uuid in re.findall(r"UUID: ([^)]+)\)", listed):
        if uuid.startswith("MIG-"):
            found[card] = (*found[card], uuid)
        else:
            card = uuid
            found[card] = ()
    return found


def named_devices() -> list[str] | None:
    """Return what CUDA_VISIBLE_DEVICES names; None: it is not set, so all are to be used."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return None
    return [name.strip() for name in names.split(",") if name.strip() not in ("", "-1")]


def visible(found: Sequence[Card]) -> list[Card]:
    """Return those that CUDA_VISIBLE_DEVICES names, whole or in part."""
    named = named_devices()
    if named is None:
        return list(found)
    return [
        card
        for card in found
        if str(card.index) in named
        or any(uuid.startswith(name) for uuid in (card.uuid, *card.slices) for name in named)
    ]


def without(card: Card, found: Sequence[Card]) -> str:
    """Say how a GPU is left out."""
    others = ",".join(str(other.index) for other in found if other is not card)
    return f"leave it out: CUDA_VISIBLE_DEVICES={others}" if others else "wait for it"


def look(found: Sequence[Card]) -> Iterator[Finding]:
    """A line for each GPU that is to be used, and one where they differ."""
    for card in found:
        yield _of_card(card, found)
    sizes = {round((card.total_mib or 0) / 1024) for card in found if not card.slices}
    if len(sizes) > 1:
        words = " and ".join(f"{size} GiB" for size in sorted(sizes))
        largest = max(found, key=lambda card: card.total_mib or 0).index
        yield Finding(
            "GPUs",
            f"of different size, {words}; a trial begins on whichever is free",
            f"For models that need the largest, name it: CUDA_VISIBLE_DEVICES={largest}.",
            "slower",
        )


def _of_card(card: Card, found: Sequence[Card]) -> Finding:
    subject = f"GPU {card.index}"
    if card.slices:
        named = named_devices()
        n_used = len({uuid for uuid in card.slices for n in named or () if uuid.startswith(n)})
        words = f"{card.name} in {len(card.slices)} MIG slices, {n_used} of them named"
        if n_used:
            return Finding(subject, words)
        mend = f"CUDA uses one of them. Name all: CUDA_VISIBLE_DEVICES={','.join(card.slices)}"
        return Finding(subject, words, mend, "slower")
    words = f"{card.name}, {gib(card.free_mib)} of {gib(card.total_mib)} free"
    if (users := card.users) is None:
        return Finding(subject, words)
    return Finding(subject, f"{words}; {users}", f"End it, or {without(card, found)}.", "slower")
