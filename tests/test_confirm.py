"""`sweep confirm` as a user types it, on the tiny model: stopped, continued, in MLflow."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests import tiny

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

SPACE = """\
base_model: {base}
data: {{train: train.jsonl, eval: eval.jsonl, max_length: 64}}
search: {{rank: [4, 8], learning_rate: 1e-3, effective_batch_size: 8, epochs: 10}}
budget: {{trials: 2}}
pruning: {{outclassed: false}}
evaluate: {{times: 5, rows: 40}}
"""


@pytest.mark.long
def test_it_goes_on_where_it_was_stopped_and_says_what_is_noise(tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "train.jsonl", 48, seed=2)
    tiny.write_rows(tmp_path / "eval.jsonl", 64, seed=3)
    space = tmp_path / "tiny.yaml"
    space.write_text(SPACE.format(base=tiny.make_base(tmp_path / "base")))
    command = [sys.executable, "-m", "sweep"]
    subprocess.run(
        [*command, "run", "tiny.yaml", "--workers", "2"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    again = [*command, "confirm", "tiny", "--top", "2", "--seeds", "2", "--workers", "2"]
    runs = tmp_path / "sweeps" / "tiny" / "confirm" / "trials"
    with subprocess.Popen(again, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as stopped:
        while not list(runs.glob("*/result.json")):
            assert stopped.poll() is None
            time.sleep(0.05)
        stopped.send_signal(signal.SIGINT)
        assert "on all 64 eval rows; 4 of 4 runs to do" in stopped.communicate()[0]
    assert stopped.returncode == 130
    first = {path: path.read_bytes() for path in runs.glob("*/result.json")}
    done = subprocess.run(again, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert f"{4 - len(first)} of 4 runs to do" in done.stdout
    assert all(path.read_bytes() == written for path, written in first.items())
    assert re.search(
        r"Trials \d and \d cannot be told apart|beyond noise|may be better than", done.stdout
    )
    report = tmp_path / "sweeps" / "tiny" / "report.html"
    assert "The best trials, retrained with other seeds" in report.read_text()
    told = subprocess.run(
        [*command, "confirm", "tiny", "--json"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(told.stdout)["configurations"]
    assert [sorted(each["values"]) for each in found] == [["1", "2"], ["1", "2"]]
    client = MlflowClient(f"sqlite:///{tmp_path}/sweeps/tiny/mlflow.db")
    (parent,) = client.search_runs(["1"], "tags.sweep.confirms = 'tiny'")
    assert (parent.info.run_name, parent.info.status) == ("tiny, confirmed", "FINISHED")
    ours = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    assert [run.info.status for run in client.search_runs(["1"], ours)] == ["FINISHED"] * 4
