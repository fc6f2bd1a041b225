"""The study's database is waited for: a write that fails is made again, once it can be."""

from __future__ import annotations

import resource
import sqlite3
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.trial import create_trial

from sweep.errors import StudyAway
from sweep.storage.optuna_private import trial_id_of
from sweep.storage.patient import Patience, PatientStorage, own_storage, storage_url


def test_writes_wait_for_a_database_that_is_locked(tmp_path: Path) -> None:
    said: list[str] = []
    storage = PatientStorage(storage_url(tmp_path), Patience())
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    other = sqlite3.connect(tmp_path / "study.db", check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    released = threading.Timer(7.0, other.rollback)  # sqlite itself waits for 5 s
    released.start()
    storage.patience.say, storage.patience.is_over = said.append, lambda: False
    began = time.monotonic()
    trial.set_user_attr("curve", [1, 2])
    assert time.monotonic() - began > 5
    released.join()
    other.close()
    assert study.trials[0].user_attrs == {"curve": [1, 2]}
    assert said == [
        "The study cannot be written: database is locked. Waiting …",
        "The study can be written again.",
    ]


def test_no_trial_ends_before_it_began_though_the_clock_was_set_back(tmp_path: Path) -> None:
    storage = PatientStorage(storage_url(tmp_path), Patience())
    study = optuna.create_study(storage=storage)
    begins = datetime.now() + timedelta(hours=1)
    study.enqueue_trial({})
    study.ask()
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("UPDATE trials SET datetime_start = ?", [f"{begins}"])
    storage.end_trial(trial_id_of(study.trials[0]), create_trial(value=1.0))
    (ended,) = study.trials
    assert ended.duration == timedelta()


def test_nobody_waits_once_the_sweep_is_to_end(tmp_path: Path) -> None:
    study = optuna.create_study(storage=PatientStorage(storage_url(tmp_path), Patience()))
    other = sqlite3.connect(tmp_path / "study.db")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StudyAway, match="cannot be read: database is locked"):
        study.ask()
    other.close()


def test_a_study_that_finds_no_room_is_put_in_words_and_begun_when_there_is(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # some of its tables
    try:
        with pytest.raises(StudyAway, match=r"study\.db: cannot be used: .+\. Free disk space"):
            own_storage(tmp_path, Patience())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    study = optuna.create_study(storage=own_storage(tmp_path, Patience()))
    assert study.ask().number == 0
