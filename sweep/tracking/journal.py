"""What a server is still to be told: a file of events that survives a kill at any byte."""

import json
import os
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweep.clock import Clock
from sweep.folder import layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing to write to the server."""

    sequence: int
    """Its place in the order of all events of the sweep."""
    kind: str
    arguments: Mapping[str, Any]
    """Plain data: it goes through JSON."""
    time: int
    """Milliseconds since 1970: when it happened, not when it is sent. No event is before another
    that happened earlier, also where the clock was set back."""


class Journal:
    """Events in the order in which they happened, on disk until they are sent.

    A line of the file is an event. A second file beside it, `.sent`, holds the sequence of the
    latest one sent, its kind and its time. A process that dies between a write to the server and
    that file sends one event again: the one that sends must bear it. Threads may share a journal,
    processes may not.

    Nothing raises for a disk that is full: what could not be written waits in memory and is
    written first when there is room again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sent_path = path.with_suffix(".sent")
        self._changed = threading.Condition()
        self._unwritten: deque[Event] = deque()
        self._unsynced = False
        self._sequence, self._last_kind, latest = self._read_sent()
        lines, self._length = _whole_lines(path)
        events = [event for event in map(_event, lines) if event is not None]
        self.n_unreadable = len(lines) - len(events)
        """Lines that a broken disk left without sense; they stay in the file."""
        self._unsent = deque(event for event in events if event.sequence > self._sequence)
        # The marker is ahead of a file that was emptied, or whose end a power cut took.
        self._sequence = max(self._sequence, *(event.sequence for event in events), 0)
        self._clock = Clock(max(latest, *(event.time for event in events), 0) / 1000)

    def __len__(self) -> int:
        """Events that are not sent, or not yet noted as sent."""
        with self._changed:
            return len(self._unsent)

    @property
    def sequence(self) -> int:
        """Of the latest event of all, sent or not; 0 before the first."""
        return self._sequence

    @property
    def last_kind(self) -> str | None:
        """The kind of the latest event of all; None before the first."""
        with self._changed:
            return self._unsent[-1].kind if self._unsent else self._last_kind

    def now(self) -> int:
        """Return the time of an event that happens now."""
        with self._changed:
            return round(self._clock.now() * 1000)

    def append(self, kind: str, arguments: Mapping[str, Any]) -> None:
        """Add an event that happens now. Does not wait for the disk; `sync` does."""
        # As another process reads it; half a character, of a strange file name, would stop MLflow.
        text = json.dumps(arguments, ensure_ascii=False, default=str).encode(errors="replace")
        arguments = json.loads(text)
        with self._changed:
            self._sequence += 1
            event = Event(sequence=self._sequence, kind=kind, arguments=arguments, time=self.now())
            self._unsent.append(event)
            self._unwritten.append(event)
            self._write()
            self._changed.notify_all()

    def first(self, timeout: float = 0.0) -> Event | None:
        """Return the event to send next; None when there is none within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._unsent, timeout)
            return self._unsent[0] if self._unsent else None

    def sent(self, event: Event) -> None:
        """Take the first event off: it is sent, or never will be."""
        with self._changed:
            assert self._unsent[0] is event
            self._unsent.popleft()
            if self._unwritten and self._unwritten[0] is event:
                self._unwritten.popleft()
            self._last_kind = event.kind
            with suppress(OSError):  # it is sent once more by the next process, no harm
                unfinished = self._sent_path.with_suffix(".tmp")
                unfinished.write_text(f"{event.sequence} {event.kind} {event.time}")
                unfinished.replace(self._sent_path)
                if not self._unsent and self._length and not self.n_unreadable:
                    os.truncate(self._path, 0)
                    self._length = 0

    def sync(self) -> None:
        """Wait until what was appended survives a power cut."""
        with self._changed:
            self._write()
            if not self._unsynced:
                return
            self._unsynced = False
        with suppress(OSError), self._path.open("ab") as file:
            os.fsync(file.fileno())

    def _write(self) -> None:
        """Append what is not in the file yet, each event whole or not at all."""
        with suppress(OSError):
            while self._unwritten:
                line = json.dumps(asdict(self._unwritten[0]), ensure_ascii=False).encode() + b"\n"
                with self._path.open("ab", buffering=0) as file:
                    self._length = min(self._length, file.seek(0, os.SEEK_END))
                    file.truncate(self._length)  # the torn end of an attempt on a full disk
                    written = 0
                    while written < len(line):
                        written += file.write(line[written:])
                self._length += len(line)
                self._unwritten.popleft()
                self._unsynced = True

    def _read_sent(self) -> tuple[int, str | None, int]:
        with suppress(OSError, ValueError):
            sequence, kind, *time = self._sent_path.read_text().split()  # earlier versions: no time
            return int(sequence), kind, int(*time)
        return 0, None, 0  # all that is in the file is sent, perhaps again


def is_closed(output_dir: Path) -> bool:
    """Whether everything of a sweep was sent, its end included."""
    journal = Journal(output_dir / layout.JOURNAL)
    return not len(journal) and journal.last_kind == "close"


def _whole_lines(path: Path) -> tuple[list[bytes], int]:
    """Return the lines of a file and their length; what follows the last line end is left out."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    length = content.rfind(b"\n") + 1
    return content[:length].splitlines(), length


def _event(line: bytes) -> Event | None:
    """Read a line; None for one that a power cut left without sense."""
    try:
        return Event(**json.loads(line))
    except (ValueError, TypeError):
        return None
