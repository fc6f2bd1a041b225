"""`sweep confirm` from end to end: on a full disk, and on a cluster that grows."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from sweep.confirm.confirmation import Confirmation
from sweep.confirm.run import Options, confirm
from sweep.errors import SpaceError, StudyError
from sweep.report.page import write_report
from sweep.results.reading import read_sweep
from sweep.workers import connection
from tests import tiny
from tests.sweep.reviewed import make_config, point, result, write_sweep
from tests.without_ray import NoRay
from trials.config import DataError, EvalPoint, Stop
from trials.data.digests import digests_of, is_whole
from trials.data.tokens import TokenSplit

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of two trials, with its rows."""
    curve = [point(4, 1.5)]
    trials = [(replace(make_config(n), optimizer="adamw"), result("completed", curve), curve)
              for n in range(2)]  # fmt: skip
    folder = write_sweep(tmp_path / "mine", trials)
    rows = TokenSplit.of(
        ids=np.arange(3, dtype=np.int32), supervised=np.ones(3, bool), lengths=np.array([3])
    )
    (folder / "data").mkdir()
    for part in ("train", "eval"):
        rows.save(folder / "data" / part)
    report = {"memory": {"adapter_parameters": 1000}}
    (folder / "data" / "report.json").write_text(json.dumps(report))
    return folder


def confirmed(folder: Path, **changes: Any) -> tuple[int, str]:
    """Confirm both trials; the exit code and what was said."""
    said = io.StringIO()
    given = {"top": 2, "seeds": 2, "workers": None, "gpus": None, "mlflow": None, **changes}
    return confirm(folder, Options(**given), Console(file=said, width=200)), said.getvalue()


def test_on_a_full_disk_it_pauses_and_goes_on_by_itself(
    folder: Path, without_ray: None, full_at_first: None
) -> None:
    code, said = confirmed(folder, workers=1)
    assert code == 0
    assert re.search(
        r"Paused, the disk is full: a trial needs \d+ MiB, but .* has 0 MiB free", said
    )
    assert said.index("Paused") < said.index("There is space again") < said.index("trial 0")


def test_on_a_cluster_that_grows_it_has_more_slots_but_no_more_than_runs(
    folder: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    monkeypatch.setattr(connection, "check_address", lambda: None)
    places = iter([1, 3, 8])
    monkeypatch.setattr(connection, "gpu_places", lambda per_trial: next(places))
    found: list[int] = []

    def ask_once_more() -> None:
        if len(found) < 3:
            found.append(NoRay.last.n_slots())

    monkeypatch.setattr(NoRay, "during", staticmethod(ask_once_more))
    assert confirmed(folder)[0] == 0
    assert found == [1, 3, 4]


SPACE = """\
base_model: {base}
data: {{train: train.jsonl, eval: eval.jsonl, max_length: 64}}
search: {{rank: [4], learning_rate: 1e-3, effective_batch_size: 8, epochs: 10}}
budget: {{trials: 1}}
evaluate: {{times: 5, rows: 40}}
"""


@pytest.mark.long
def test_a_machine_that_joins_gets_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_rows(tmp_path / "train.jsonl", 48, seed=2)
    tiny.write_rows(tmp_path / "eval.jsonl", 64, seed=3)
    space = tmp_path / "tiny.yaml"
    space.write_text(SPACE.format(base=tiny.make_base(tmp_path / "base")))
    run = [sys.executable, "-m", "sweep", "run", "tiny.yaml", "--workers", "1"]
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
    folder = tmp_path / "sweeps" / "tiny"
    head = {"num_gpus": 1, "num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(cluster.address, log_to_driver=False)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)

    report = Confirmation.report
    joined: list[object] = []

    def join_amid_the_first_run(self: Confirmation, number: int, point: EvalPoint) -> Stop | None:
        if not joined:
            joined.append(cluster.add_node(num_gpus=1, num_cpus=1))
        return report(self, number, point)

    monkeypatch.setattr(Confirmation, "report", join_amid_the_first_run)
    try:
        code, said = confirmed(folder, top=1, seeds=8)
    finally:
        cluster.shutdown()
    assert code == 0
    assert "The cluster now has 2 slots for trials, before 1." in said


@pytest.mark.parametrize("text", ["", "[[0, 8], [1,", "null", "[[0]]", "[[9, 8]]", '[["0", 8]]'])
def test_a_plan_that_cannot_be_read_is_told_and_stays(folder: Path, text: str) -> None:
    plan = folder / "confirm" / "plan.json"
    plan.parent.mkdir()
    plan.write_text(text)
    with pytest.raises(StudyError, match=r"plan.json: must hold \[trial, seed\] of each run, but"):
        confirmed(folder, workers=1)
    with pytest.raises(StudyError, match="plan.json"):
        write_report(read_sweep(folder))
    assert plan.read_text() == text


def test_a_space_that_cannot_be_read_is_told(folder: Path) -> None:
    for text in ("", "base_mo", "search: {rank: [8", "search: {rank: 8}\nbudget: soon"):
        (folder / "space.yaml").write_text(text)
        with pytest.raises(SpaceError, match="space.yaml"):
            confirmed(folder, workers=1)


def test_rows_that_were_changed_are_not_confirmed_on(folder: Path, without_ray: None) -> None:
    data, report = folder / "data", folder / "data" / "report.json"
    known = json.loads(report.read_text())
    report.write_text(json.dumps({**known, "digests": digests_of(data)}))
    assert confirmed(folder, workers=1)[0] == 0
    there = folder / "confirm" / "data"
    (there / "sample.ids.npy").chmod(0o644)
    (there / "sample.ids.npy").write_bytes(b"")
    assert confirmed(folder, workers=1, seeds=3)[0] == 0  # they are laid there anew
    assert is_whole(there) and TokenSplit.load(there / "sample").ids.tolist() == [0, 1, 2]
    (data / "eval.ids.npy").chmod(0o644)
    (data / "eval.ids.npy").write_bytes(b"")
    with pytest.raises(DataError, match="rows as prepared, but eval.ids.npy changed since"):
        confirmed(folder, workers=1, seeds=4)
