"""`sweep trial`: which configuration it runs, and with which verdicts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.driver.one_trial import (
    Options,
    Verdicts,
    Watch,
    alone,
    environment,
    line,
    new_folder,
    notes,
    same_rows,
)
from sweep.driver.preparation import Check
from sweep.driver.trial_params import named_params, recorded_config, recorded_params, unlike
from sweep.errors import SpaceError
from sweep.space.loading import load_space
from sweep.space.space import Space
from trials.config import EvalPoint, TrialConfig
from trials.data.tokens import sample_tokens

SPACE = """\
base_model: smollm2-135m
data: {train: train.jsonl, eval: 0.1, max_length: 64}
search:
  rank: [8, 32]
  alpha: {times_rank: [2, 4]}
  learning_rate: {min: 1e-3, max: 1e-2, log: true}
  effective_batch_size: [4, 8]
  lr_scheduler: [linear, constant]
  dropout: 0.1
"""

Make = Callable[..., TrialConfig]


@pytest.fixture
def space(tmp_path: Path) -> Space:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "mine.yaml").write_text(SPACE)
    return load_space(tmp_path / "mine.yaml")


@pytest.fixture
def make(space: Space, tmp_path: Path) -> Make:
    """Makes the configuration of --params."""

    def make(text: str = "{}") -> TrialConfig:
        options = Options(
            output=tmp_path,
            workers=1,
            params=text,
            number=None,
            evaluate_base=True,
            to_the_end=False,
            pdb=False,
        )
        found = Check(tmp_path / "data", {}, on_gpus=False)
        return alone(space, named_params(space, text), options, found, new_folder(tmp_path / "a"))

    return make


def test_what_is_left_out_is_fixed_or_the_nearest_to_the_usual(make: Make) -> None:
    config = make('{"rank": 64}')
    assert (config.rank, config.alpha, config.dropout) == (64, 128, 0.1)
    assert (config.learning_rate, config.effective_batch_size) == (1e-3, 8)
    assert (config.lr_scheduler, config.max_length) == ("linear", 64)


def test_params_may_be_json_or_yaml(space: Space) -> None:
    expected = {"rank": 16, "learning_rate": 2e-4}
    assert named_params(space, '{"rank": 16, "learning_rate": 2e-4}') == expected
    assert named_params(space, "{rank: 16, learning_rate: 2e-4}") == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{rank: 8", "must be JSON or YAML; quote it, such as"),
        ("rank", "must be hyperparameters and values, such as"),
        ("{r: 8}", "r: is `rank` here; write `rank: 8`."),
        ("{rank: 0}", "rank: must be above 0, not 0."),
        ("{max_length: 65}", "max_length: must be at most 64, where eval rows are cut, not"),
    ],
)
def test_what_cannot_be_is_said(space: Space, text: str, words: str) -> None:
    with pytest.raises(SpaceError) as error:
        named_params(space, text)
    assert words in str(error.value)


def test_all_problems_are_said_at_once(space: Space) -> None:
    with pytest.raises(SpaceError, match="--params: 2 problems\n  rnk: .*\n  epochs: "):
        named_params(space, "{rnk: 8, epochs: -1}")


def test_a_value_outside_of_the_search_is_allowed_and_said(space: Space, make: Make) -> None:
    text = "{rank: 8, alpha: 8, learning_rate: 0.5}"
    assert list(notes(space, named_params(space, text), make(text), None)) == [
        "Outside the search: alpha 8 (rank × (2, 4)); learning_rate 0.5 (0.001 … 0.01, log)."
    ]


def record(config: TrialConfig, sweep_dir: Path, **changes: Any) -> None:
    folder = sweep_dir / "trials" / "017"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**asdict(config), **changes}))


def test_a_trial_of_the_sweep_is_repeated(space: Space, make: Make, tmp_path: Path) -> None:
    before = make("{rank: 32, alpha: 77}")
    record(before, tmp_path)
    recorded = recorded_config(tmp_path, 17)
    config = make(json.dumps(recorded_params(space, recorded)))
    assert config.alpha == 77
    assert unlike(recorded, config) is None


def test_what_has_changed_since_is_said(make: Make, tmp_path: Path) -> None:
    record(make(), tmp_path, optimizer="adamw_8bit")
    words = unlike(recorded_config(tmp_path, 17), make())
    assert words is not None and words.endswith("of the sweep: optimizer 'adamw_8bit' → 'adamw'.")


def test_a_trial_that_is_not_there_is_told(make: Make, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"--number 3: .* has no such trial\. There is none yet\."):
        recorded_config(tmp_path, 3)
    record(make(), tmp_path)
    with pytest.raises(SpaceError, match=r"has no such trial\. The last is 17\."):
        recorded_config(tmp_path, 3)


def test_each_call_has_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "alone" / "data").mkdir(parents=True)
    assert [new_folder(tmp_path / "alone").name for _ in range(3)] == ["0", "1", "2"]


def test_it_has_the_threads_of_one_worker(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert environment(space, 4, on_gpus=False)["OMP_NUM_THREADS"] == "2"


def test_it_sees_one_gpu(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    found = environment(space, None, on_gpus=True)
    assert (found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"]) == ("3", "4")


def point(index: int, eval_loss: float, train_loss: float | None = 1.0) -> EvalPoint:
    return EvalPoint(
        index=index,
        step=index,
        epoch=index / 2,
        eval_loss=eval_loss,
        train_loss=train_loss,
        learning_rate=1e-3,
        grad_norm=0.5,
        tokens_per_second=1234.5,
        gpu_memory_gib=None,
        seconds=1.0,
    )


@pytest.mark.parametrize(
    ("eval_losses", "outcome"),
    [
        ([2.0, 1.0, 1.1], None),
        ([2.0, 3.1], "diverged"),
        ([2.0, float("nan")], "diverged"),
        ([2.0, 1.1, 1.0, 1.2, 1.2, 1.2, 1.2], "overfit"),
    ],
)
def test_the_sweeps_verdicts_that_need_no_peers(
    space: Space, eval_losses: Sequence[float], outcome: str | None
) -> None:
    curve = [point(i, loss, 1 - i / 10) for i, loss in enumerate(eval_losses)]
    verdict = Verdicts(space, "cosine").on(curve)
    assert (verdict and verdict.outcome) == outcome


def test_evaluations_are_printed_and_written(make: Make) -> None:
    config = make()
    console = Console(record=True, width=200)
    watch = Watch(config, console, verdicts=None)
    watch.report(point(0, 2.0, None))
    assert watch.report(point(5, 99.0)) is None
    assert "25%  step 5  epoch 2.50  train 1.0000  eval 99.0000" in console.export_text()
    curve = json.loads((Path(config.output_dir) / "curve.json").read_text())
    assert [p["eval_loss"] for p in curve] == [2.0, 99.0]


def test_a_line_leaves_out_what_is_not_known() -> None:
    assert line(point(4, 1.5), 4) == (
        "100%  step 4  epoch 2.00  train 1.0000  eval 1.5000  lr 1.00e-03  grad norm 0.5  "
        "1,234 tokens/s"
    )


@pytest.mark.parametrize("notes_tokens", [True, False])  # an older version did not
def test_rows_that_are_read_otherwise_are_other_rows(tmp_path: Path, notes_tokens: bool) -> None:
    sample = tmp_path / "eval_sample.jsonl"
    sample.write_text('{"input_ids": [1, 2], "labels": [-100, 2]}\n')
    now = {"train_fingerprint": "a", "sample_tokens": sample_tokens(sample)}
    before = dict(now) if notes_tokens else {"train_fingerprint": "a"}
    (tmp_path / "report.json").write_text(json.dumps(before))
    assert same_rows(tmp_path, Check(tmp_path, now, on_gpus=False))
    sample.write_text('{"input_ids": [1, 2], "labels": [1, 2]}\n')
    now["sample_tokens"] = sample_tokens(sample)
    assert same_rows(tmp_path, Check(tmp_path, now, on_gpus=False)) is not notes_tokens
