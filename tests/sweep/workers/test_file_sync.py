"""Machines that do not see the sweep's folder: files reach them, and come back as they are made."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sweep.driver.loop import run
from sweep.study.budget import Budget
from sweep.workers import connection, file_sync
from sweep.workers import runner as ray_workers
from sweep.workers.file_sync import FolderProbe
from sweep.workers.runner import RayRunner
from tests.recording import Recording
from trials.config import EvalPoint, TrialConfig
from trials.trial_folder import read_result

MakeConfig = Callable[..., TrialConfig]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray whose only machine is taken for another one, which does not see the folder."""
    write = FolderProbe.write
    monkeypatch.setattr(ray_workers, "is_joined", lambda: True)
    monkeypatch.setattr(
        FolderProbe, "write", lambda folder: replace(write(folder), content="other")
    )
    monkeypatch.setattr(file_sync, "SYNC_SECONDS", 0.2)
    connection.connect(n_cpu_workers=2)
    yield
    connection.disconnect()


def scratches(runner: RayRunner) -> list[Path]:
    assert runner._probe is not None
    return list(Path(tempfile.gettempdir()).glob(f"sweep-{runner._probe.sweep}-*/trials"))


def whole(config: TrialConfig) -> None:
    """A trial's folder holds all that one on this machine would."""
    folder = Path(config.output_dir)
    names = {path.name for path in folder.iterdir()}
    assert names == {"adapter", "config.json", "log.txt", "result.json"}
    assert {path.name for path in (folder / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert json.loads((folder / "config.json").read_text())["data_dir"] == config.data_dir
    assert read_result(folder) is not None


def test_files_of_a_trial_elsewhere_are_as_of_one_that_ran_here(
    elsewhere: None, config: MakeConfig, tmp_path: Path
) -> None:
    configs = [config(number) for number in range(3)]
    sweep = Recording(configs)
    runner = RayRunner(config().model, n_slots=lambda: 2, on_gpus=False, folder=tmp_path)
    run(sweep, runner, Budget(None, None))
    assert scratches(runner)
    runner.shutdown()
    assert not scratches(runner)
    for trial in configs:
        assert sweep.results[trial.number].outcome == "completed"
        whole(trial)
        log = (Path(trial.output_dir) / "log.txt").read_text()
        assert log.count('"index": ') == 4
        assert log.count("=== trial") == 1


@pytest.mark.long
def test_a_trial_goes_on_elsewhere_from_what_had_come_back(
    elsewhere: None, config: MakeConfig, tmp_path: Path
) -> None:
    trial = config(0, epochs=40, checkpoint_minutes=0.001)
    checkpoint = Path(trial.output_dir) / "checkpoint.safetensors"
    killed: list[int] = []

    def kill_once_a_checkpoint_is_here(number: int, point: EvalPoint) -> None:
        if checkpoint.exists() and not killed and point.index < 4:
            killed.append(point.index)
            [victim] = [
                process
                for process in psutil.Process().children(recursive=True)
                if any(f.path.endswith("trials/000/log.txt") for f in process.open_files())
            ]
            os.kill(victim.pid, signal.SIGKILL)

    sweep = Recording([trial, trial], kill_once_a_checkpoint_is_here)
    runner = RayRunner(config().model, n_slots=lambda: 1, on_gpus=False, folder=tmp_path)
    run(sweep, runner, Budget(None, None))
    runner.shutdown()
    assert killed
    assert sweep.results[0].outcome == "completed"
    log = (Path(trial.output_dir) / "log.txt").read_text()
    assert "going on after step" in log
    assert log.count("=== trial") == 2  # the first attempt's end was fetched from the dead one
    whole(trial)
