"""Which adapters stay on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.adapters import Adapters
from sweep.loop import Place
from sweep.study import Ended
from trials.config import Outcome, TrialConfig, TrialResult

MakeConfig = Callable[..., TrialConfig]


class Ranked:
    """A study that knows only its ranking."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def ranked(self) -> list[Ended]:
        return [
            Ended(number, {}, "completed", "", loss, 1.0)
            for number, loss in sorted(self.losses.items(), key=lambda item: item[1])
        ]


@pytest.fixture
def study() -> Ranked:
    return Ranked()


@pytest.fixture
def dropped() -> list[int]:
    return []


@pytest.fixture
def adapters(study: Any, dropped: list[int], tmp_path: Path) -> Adapters:
    def drop(number: int, then: Callable[[], None]) -> None:
        dropped.append(number)
        then()

    return Adapters(study, tmp_path, keep=2, drop=drop)


def end(
    adapters: Adapters,
    study: Ranked,
    config: TrialConfig,
    loss: float | None,
    outcome: Outcome = "completed",
) -> None:
    folder = Path(config.output_dir)
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "some/base"})
    )
    (folder / "adapter" / "adapter_model.safetensors").write_text(f"weights {config.number}")
    (folder / "config.json").write_text("{}")
    if loss is not None:
        study.losses[config.number] = loss
    adapters.trial_started(config, Place("box", "GPU 0"))
    adapters.trial_ended(config.number, TrialResult(outcome=outcome, reason=""))


def kept(tmp_path: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in tmp_path.glob("trials/*/adapter"))


def test_only_the_best_adapters_stay(
    adapters: Adapters, study: Ranked, config: MakeConfig, tmp_path: Path, dropped: list[int]
) -> None:
    for number, loss in enumerate([1.5, 1.2, 1.4, 1.9]):
        end(adapters, study, config(number), loss)
    assert kept(tmp_path) == [1, 2]
    assert dropped == [0, 3]


def test_a_pruned_trial_leaves_no_adapter(
    adapters: Adapters, study: Ranked, config: MakeConfig, tmp_path: Path
) -> None:
    end(adapters, study, config(0), None, "diverged")
    assert kept(tmp_path) == []
    assert not adapters.best_dir.exists()


def test_the_winners_folder_follows_the_winner(
    adapters: Adapters, study: Ranked, config: MakeConfig
) -> None:
    for number, loss in enumerate([1.5, 1.2, 1.4]):
        end(adapters, study, config(number), loss)
    weights = adapters.best_dir / "adapter" / "adapter_model.safetensors"
    assert weights.read_text() == "weights 1"
    how = (adapters.best_dir / "README.md").read_text()
    assert 'from_pretrained("some/base", dtype="bfloat16")' in how
    assert "eval loss 1.2000" in how
