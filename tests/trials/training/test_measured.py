"""A final evaluation of an adapter: what plain transformers and peft give on all eval rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from tests.tiny import model_config, transformers_base
from trials.backends.transformers_qlora import TransformersBase
from trials.config import TrialConfig, TrialResult
from trials.data.tokens import IGNORED, TokenRows
from trials.evaluation.row_nlls import from_text
from trials.memory.micro_batches import MicroBatchMemory
from trials.training.measured import NotThisAdapter, loss_error
from trials.training.train import run_trial

MakeConfig = Callable[..., TrialConfig]


@pytest.fixture(scope="module")
def exact(tiny_base: Path) -> TransformersBase:
    """The tiny base in 4 bits and float32 arithmetic."""
    return transformers_base(replace(model_config(tiny_base), compute_dtype="float32"))


def run(config: TrialConfig, base: TransformersBase) -> TrialResult:
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    return run_trial(config, base, MicroBatchMemory(), lambda _: None)


def measured(config: TrialConfig, adapter: str, base: TransformersBase) -> TrialResult:
    return run(replace(config, measured_rows="eval", measured_adapter=adapter), base)


def by_hand(rows: TokenRows, model: torch.nn.Module) -> tuple[float, list[float]]:
    """Loss and nats of each row: row by row, whole logits, float64."""
    nats, n_tokens = [], 0
    for index in range(len(rows)):
        row = rows[index]
        labels = torch.from_numpy(row["labels"][1:])
        with torch.no_grad():
            ids = torch.from_numpy(row["input_ids"])[None]
            logits = model(input_ids=ids).logits[0, :-1].double()
        kept = labels != IGNORED
        nats.append(-float(logits.log_softmax(-1)[kept, labels[kept]].sum()))
        n_tokens += int(kept.sum())
    return sum(nats) / n_tokens, nats


def test_the_loss_on_all_rows_is_that_of_plain_peft(
    config: MakeConfig, exact: TransformersBase, tiny_data: Path
) -> None:
    trial = config(rank=4, use_dora=True, learning_rate=3e-3)
    run(trial, exact)
    adapter = Path(trial.output_dir) / "adapter"
    found = measured(config(1, rank=4, use_dora=True), str(adapter), exact)
    rows = TokenRows(tiny_data / "eval", 64)
    model = PeftModel.from_pretrained(exact.model, adapter).eval()
    loss, nats = by_hand(rows, model)
    model.unload()
    assert found.best is not None and found.best.row_nlls is not None
    assert found.best.eval_loss == pytest.approx(loss, rel=1e-5)
    assert from_text(found.best.row_nlls) == pytest.approx(nats, rel=1e-3)
    assert found.reason == f"Eval loss {loss:.4f} on all {len(rows)} rows of eval."


def test_without_an_adapter_the_base_model_is_measured(
    config: MakeConfig, exact: TransformersBase, tiny_data: Path
) -> None:
    found = measured(config(), "", exact)
    loss, _ = by_hand(TokenRows(tiny_data / "eval", 64), exact.model)
    assert found.best is not None
    assert found.best.eval_loss == pytest.approx(loss, rel=1e-5)


def test_each_batch_gives_a_sign_of_life_and_heeds_a_stop(
    config: MakeConfig, exact: TransformersBase, tiny_data: Path
) -> None:
    asked = config(measured_rows="eval")
    Path(asked.output_dir).mkdir(parents=True, exist_ok=True)
    n_batches = -(-len(TokenRows(tiny_data / "eval", 64)) // asked.eval_batch_size)
    signs: list[bool] = []

    def stop_at(n: int) -> bool:
        signs.append(True)
        return len(signs) == n

    def measured_until(n: int) -> TrialResult:
        signs.clear()
        return run_trial(
            asked, exact, MicroBatchMemory(), lambda _: None, after_step=lambda *_: stop_at(n)
        )

    assert (measured_until(-1).outcome, len(signs)) == ("completed", n_batches)
    assert n_batches > 2
    assert (measured_until(2).outcome, len(signs)) == ("interrupted", 2)
    assert measured_until(-1).outcome == "completed"


def test_an_adapter_of_another_rank_is_refused_and_leaves_the_base_clean(
    config: MakeConfig, exact: TransformersBase
) -> None:
    trial = config(rank=4)
    run(trial, exact)
    with pytest.raises(NotThisAdapter, match="not those of the trial's configuration"):
        measured(config(1, rank=8), str(Path(trial.output_dir) / "adapter"), exact)
    assert measured(config(2, rank=8), "", exact).best is not None


def test_the_standard_error_is_that_of_drawing_the_rows_again() -> None:
    chance = np.random.default_rng(0)
    tokens = chance.integers(5, 60, 400)
    nlls = tokens * chance.normal(1.5, 0.5, 400)
    drawn = [chance.integers(0, 400, 400) for _ in range(4000)]
    again = [nlls[rows].sum() / tokens[rows].sum() for rows in drawn]
    assert loss_error(nlls, tokens) == pytest.approx(np.std(again), rel=0.05)


def test_one_row_has_no_error() -> None:
    assert loss_error(np.array([1.0]), np.array([3])) is None
