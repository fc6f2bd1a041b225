"""A sweep from Python, as in a script or a notebook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import sweep
from sweep.space.yaml_file import SpaceError
from tests.faults.campaign import write_space

SCRIPT = """
import sys, sweep
result = sweep.run(sys.argv[1], output=sys.argv[2], workers=1, settings={"budget.trials": 2})
assert (result.exit_code, result.name, list(result.trials.index)) == (0, "tiny", [0, 1])
"""


def test_a_sweep_runs_from_python_and_its_result_is_frames(tmp_path: Path, tiny_base: Path) -> None:
    space = write_space(tmp_path / "space", tiny_base, n_trials=8, epochs="[1, 2]")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, space, tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 completed" in done.stdout
    found = sweep.read_result(tmp_path / "out" / "tiny")
    assert found.exit_code is None
    assert found.best is not None
    assert found.adapter == found.folder / "trials" / f"{found.best.trial.number:03d}" / "adapter"
    lowest = found.curves.groupby("trial").eval_loss.min()
    assert lowest.to_dict() == found.trials.eval_loss.to_dict()
    assert set(found.trials["rank"]) <= {4, 8, 16}
    assert f"{found.trials.eval_loss.min():.6f}" in found._repr_html_()


def test_a_space_with_faults_raises_its_words(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("base_model: x\n")
    with pytest.raises(SpaceError, match="data"):
        sweep.run(tmp_path / "s.yaml", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
