"""The file of events that are still to be sent."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sweep.tracking.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def put(journal: Journal, *numbers: int) -> None:
    for number in numbers:
        journal.append("report", {"number": number})


def send(journal: Journal, n_events: int) -> None:
    for _ in range(n_events):
        event = journal.first()
        assert event is not None
        journal.sent(event)


def unsent(path: Path) -> list[int]:
    """What another process finds."""
    journal = Journal(path)
    numbers = []
    while event := journal.first():
        numbers.append(event.arguments["number"])
        journal._unsent.popleft()
    return numbers


def test_another_process_finds_what_is_not_sent_in_order(path: Path) -> None:
    journal = Journal(path)
    put(journal, 1, 2, 3)
    send(journal, 1)
    assert unsent(path) == [2, 3]


def test_no_event_is_before_an_earlier_one_though_the_clock_was_set_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for seconds, n_sent in ((0, 1), (-3600, 0), (-1800, 3), (-7200, 0)):  # a process each
        journal = Journal(path)
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now + seconds)
        put(journal, 0)
        put(journal, 1)
        send(journal, n_sent)
    *_, (first, last) = [(event.time, journal.now()) for event in [journal.first()] if event]
    assert round(now * 1000) <= first <= last


def test_a_marker_of_an_earlier_version_has_no_time(path: Path) -> None:
    path.with_suffix(".sent").write_text("7 close")
    journal = Journal(path)
    assert (journal.sequence, journal.last_kind) == (7, "close")


def test_a_file_without_unsent_events_is_empty_and_numbers_go_on(path: Path) -> None:
    journal = Journal(path)
    put(journal, 1, 2)
    send(journal, 2)
    assert path.read_bytes() == b""
    again = Journal(path)
    put(again, 3)
    event = again.first()
    assert event is not None and event.sequence == 3


def test_a_kill_at_any_byte_of_the_last_line_loses_that_line_alone(path: Path) -> None:
    put(Journal(path), 1, 2, 3)
    whole = path.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    for length in range(last, len(whole)):
        path.write_bytes(whole[:length])
        put(Journal(path), 4)
        assert unsent(path) == [1, 2, 4]


def test_a_line_without_sense_is_left_out(path: Path) -> None:
    put(Journal(path), 1)
    with path.open("ab") as file:
        file.write(b"\0\0\0\n")
    put(Journal(path), 2)
    assert unsent(path) == [1, 2]


def test_a_line_without_sense_is_counted_and_stays(path: Path) -> None:
    put(Journal(path), 1)
    with path.open("ab") as file:
        file.write(b'{"sequence": 2, "ki\n')
    journal = Journal(path)
    send(journal, 1)
    assert journal.n_unreadable == 1 and len(journal) == 0
    assert b'{"sequence": 2, "ki\n' in path.read_bytes()


@pytest.mark.parametrize("marker", ["", "x", "1", "\0\0\0"])
def test_without_its_marker_everything_is_sent_again(path: Path, marker: str) -> None:
    journal = Journal(path)
    put(journal, 1, 2)
    send(journal, 1)
    path.with_suffix(".sent").write_text(marker)
    assert unsent(path) == [1, 2]


def test_a_marker_ahead_of_the_file_hides_no_new_event(path: Path) -> None:
    journal = Journal(path)
    put(journal, 1, 2)
    path.with_suffix(".sent").write_text("9 report")  # a power cut took lines 3 to 9
    put(Journal(path), 10)
    assert unsent(path) == [10]


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size: its last write is cut short, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_events_wait_in_memory_while_the_disk_is_full(path: Path) -> None:
    journal = Journal(path)
    put(journal, 1)
    with full_disk(path.stat().st_size + 20):
        put(journal, 2, 3)
        assert unsent(path) == [1]
        assert len(journal) == 3
    put(journal, 4)
    assert unsent(path) == [1, 2, 3, 4]


def test_events_of_a_full_disk_are_written_when_there_is_room(path: Path) -> None:
    journal = Journal(path)
    with full_disk(0):
        put(journal, 1)
    journal.sync()
    assert unsent(path) == [1]


def test_events_sent_from_memory_are_not_written_later(path: Path) -> None:
    journal = Journal(path)
    with full_disk(0):
        put(journal, 1, 2)
        send(journal, 1)
    put(journal, 3)
    assert unsent(path) == [2, 3]


def test_half_a_character_stops_nobody(path: Path) -> None:
    journal = Journal(path)
    journal.append("end", {"number": 1, "reason": "log of \udcff"})
    assert unsent(path) == [1]
    event = journal.first()
    assert event is not None and event.arguments["reason"] == "log of ?"


def test_a_file_that_was_deleted_begins_anew(path: Path) -> None:
    journal = Journal(path)
    put(journal, 1)
    path.unlink()
    put(journal, 2)
    assert unsent(path) == [2]
