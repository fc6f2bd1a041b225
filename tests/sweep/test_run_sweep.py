"""What `sweep run` puts together."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweep.check import prepare_data
from sweep.run_sweep import Options, _new_tracker
from sweep.space import load_space
from sweep.space_file import SpaceError
from tests import tiny

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)


def test_artifacts_of_a_database_elsewhere_lie_in_the_sweeps_folder_too(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    file = tmp_path / "tiny.yaml"
    file.write_text("base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\nsearch: {rank: [8]}")
    folder = tmp_path / "out" / "tiny"
    folder.mkdir(parents=True)
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    options = Options(output=tmp_path / "out", workers=1, gpus=None, mlflow=uri)
    tracker = _new_tracker(load_space(file), options, folder)
    tracker.open_sweep({}, {}, file)
    tracker.close_sweep("FINISHED", None, "Done.")
    experiment = MlflowClient(uri).get_experiment_by_name("tiny")
    assert experiment.artifact_location.removeprefix("file://") == str(folder / "mlartifacts")


def test_what_can_be_done_meanwhile_begins_when_the_rows_are_read(
    tmp_path: Path, tiny_base: Path
) -> None:
    tiny.write_rows(tmp_path / "rows.jsonl", 48, seed=2)
    file = tmp_path / "tiny.yaml"
    text = "base_model: {}\ndata: {{train: {}, eval: 0.2, max_length: 64}}\nsearch: {{rank: [8]}}"
    done: list[str] = []

    def prepared(base: Path, rows: str) -> None:
        file.write_text(text.format(base, rows))
        prepare_data(
            load_space(file),
            tmp_path / "data",
            on_gpus=False,
            say=done.append,
            meanwhile=lambda: done.append("meanwhile"),
        )

    (tmp_path / "bad.jsonl").write_text("no row\n")
    with pytest.raises(SpaceError, match="line 1"):
        prepared(tiny_base, "bad.jsonl")
    assert done == []
    prepared(tiny_base, "rows.jsonl")
    assert done[:2] == [f"reading the tokenizer of {tiny_base}", "meanwhile"]
    assert "meanwhile" not in done[2:]
    done.clear()
    prepared(tiny_base, "rows.jsonl")  # nothing is left to prepare
    assert done == []
