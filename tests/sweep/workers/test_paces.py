"""What a token took is noted in the user's own cache; whatever is wrong with that stops nobody."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.events import Place
from sweep.space.loading import load_space
from sweep.study.trial_config import model_config
from sweep.workers.paces import FILE, N_KEPT, Kind, Pace, PaceNotes, kind_of, note, noted
from trials.config import EvalPoint, TrialConfig, TrialResult

KIND: Kind = {"name": "tiny", "device": "one", "gpus_per_trial": 1.0}
PACE = Pace(0.5, 0.25)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sweep"


def point(index: int, tokens: int) -> EvalPoint:
    return EvalPoint(
        index=index,
        step=index,
        epoch=1.0,
        eval_loss=1.0,
        train_loss=1.0,
        learning_rate=1e-3,
        grad_norm=1.0,
        tokens_per_second=1.0,
        gpu_memory_gib=None,
        seconds=1.0,
        tokens=tokens,
    )


def test_each_kind_of_trials_has_its_own_paces() -> None:
    note(KIND, [PACE])
    note({**KIND, "device": "other"}, [Pace(3.0, 2.0)])
    assert noted(KIND) == [PACE]
    assert noted({**KIND, "max_length": 64}) == []


def test_the_latest_trials_are_kept() -> None:
    note(KIND, [Pace(float(n), 1.0) for n in range(1, N_KEPT + 3)])
    assert [pace.training for pace in noted(KIND)] == [float(n) for n in range(3, N_KEPT + 3)]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '[{"kind": {}}]', '[{"kind": {"name": "tiny"}, "paces": [[0, 1]]}]', "null"],
)
def test_a_broken_file_is_as_none_and_is_written_anew(cache: Path, text: str) -> None:
    cache.mkdir()
    (cache / FILE).write_text(text)
    assert noted(KIND) == []
    note(KIND, [PACE])
    assert noted(KIND) == [PACE]


def test_a_cache_that_others_can_fill_is_neither_read_nor_written(cache: Path) -> None:
    note(KIND, [PACE])
    cache.chmod(0o777)
    assert noted(KIND) == []
    own = cache.with_name(f"sweep-{os.geteuid()}")
    own.mkdir()
    own.chmod(0o777)
    note(KIND, [PACE])
    assert list(own.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    note(KIND, [PACE])
    assert noted(KIND) == []


def test_a_trial_that_ran_to_its_own_end_is_noted(config: Callable[..., TrialConfig]) -> None:
    notes = PaceNotes(KIND, evaluation_tokens=10.0)
    ended = {"completed": 0, "outclassed": 1}
    for outcome, number in ended.items():
        notes.trial_started(config(number, evaluate_base=True), Place("here", "GPU 0"))
        notes.trial_reported(number, point(3, tokens=600))
        notes.trial_reported(number, point(4, tokens=800))
        result = TrialResult(
            outcome=outcome,  # type: ignore[arg-type]
            reason="",
            training_seconds=8.0,
            evaluation_seconds=5.0,
        )
        notes.trial_ended(number, result)
    assert noted(KIND) == [Pace(0.01, 0.1)]  # five evaluations: the base model's too


def test_processors_are_of_a_kind_where_trials_have_as_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    file = tmp_path / "space.yaml"
    file.write_text("base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\nsearch: {rank: [8]}\n")
    space = load_space(file)
    model = model_config(space, "transformers")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    kinds = [kind_of(space, model, on_gpus=False, workers=n) for n in (1, 4)]
    assert [str(kind and kind["device"]).partition(", ")[2] for kind in kinds] == [
        "threads: 4",
        "threads: 1",
    ]
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere:10001")
    assert kind_of(space, model, on_gpus=False, workers=1) is None
