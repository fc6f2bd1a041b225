"""A sweep's folder: versions, and one process at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep.control.stop import stop
from sweep.errors import StudyError
from sweep.folder.lock import UNKNOWN, Holder, holder, locked
from sweep.folder.requests import ask_to_stop, is_asked_to_stop
from sweep.storage.of_folder import open_folder
from tests.without_rights import AS_OTHERS

HOLDS = """
import sys, time; from pathlib import Path; from sweep.folder.lock import locked
with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)
"""


def test_a_new_folder_says_its_schema_and_opens_again(tmp_path: Path) -> None:
    open_folder(tmp_path / "a")
    open_folder(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "sweep.json").read_text())["schema"] == 1


def test_a_folder_of_another_schema_is_refused_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"schema": 7, "version": "9.1"}')
    with pytest.raises(StudyError, match="written by sweep 9.1 with schema 7.*--name"):
        open_folder(tmp_path)


def test_a_study_without_a_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()
    with pytest.raises(StudyError, match="no sweep.json"):
        open_folder(tmp_path)


def test_a_study_that_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    open_folder(tmp_path)
    (tmp_path / "trials" / "000").mkdir(parents=True)
    with pytest.raises(StudyError, match=r"study.db: must hold the study .*, but is gone"):
        open_folder(tmp_path)


def test_a_lock_names_its_holder_and_a_dead_one_leaves_none(tmp_path: Path) -> None:
    assert holder(tmp_path) is None and holder(tmp_path / "none") is None
    holding = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holding.stdout is not None and holding.stdout.readline() == "held\n"
    found = holder(tmp_path)
    assert found is not None and (found.pid, found.host) == (holding.pid, socket.gethostname())
    with pytest.raises(StudyError, match=f"as process {holding.pid} on"), locked(tmp_path):
        pass
    holding.kill()
    holding.wait()
    holding.stdout.close()
    assert holder(tmp_path) is None
    with locked(tmp_path):
        assert str(holder(tmp_path)) == f"process {os.getpid()} on {socket.gethostname()}"
    assert holder(tmp_path) is None


def test_a_suspended_sweep_is_told_and_can_be_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert "(suspended, as by Ctrl-Z: fg" in str(holder(tmp_path))
        stop(tmp_path, wait=True, say=print)
        assert process.wait(10) == -signal.SIGTERM


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a folder, and whose lock file was deleted."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        (tmp_path / "lock").unlink()
        yield process
        process.kill()


def test_a_deleted_lock_lets_nobody_in(tmp_path: Path, holding: subprocess.Popen[str]) -> None:
    for _ in range(2):
        with pytest.raises(StudyError, match="as a process that nobody"), locked(tmp_path):
            pass
        assert not (tmp_path / "lock").exists()
    holding.kill()
    holding.wait()
    assert holder(tmp_path) is None
    with locked(tmp_path):
        pass


def test_without_its_lock_file_a_sweep_is_known_to_run_and_can_be_stopped(
    tmp_path: Path, holding: subprocess.Popen[str]
) -> None:
    assert holder(tmp_path) == UNKNOWN
    said: list[str] = []
    assert stop(tmp_path, wait=False, say=said.append) == 0
    assert is_asked_to_stop(tmp_path) and "a process that nobody knows" in said[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start another user's process")
def test_another_users_sweep_is_asked_through_the_folder(tmp_path: Path) -> None:
    stops = "import sys; from pathlib import Path; from sweep.control.stop import stop\n"
    stops += "stop(Path(sys.argv[1]), wait=False, say=print)"
    with subprocess.Popen(["sleep", "60"], user=65534) as theirs, locked(tmp_path):
        write_holder(tmp_path, theirs.pid, socket.gethostname())
        command = [*AS_OTHERS, sys.executable, "-c", stops, str(tmp_path)]
        subprocess.run(command, check=True)
        assert is_asked_to_stop(tmp_path) and theirs.poll() is None
        theirs.kill()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def write_holder(folder: Path, pid: int, host: str) -> None:
    lines = {"pid": pid, "host": host, "since": 4e9}
    (folder / "lock").write_text(json.dumps(lines))


def test_without_locks_a_dead_process_is_recognised(tmp_path: Path, no_locks: None) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_holder(tmp_path, dead.pid, socket.gethostname())
    assert holder(tmp_path) is None
    with locked(tmp_path):
        pass


def test_without_locks_a_living_or_a_far_process_is_respected(
    tmp_path: Path, no_locks: None
) -> None:
    for pid, host in ((os.getppid(), socket.gethostname()), (1, "elsewhere")):
        write_holder(tmp_path, pid, host)
        assert holder(tmp_path) == Holder(pid, host, 4e9)
        with pytest.raises(StudyError, match=f"process {pid} on {host}"), locked(tmp_path):
            pass


def test_word_left_for_another_machine_is_heard_once(tmp_path: Path, no_locks: None) -> None:
    write_holder(tmp_path, 1, "elsewhere")
    said: list[str] = []
    assert stop(tmp_path, wait=False, say=said.append) == 0
    assert is_asked_to_stop(tmp_path) and "process 1 on elsewhere" in said[0]
    (tmp_path / "lock").unlink()
    with locked(tmp_path):  # whoever runs next was not meant
        assert not is_asked_to_stop(tmp_path)
        ask_to_stop(tmp_path)
        assert is_asked_to_stop(tmp_path)


def test_a_sweep_that_does_not_run_cannot_be_stopped(tmp_path: Path) -> None:
    said: list[str] = []
    assert stop(tmp_path, wait=True, say=said.append) == 1
    assert "is not running" in said[0]
