"""`sweep run --json` as a program reads it, and the exit codes of `sweep run`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign import write_space


class Ran:
    """A command that has ended."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.exit_code = done.returncode
        self.err = done.stderr
        self.events: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]


def command(space: Path, *options: str) -> list[str]:
    words = ["run", str(space), "--workers", "1", "--output", str(space.parent / "out"), "--json"]
    return [sys.executable, "-m", "sweep", *words, *options]


def run(space: Path, *options: str) -> Ran:
    done = subprocess.run(command(space, *options), capture_output=True, text=True, check=False)
    return Ran(done)


@pytest.fixture
def space(tmp_path: Path, tiny_base: Path) -> Path:
    return write_space(tmp_path / "space", tiny_base, n_trials=2, epochs="[3]")


def test_0_a_sweep_that_has_run_tells_all_of_it(space: Path) -> None:
    ran = run(space)
    assert ran.exit_code == 0, ran.err
    kinds = [event["event"] for event in ran.events]
    assert (kinds[0], kinds[-1]) == ("sweep_started", "sweep_ended")
    assert set(kinds[1:-1]) == {"trial_started", "trial_reported", "trial_ended", "message"}
    assert ran.events[0]["budget"]["trials"] == 2
    assert [event["trial"] for event in ran.of("trial_started")] == [0, 1]
    for number in (0, 1):
        told = [e for e in ran.of("trial_reported") if e["trial"] == number and e["index"] > 0]
        (ended,) = (e for e in ran.of("trial_ended") if e["trial"] == number)
        assert ended["eval_loss"] == min(event["eval_loss"] for event in told)
    end = ran.events[-1]
    assert (end["exit_code"], end["state"], sum(end["outcomes"].values())) == (0, "finished", 2)
    assert (Path(end["winner"]["adapter"]) / "adapter_config.json").exists()
    assert end["winner"]["measured"].startswith("on all ")  # and so none of those of the sample
    assert ", its supervised part ⟦marked⟧:" in ran.err and "winner" in ran.err
    again = run(space)  # nothing is left to do
    assert [event["event"] for event in again.events] == ["sweep_started", "sweep_ended"]
    assert (again.exit_code, again.events[-1]["winner"]) == (0, end["winner"])


@pytest.mark.long
def test_1_a_sweep_without_an_eval_loss_that_counts_has_failed(
    space: Path, tiny_base: Path
) -> None:
    broken = shutil.copytree(tiny_base, space.parent / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    ran = run(space, "--set", "base_model=broken", "--trials", "1")
    assert (ran.exit_code, ran.events[-1]["exit_code"]) == (1, 1)
    assert ran.events[-1]["reason"] == "No trial reached an eval loss that counts."
    assert (ran.events[-1]["state"], ran.events[-1]["winner"]) == ("failed", None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "search.rnak=[8]"], "search.rnak: no such setting"),
        (["--gpus", "1"], "--workers and --gpus"),
        (["--set", "rank"], "--set rank: must be KEY=VALUE"),
        (["--set", "base_model=nowhere"], "base_model"),
    ],
)
def test_2_what_a_user_got_wrong_is_an_event_too(
    space: Path, options: list[str], words: str
) -> None:
    ran = run(space, *options)
    assert ran.exit_code == 2
    assert [event["event"] for event in ran.events] == ["error"]
    assert words in ran.events[0]["message"]
    assert ran.events[0]["exit_code"] == 2
    assert words in ran.err
    assert "Traceback" not in ran.err


def interrupted(space: Path, *options: str, when: Callable[[str, str], bool]) -> Ran:
    """Press Ctrl-C as soon as `when` is true of what stands on stdout and stderr."""
    out, err = space.parent / "stdout", space.parent / "stderr"
    with out.open("w") as stdout, err.open("w") as stderr:
        words = command(space, *options)
        running = subprocess.Popen(words, stdout=stdout, stderr=stderr, start_new_session=True)
    try:
        while running.poll() is None and not when(out.read_text(), err.read_text()):
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        code = running.wait(timeout=120)
    finally:
        running.kill()
        running.wait()
    return Ran(subprocess.CompletedProcess(words, code, out.read_text(), err.read_text()))


@pytest.mark.long
def test_130_a_sweep_that_is_interrupted_says_what_it_had(space: Path) -> None:
    ran = interrupted(
        space, *("--set", "search.epochs=300"), when=lambda out, err: '"index": 1,' in out
    )
    end = ran.events[-1]
    assert ran.exit_code == 130, ran.err
    assert (end["event"], end["exit_code"], end["state"]) == ("sweep_ended", 130, "stopped")
    assert end["n_waiting"] == 1
    assert [event["outcome"] for event in ran.of("trial_ended")] == ["interrupted"]


def test_130_before_anything_has_begun(space: Path) -> None:
    ran = interrupted(space, when=lambda out, err: bool(err))  # it reads the data
    assert ran.exit_code == 130, ran.err
    assert ran.of("trial_started") == []
    assert (ran.events[-1]["event"], ran.events[-1]["exit_code"]) == ("error", 130)
