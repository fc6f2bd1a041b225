"""A sweep from Python, as in a script or a notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sweep
from sweep.errors import SpaceError
from sweep.space.yaml_file import read
from tests.faults.campaign import write_space

SCRIPT = """
import json, sys, sweep
space = json.loads(sys.argv[1])
result = sweep.run(space, output=sys.argv[2], workers=1, settings={"budget.trials": 2})
assert (result.exit_code, result.name, list(result.trials.index)) == (0, "tiny", [0, 1])
"""


def test_a_sweep_runs_from_python_and_its_result_is_frames(tmp_path: Path, tiny_base: Path) -> None:
    space = write_space(tmp_path / "space", tiny_base, n_trials=8, epochs="[1, 2]")
    mapping = json.dumps({**read(space, {}).plain, "name": "tiny"})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mapping, tmp_path / "out"],
        cwd=space.parent,
        capture_output=True,
        text=True,
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
    judged = found.best.sweep.judged(found.best.trial)
    best = f"trial {found.best.trial.number}, eval loss {judged.value:.4f} on "
    assert repr(found).startswith(
        f"SweepResult(tiny in {found.folder}: 2 trials, the best is {best}"
    )
    # Its own copy of the space is enough, from anywhere.
    command = [sys.executable, "-m", "sweep", "run", "--resume", "tiny", "--workers", "1"]
    again = subprocess.run(
        [*command, "--output", tmp_path / "out"], cwd=tmp_path, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "all trials have run; raise --trials to go on" in again.stdout


def test_a_space_with_faults_raises_its_words(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("base_model: x\n")
    with pytest.raises(SpaceError, match="data"):
        sweep.run(tmp_path / "s.yaml", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"base_model": "x"}, "must have a `name`"),
        ({"name": "a", "search": {"rank": {8, 16}}}, "must hold texts, numbers, .*set"),
        ({"name": "a", "search": {"rnk": [8]}}, r"The space: \d problems\n(.*\n)*  search.rnk: "),
    ],
)
def test_a_mapping_with_faults_raises_their_words(
    tmp_path: Path, space: dict[str, object], words: str
) -> None:
    with pytest.raises(SpaceError, match=words):
        sweep.run(space, output=tmp_path / "out")
