"""A trial that is cut off goes on to the very same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.tiny import model_config, transformers_base
from trials.backends.packing import Batch
from trials.backends.transformers_qlora import TransformersBase
from trials.config import BY_EVAL_LOSS, EvalPoint, Stop, TrialConfig, TrialResult
from trials.evaluation.row_nlls import thinned
from trials.memory.micro_batches import Attempt, MicroBatchMemory
from trials.models.frozen_base import FrozenBase
from trials.training.checkpoint import Checkpoints, State
from trials.training.train import run_trial

MakeConfig = Callable[..., TrialConfig]


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> TransformersBase:
    return transformers_base(model_config(tiny_base))


class CutOff(BaseException):
    """What a killed process does not even see."""


class CutOffAt(TransformersBase):
    """The base in a process that dies in its n-th forward pass in training."""

    def __init__(self, base: FrozenBase, call: int) -> None:
        vars(self).update(vars(base))
        self._call = call

    def nll_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        if model.training:
            self._call -= 1
            if self._call < 0:
                raise CutOff
        return super().nll_sum(model, batch)


def run(
    config: TrialConfig, base: FrozenBase, memory: MicroBatchMemory | None = None
) -> tuple[TrialResult, list[EvalPoint]]:
    points: list[EvalPoint] = []
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    result = run_trial(config, base, memory or MicroBatchMemory(), points.append)
    return result, points


def without_times(points: list[EvalPoint]) -> list[tuple[object, ...]]:
    return [
        (p.index, p.step, p.epoch, p.eval_loss, p.train_loss, p.learning_rate, p.grad_norm)
        for p in points
    ]


def adapter(config: TrialConfig) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(
        Path(config.output_dir) / "adapter" / "adapter_model.safetensors"
    )
    return weights


def assert_goes_on_to_the_same(
    base: FrozenBase, whole: TrialConfig, cut: TrialConfig, call: int
) -> list[EvalPoint]:
    undisturbed, expected = run(whole, base)
    with pytest.raises(CutOff):
        run(cut, CutOffAt(base, call))
    result, points = run(cut, base)
    assert without_times(points) == without_times(expected)
    assert result.outcome == undisturbed.outcome
    one, other = adapter(whole), adapter(cut)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    return points


EVERY_STEP = {"checkpoint_minutes": 0.0, "micro_batch_size": 4, "epochs": 2, "n_evaluations": 4}


@pytest.mark.parametrize(
    "call",
    [pytest.param(n, marks=[] if n % 8 == 1 else [pytest.mark.long]) for n in range(1, 24, 2)],
)
def test_a_trial_cut_off_at_any_step_goes_on_to_the_same_numbers_bit_for_bit(
    config: MakeConfig, base: FrozenBase, call: int
) -> None:
    noisy = {**EVERY_STEP, "dropout": 0.1, "neftune_alpha": 5.0, "evaluate_base": True}
    assert_goes_on_to_the_same(base, config(1, **noisy), config(2, **noisy), call)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw_8bit", "rank": 32},
        {"lr_scheduler": "linear", "effective_batch_size": 20, "micro_batch_size": 5},
        {"lr_scheduler": "warmup_stable_decay", "warmup_ratio": 0.4},
        {"lr_scheduler": "constant", "weight_decay": 0.1, "use_dora": True},
    ],
    ids=str,
)
def test_every_optimizer_and_schedule_goes_on(
    config: MakeConfig, base: FrozenBase, changes: dict[str, object]
) -> None:
    settings = {**EVERY_STEP, **changes}
    assert_goes_on_to_the_same(base, config(1, **settings), config(2, **settings), call=9)


def test_a_trial_goes_on_after_its_checkpoint_and_not_from_the_start(
    config: MakeConfig, base: FrozenBase, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = config(**EVERY_STEP)
    with pytest.raises(CutOff):
        run(trial, CutOffAt(base, 19))
    run(trial, base)
    line = next(line for line in capsys.readouterr().out.splitlines() if "going on" in line)
    assert int(line.split()[4]) >= 5 and line.endswith("of 12")


def test_a_smaller_micro_batch_stays_small_when_the_trial_goes_on(
    config: MakeConfig, base: FrozenBase
) -> None:
    memory = MicroBatchMemory()
    trial = config(**EVERY_STEP)
    memory.did_not_fit(trial, Attempt(2 * 17, gradient_checkpointing=False))  # of 17 tokens each
    with pytest.raises(CutOff):
        run(trial, CutOffAt(base, 60), memory)
    result, _ = run(trial, base)  # a fresh process knows nothing of it
    assert result.micro_batch_size == 1


def test_a_checkpoint_that_counted_rows_goes_on(config: MakeConfig, base: FrozenBase) -> None:
    """As all were written before micro-batches were counted in tokens."""
    trial = config(**EVERY_STEP)
    with pytest.raises(CutOff):
        run(trial, CutOffAt(base, 19))
    path = Path(trial.output_dir) / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    numbers = json.loads(about["numbers"])
    fit = numbers.pop("fit")
    numbers |= {"attempt": [2, True], "eval_batch_size": fit["eval_batch_size"]}
    save_file(tensors, path, metadata={**about, "numbers": json.dumps(numbers)})
    result, points = run(trial, base)
    assert result.outcome == "completed" and len(points) == 4
    assert result.gradient_checkpointing and (result.micro_batch_size or 0) >= 2


def test_a_checkpoint_that_summed_the_losses_of_steps_goes_on(
    config: MakeConfig, base: FrozenBase
) -> None:
    """As all were written before the losses of single steps were kept."""
    seldom = {"checkpoint_minutes": 10.0, "epochs": 2, "n_evaluations": 4}
    _, expected = run(config(1, **seldom), base)
    trial = config(2, **seldom)
    Path(trial.output_dir).mkdir(parents=True)
    run_trial(trial, base, MicroBatchMemory(), lambda _: None, after_step=at_five)
    path = Path(trial.output_dir) / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    numbers = json.loads(about["numbers"])
    numbers["window"]["n_targets"] = sum(numbers["window"]["n_targets"])
    tensors["window"] = tensors["window"].sum()
    save_file(tensors, path, metadata={**about, "numbers": json.dumps(numbers)})
    _, points = run(trial, base)
    assert without_times(points) == without_times(expected)
    assert [len(p.step_losses or ()) for p in points] == [0, 2, 3, 3]  # steps 4 and 5 as one


def at_five(step: int, n_steps: int) -> bool:
    return step >= 5


def losses_of_steps(points: list[EvalPoint]) -> list[float]:
    return [loss for point in points for loss in point.step_losses or ()]


def test_the_losses_of_steps_are_reported_once_whenever_the_trial_was_cut_off(
    config: MakeConfig, base: FrozenBase
) -> None:
    seldom = {"checkpoint_minutes": 10.0, "epochs": 2, "n_evaluations": 4}
    _, whole = run(config(1, **seldom), base)
    trial = config(2, **seldom)
    Path(trial.output_dir).mkdir(parents=True)
    first: list[EvalPoint] = []
    run_trial(trial, base, MicroBatchMemory(), first.append, after_step=at_five)
    _, second = run(trial, base)
    assert len(losses_of_steps(whole)) == 12
    assert losses_of_steps([*first, *second]) == losses_of_steps(whole)
    written = json.loads((Path(trial.output_dir) / "result.json").read_text())
    assert {point["step_losses"] for point in written["points"]} == {None}


def test_the_train_loss_of_an_evaluation_is_that_of_its_steps(
    config: MakeConfig, base: FrozenBase
) -> None:
    _, points = run(config(epochs=2, n_evaluations=12), base)
    assert [(p.train_loss,) for p in points] == [p.step_losses for p in points]


def test_nothing_is_left_to_continue_when_a_trial_has_ended(
    config: MakeConfig, base: FrozenBase
) -> None:
    trial = config(**EVERY_STEP)
    run(trial, base)
    assert sorted(path.name for path in Path(trial.output_dir).iterdir()) == [
        "adapter",
        "result.json",
    ]


def test_a_short_trial_writes_no_checkpoint(
    config: MakeConfig, base: FrozenBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[State] = []
    monkeypatch.setattr(Checkpoints, "write", lambda _, state: written.append(state))
    run(config(checkpoint_minutes=10.0), base)
    assert written == []


def half_run(config: MakeConfig, base: FrozenBase, **changes: object) -> Path:
    trial = config(**{**EVERY_STEP, **changes})
    with pytest.raises(CutOff):
        run(trial, CutOffAt(base, 15))
    return Path(trial.output_dir) / "checkpoint.safetensors"


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_a_checkpoint_that_is_not_whole_is_said_and_the_trial_begins_anew(
    config: MakeConfig, base: FrozenBase, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = half_run(config, base)
    path.write_bytes(path.read_bytes()[:size])
    _, points = run(config(**EVERY_STEP), base)
    assert "cannot read the checkpoint, starting over" in capsys.readouterr().out
    assert [point.index for point in points] == [1, 2, 3, 4]


def test_a_checkpoint_of_another_configuration_is_not_continued(
    config: MakeConfig, base: FrozenBase, capsys: pytest.CaptureFixture[str]
) -> None:
    half_run(config, base)
    run(config(**EVERY_STEP, learning_rate=2e-3), base)
    assert "the checkpoint belongs to another trial: starting over" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(
    config: MakeConfig,
    base: FrozenBase,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trials.training.checkpoint.save_file", full)
    result, _ = run(config(**EVERY_STEP), base)
    assert result.outcome == "completed"
    assert "cannot write a checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize("n_steps", [1, 5, 6, 11])
def test_a_trial_that_is_set_aside_goes_on_to_the_same_numbers(
    config: MakeConfig, base: FrozenBase, n_steps: int
) -> None:
    seldom = {"checkpoint_minutes": 10.0, "epochs": 2, "n_evaluations": 4, "dropout": 0.1}
    _, expected = run(config(1, **seldom), base)
    trial, heard = config(2, **seldom), []

    def after_step(step: int, of: int) -> bool:
        heard.append((step, of))
        return step >= n_steps

    Path(trial.output_dir).mkdir(parents=True)
    aside = run_trial(trial, base, MicroBatchMemory(), lambda _: None, after_step=after_step)
    assert heard == [(step, 12) for step in range(1, n_steps + 1)]
    assert aside.outcome == "interrupted"
    written = {path.name for path in Path(trial.output_dir).iterdir()}
    assert written == {"checkpoint.safetensors"}  # no result, no adapter
    _, points = run(trial, base)
    assert without_times(points) == without_times(expected)


def test_a_trial_at_its_last_step_ends_when_it_is_asked_to_stop(
    config: MakeConfig, base: FrozenBase
) -> None:
    trial = config(epochs=2)
    Path(trial.output_dir).mkdir(parents=True)
    result = run_trial(
        trial, base, MicroBatchMemory(), lambda _: None, after_step=lambda step, of: step == of
    )
    assert result.outcome == "completed"


def of_rows(points: list[EvalPoint]) -> list[str | None]:
    return [point.row_nlls for point in thinned(points, BY_EVAL_LOSS, (2,))]


def test_a_paused_trial_goes_on_to_the_same_numbers_and_reports_them_all_again(
    config: MakeConfig, base: FrozenBase, tmp_path: Path
) -> None:
    whole = config(output_dir=str(tmp_path / "whole"), row_nlls_at=(2,))
    paused = config(output_dir=str(tmp_path / "paused"), row_nlls_at=(2,))
    expected, all_points = run(whole, base)
    Path(paused.output_dir).mkdir()
    heard: list[EvalPoint] = []

    def pause_at_2(point: EvalPoint) -> Stop | None:
        heard.append(point)
        return Stop(outcome="paused", reason="It waits.") if point.index == 2 else None

    part = run_trial(paused, base, MicroBatchMemory(), pause_at_2)
    assert (part.outcome, part.best is not None) == ("paused", True)
    assert not (Path(paused.output_dir) / "result.json").exists()
    assert not (Path(paused.output_dir) / "adapter").exists()
    result, points = run(paused, base)
    assert without_times(points) == without_times(all_points)
    assert of_rows(points) == of_rows(all_points)  # of those that anybody looks at
    assert (result.outcome, result.reason) == (expected.outcome, expected.reason)
    assert all(torch.equal(w, adapter(whole)[name]) for name, w in adapter(paused).items())
    assert not (Path(paused.output_dir) / "checkpoint.safetensors").exists()
