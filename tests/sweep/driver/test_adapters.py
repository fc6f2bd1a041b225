"""Which adapters stay on disk."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sweep.driver.adapters import Adapters
from sweep.events import Place
from sweep.study.ended import StoredTrial
from trials.config import BY_EVAL_LOSS, Outcome, TrialConfig, TrialResult, UserError

MakeConfig = Callable[..., TrialConfig]


class Ranked:
    """A study that knows which trials have ended, and the losses of some."""

    objective = BY_EVAL_LOSS

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.without_value: set[int] = set()

    def ranked(self, n: int | None = None) -> list[StoredTrial]:
        return [
            StoredTrial(number, {}, "completed", value=loss, eval_loss=loss)
            for number, loss in sorted(self.losses.items(), key=lambda item: item[1])
        ][:n]

    def numbers_ended(self) -> set[int]:
        return self.losses.keys() | self.without_value


@pytest.fixture
def study() -> Ranked:
    return Ranked()


@pytest.fixture
def dropped() -> list[int]:
    return []


@pytest.fixture
def adapters(study: Any, dropped: list[int], tmp_path: Path) -> Adapters:
    def drop(number: int, folder: Path) -> None:
        dropped.append(number)
        shutil.rmtree(folder)

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
        json.dumps({"base_model_name_or_path": "some/base", "r": 8})
    )
    (folder / "adapter" / "adapter_model.safetensors").write_text(f"weights {config.number}")
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    if loss is None:
        study.without_value.add(config.number)
    else:
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
    assert 'AutoTokenizer.from_pretrained("some/base")' in how  # an older adapter has none
    assert "eval loss 1.2000" in how


@pytest.mark.parametrize("text", ["", "[1]", "null", "{}", '{"number": []}', "[" * 9999])
def test_a_winners_folder_that_cannot_be_read_is_written_anew(
    adapters: Adapters, study: Ranked, config: MakeConfig, text: str
) -> None:
    end(adapters, study, config(0), 1.5)
    in_best = adapters.best_dir / "config.json"
    in_best.unlink()  # it may be a link of the trial's own
    in_best.write_text(text)
    adapters.put_right()
    assert json.loads(in_best.read_text())["number"] == 0


@pytest.mark.parametrize("name", ["config.json", "adapter/adapter_config.json"])
def test_a_winners_file_that_cannot_be_read_is_told(
    adapters: Adapters, study: Ranked, config: MakeConfig, name: str
) -> None:
    end(adapters, study, config(0), 1.5)
    shutil.rmtree(adapters.best_dir)
    (Path(config(0).output_dir) / name).write_text("[1]")
    with pytest.raises(UserError, match=rf"{name}: must hold .+ but has \[1\]. Restore it"):
        adapters.put_right()


def test_the_winners_folder_says_how_it_was_rendered(
    study: Any, config: MakeConfig, tmp_path: Path
) -> None:
    given = {"enable_thinking": False}
    folder = tmp_path / 'it\'s "mine"'
    adapters = Adapters(study, folder, keep=2, drop=lambda *_: None, arguments=given)
    there = folder / "trials" / "000"
    study.losses[0] = 1.0
    (there / "adapter").mkdir(parents=True)
    (there / "adapter" / "tokenizer_config.json").write_text("{}")
    (there / "adapter" / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "base", "r": 8}'
    )
    (there / "config.json").write_text(json.dumps(asdict(config())))
    adapters.put_right()
    how = (adapters.best_dir / "README.md").read_text()
    line = next(line for line in how.splitlines() if "AutoTokenizer.from_pretrained(" in line)
    path = line.partition("from_pretrained(")[2].removesuffix(")")
    assert ast.literal_eval(path) == str(adapters.best_dir / "adapter")  # quotes are escaped
    adapters.put_right()
    assert (adapters.best_dir / "README.md").read_text() == how
    assert "(messages, add_generation_prompt=True, enable_thinking=False)" in how


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_the_winners_folder_tells_of_the_base_it_was_trained_on(
    adapters: Adapters, study: Ranked, config: MakeConfig, quantization: Any
) -> None:
    trained = config(0)
    model = replace(trained.model, quantization=quantization)
    end(adapters, study, replace(trained, model=model), 1.0)
    how = (adapters.best_dir / "README.md").read_text()
    assert ("differ\nmeasurably: `sweep export`" in how) == (quantization != "none")
    assert ("quantization_config=nf4" in how) == (quantization == "nf4")


def winner(adapters: Adapters) -> int:
    return int(json.loads((adapters.best_dir / "config.json").read_text())["number"])


def test_a_sweep_that_goes_on_puts_right_what_a_killed_one_left(
    adapters: Adapters, study: Ranked, config: MakeConfig, tmp_path: Path, dropped: list[int]
) -> None:
    for number, loss in enumerate([1.5, 1.4, 1.3]):
        end(adapters, study, config(number), loss)
    # Killed while the study knew the end of trial 3 and nobody else did; best/ was being replaced.
    study.losses[3] = 1.2
    shutil.copytree(tmp_path / "trials" / "002", tmp_path / "trials" / "003")
    (tmp_path / "trials" / "003" / "config.json").write_text(json.dumps(asdict(config(3))))
    adapters.best_dir.rename(tmp_path / "best.replaced.4711.tmp")
    (tmp_path / "best.4711.tmp" / "adapter").mkdir(parents=True)
    adapters.put_right()
    assert winner(adapters) == 3
    assert kept(tmp_path) == [2, 3]
    assert dropped == [0, 1]
    assert list(tmp_path.glob("*.tmp")) == []


def test_what_is_right_stays(
    adapters: Adapters, study: Ranked, config: MakeConfig, tmp_path: Path
) -> None:
    end(adapters, study, config(0), 1.5)
    before = adapters.best_dir.stat().st_ino
    adapters.put_right()
    assert adapters.best_dir.stat().st_ino == before


def test_an_adapter_of_a_trial_that_goes_on_stays(
    adapters: Adapters, study: Ranked, config: MakeConfig, tmp_path: Path
) -> None:
    end(adapters, study, config(0), 1.5)
    (tmp_path / "trials" / "001" / "adapter").mkdir(parents=True)
    adapters.put_right()
    assert kept(tmp_path) == [0, 1]


def test_a_winner_whose_folder_is_missing_stops_nobody(
    adapters: Adapters, study: Ranked, tmp_path: Path
) -> None:
    study.losses[0] = 1.5
    adapters.put_right()
    assert not adapters.best_dir.exists()


def test_a_full_disk_leaves_best_for_later(
    adapters: Adapters,
    study: Ranked,
    config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(shutil, "copytree", full)
        end(adapters, study, config(0), 2.0)  # nothing is raised into the sweep
    assert not (tmp_path / "best").exists()
    end(adapters, study, config(1), 3.0)
    assert json.loads((tmp_path / "best" / "config.json").read_text())["number"] == 0


def test_nobody_goes_on_from_the_checkpoint_of_a_trial_that_has_ended(
    adapters: Adapters, study: Ranked, config: MakeConfig
) -> None:
    checkpoint = Path(config(0).output_dir) / "checkpoint.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    end(adapters, study, config(0), None, "failed")
    assert not checkpoint.exists()
