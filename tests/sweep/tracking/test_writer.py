"""Events that are sent later: in order, once, whatever the server does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.tracking import writer as background
from sweep.tracking.journal import Journal
from sweep.tracking.writer import Writer


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_LONGEST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(background, "_CLOSING_WAIT_SECONDS", 0.001)


def writing(journal: Journal, send: Callable[[str], object]) -> Writer:
    return Writer(
        journal,
        lambda event: send(event.kind),
        is_final=lambda error: isinstance(error, ZeroDivisionError),
        idle=lambda: None,
    )


def put(journal: Journal, *kinds: str) -> None:
    for kind in kinds:
        journal.append(kind, {})


def test_a_slow_write_makes_nobody_wait(journal: Journal) -> None:
    answer = threading.Event()
    sent: list[str] = []

    def send(kind: str) -> None:
        answer.wait()
        sent.append(kind)

    writer = writing(journal, send)
    put(journal, "a", "b")
    assert sent == []
    answer.set()
    writer.close()
    assert sent == ["a", "b"]


@pytest.mark.usefixtures("no_wait")
def test_a_write_that_fails_is_tried_until_it_arrives(journal: Journal) -> None:
    left = iter(range(20))
    sent: list[str] = []

    def send(kind: str) -> None:
        if next(left, None) is not None:
            raise OSError("http://me:secret@host/path?token=secret is away\nmore")
        sent.append(kind)

    writer = writing(journal, send)
    put(journal, "a", "b")
    writer.close()
    assert (sent, len(journal), writer.error, writer.n_refused) == (["a", "b"], 0, None, 0)


def test_what_keeps_a_write_away_is_known_without_secrets(journal: Journal) -> None:
    def send(kind: str) -> None:
        raise OSError("http://me:secret@host/path?token=secret is away\nmore")

    writer = writing(journal, send)
    put(journal, "a")
    deadline = time.monotonic() + 5
    while writer.error is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert writer.error == "http://host/path is away."


def test_a_write_that_is_refused_is_counted_and_skipped(journal: Journal) -> None:
    sent: list[str] = []
    writer = writing(journal, lambda kind: sent.append(kind) if kind != "a" else 1 / 0)
    put(journal, "a", "b")
    started = time.monotonic()
    writer.close()
    assert time.monotonic() - started < 1
    assert (sent, writer.n_refused, writer.first_refusal) == (["b"], 1, "division by zero.")


def test_a_dead_server_does_not_hold_up_the_end(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_CLOSING_PATIENCE_SECONDS", 0.2)
    answer = threading.Event()
    writer = writing(journal, lambda kind: answer.wait())
    put(journal, "a", "b")
    started = time.monotonic()
    writer.close()
    assert time.monotonic() - started < 2
    assert len(journal) == 2
    answer.set()
