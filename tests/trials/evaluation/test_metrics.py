"""Real trials on a tiny model, judged by what it writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from tests import tiny
from trials.backends.loading import load
from trials.backends.transformers_qlora import TransformersBase
from trials.config import DataError, EvalPoint, Objective, TrialConfig, TrialResult
from trials.data.batches import collate
from trials.data.tokens import IGNORED, TokenRows
from trials.distributed.group import ALONE
from trials.evaluation.bootstrap import N_DRAWS, drawn, from_text
from trials.evaluation.evaluate import measure
from trials.evaluation.generate import Prompts, predictions
from trials.evaluation.metrics import MetricFailed, exact_match, rouge_l, score
from trials.evaluation.row_nlls import thinned
from trials.memory.micro_batches import MicroBatchMemory
from trials.models.frozen_base import FrozenBase
from trials.preparation.prompts import Ask
from trials.training.train import run_trial
from trials.trial_folder import read_result
from trials.worker import guarded

MakeConfig = Callable[..., TrialConfig]

METRICS = """\
def facts(predictions, references, rows):
    assert all(row["completion"].strip() == true for row, true in zip(rows, references))
    found = [
        word in prediction.split()
        for prediction, row in zip(predictions, rows)
        for word in row["prompt"].split()[:3]
    ]
    return sum(found) / len(found)


def raises(predictions, references, rows):
    return 1 / 0


def leaves(predictions, references, rows):
    raise SystemExit("enough")


def not_a_number(predictions, references, rows):
    return float("nan")


def a_text(predictions, references, rows):
    return "0.5"
"""
FACTS = Objective(name="facts", direction="maximize", python="my_metrics.py:facts")


@pytest.fixture(scope="module")
def data(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared folder: 40 prompts are written for."""
    folder = tmp_path_factory.mktemp("judged")
    metric = folder / "my_metrics.py"
    metric.write_text(METRICS)
    ask = Ask(rows=40, max_new_tokens=None, n_rows=None, file=str(metric))
    return tiny.prepared_data(tiny_base, folder, n_train=400, n_eval=64, generation=ask)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> FrozenBase:
    return load(replace(tiny.model_config(tiny_base), compute_dtype="float32"))


@pytest.fixture
def judged(config: MakeConfig, data: Path) -> MakeConfig:
    """A trial of the exact model, judged by a metric."""

    def make(number: int = 0, **changes: object) -> TrialConfig:
        model = replace(config().model, compute_dtype="float32")
        settings = {"objective": FACTS, "evaluate_base": True, "epochs": 0.5, **changes}
        made = config(number, model=model, data_dir=str(data), **settings)
        Path(made.output_dir).mkdir(parents=True)
        return made

    return make


def run(config: TrialConfig, base: FrozenBase) -> tuple[TrialResult, list[EvalPoint]]:
    points: list[EvalPoint] = []
    result = run_trial(config, base, MicroBatchMemory(), points.append)
    return result, points


def test_a_trial_is_worth_its_best_score_and_keeps_that_adapter(
    judged: MakeConfig, base: FrozenBase, data: Path
) -> None:
    config = judged()
    result, points = run(config, base)
    assert [point.index for point in points] == [0, 1, 2, 3, 4]
    assert all(0.4 < point.value < 1 and math.isfinite(point.eval_loss) for point in points)
    best = max(points[1:], key=lambda p: (p.value, -p.eval_loss))
    assert result.best == replace(best, step_losses=None)  # they are told, and not kept
    curve = [replace(point, step_losses=None) for point in points]
    kept = thinned(curve, config.objective, config.row_nlls_at)
    assert read_result(Path(config.output_dir)) == (result, kept)
    assert result.best is not None
    assert f"highest facts {result.best.score:.4f}, with eval loss" in result.reason

    # The adapter on a base that is loaded anew gives that score.
    asked, fresh = Prompts.load(data), load(config.model)
    model = PeftModel.from_pretrained(fresh.model, Path(config.output_dir) / "adapter")
    written = predictions(fresh, model, config.model, asked, 8, ALONE)
    found = score(FACTS, data, written, asked.references, asked.rows)
    assert found == pytest.approx(result.best.score)


def test_writing_leaves_the_losses_as_they_are(judged: MakeConfig, base: FrozenBase) -> None:
    _, with_metric = run(judged(1), base)
    _, without = run(judged(2, objective=Objective()), base)
    assert [p.eval_loss for p in with_metric] == [p.eval_loss for p in without]
    assert [p.train_loss for p in with_metric] == [p.train_loss for p in without]
    assert all(p.score is None for p in without)


def test_prompts_of_a_batch_are_continued_as_each_is_alone(base: FrozenBase, data: Path) -> None:
    asked = Prompts.load(data)
    together = base.generate(asked.prompts[:16], stop_ids=asked.stop_ids, max_new_tokens=13)
    alone = [
        base.generate([prompt], stop_ids=asked.stop_ids, max_new_tokens=13)[0]
        for prompt in asked.prompts[:16]
    ]
    assert together == alone
    assert len({tuple(row) for row in alone}) > 8
    assert all(not set(row) & set(asked.stop_ids) for row in alone)


def test_token_accuracy_is_what_a_loop_by_hand_gives(
    judged: MakeConfig, base: FrozenBase, data: Path
) -> None:
    sample = TokenRows(data / "sample", 64)
    model = base.model
    found = measure(base, model, sample, 8, ALONE, counts_correct=True)
    loss, accuracy = found.loss, found.accuracy
    assert loss == tiny.eval_loss(base, model, sample, 8)
    n_right = n = 0
    with torch.no_grad():
        for index in range(len(sample)):
            row = collate([sample[index]])
            chosen = model(input_ids=row["input_ids"]).logits[0, :-1].argmax(-1)
            targets = row["labels"][0, 1:]
            n += int((targets != IGNORED).sum())
            n_right += int((chosen == targets).sum())
    assert accuracy == n_right / n
    objective = Objective(name="token_accuracy", direction="maximize")
    _, points = run(judged(3, objective=objective), base)
    assert points[0].score == accuracy


def test_a_final_evaluation_scores_what_is_written_for_all_eval_rows(
    judged: MakeConfig, base: FrozenBase, data: Path
) -> None:
    """By the user's metric, with the error that drawing the rows again has."""
    config = judged(7, measured_rows="eval")
    result, _ = run(config, base)
    asked = Prompts.load(data, "eval")
    written = predictions(base, base.model, config.model, asked, 8, ALONE)
    found = result.best
    assert found is not None and found.score_draws is not None
    assert found.score == score(FACTS, data, written, asked.references, asked.rows)
    assert found.score_rows == len(asked.rows) == 64
    of_each = [
        score(FACTS, data, [one], [reference], [row])
        for one, reference, row in zip(written, asked.references, asked.rows, strict=True)
    ]
    error = np.std(from_text(found.score_draws), ddof=1)
    assert error == pytest.approx(np.std(of_each, ddof=1) / 8, rel=0.15)
    assert Prompts.load(data).max_new_tokens == asked.max_new_tokens


@pytest.mark.parametrize("name", ["exact_match", "rouge_l", "token_accuracy"])
def test_of_a_metric_of_rows_the_draws_are_those_of_its_rows(
    judged: MakeConfig, base: FrozenBase, name: str
) -> None:
    objective = Objective(name=name, direction="maximize")
    result, _ = run(judged(8, measured_rows="eval", objective=objective), base)
    found = result.best
    assert found is not None and found.score is not None and found.score_draws is not None
    draws = from_text(found.score_draws)
    assert len(draws) == N_DRAWS
    assert draws.mean() == pytest.approx(found.score, abs=4 * draws.std() / N_DRAWS**0.5 + 1e-6)


def test_equal_rows_are_drawn_for_every_adapter() -> None:
    first = drawn(50, lambda rows: float(rows.sum()))
    assert (first == drawn(50, lambda rows: float(rows.sum()))).all()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("raises", r"my_metrics.py:raises \(line 12\) raised ZeroDivisionError: division by zero"),
        ("leaves", "raised SystemExit: enough"),
        ("not_a_number", "must return a finite number, but it returned nan"),
        ("a_text", "must return a finite number, but it returned '0.5'"),
    ],
)
def test_a_metric_that_gives_no_score_is_told(data: Path, function: str, words: str) -> None:
    objective = replace(FACTS, name=function, python=f"my_metrics.py:{function}")
    with pytest.raises(MetricFailed, match=words):
        score(objective, data, ["a"], ["a"], [{"prompt": "p", "completion": "a"}])


def test_a_metric_that_raises_fails_the_trial_with_its_traceback_in_the_log(
    judged: MakeConfig, base: FrozenBase
) -> None:
    config = judged(4, objective=replace(FACTS, name="raises", python="my_metrics.py:raises"))
    result, _ = guarded(lambda c: run(c, base)[0], config)
    assert result.outcome == "failed"
    assert "raised ZeroDivisionError: division by zero" in result.reason.splitlines()[0]
    assert "return 1 / 0" in (Path(config.output_dir) / "log.txt").read_text()


def test_a_trial_that_goes_on_from_its_checkpoint_has_its_scores(
    judged: MakeConfig, base: FrozenBase
) -> None:
    whole, cut = judged(5), judged(6, checkpoint_minutes=0.0)
    expected, expected_points = run(whole, base)
    n_asked = 0

    def is_asked(step: int, n_steps: int) -> bool:
        nonlocal n_asked
        n_asked += 1
        return n_asked == 14

    first: list[EvalPoint] = []
    halted = run_trial(cut, base, MicroBatchMemory(), first.append, ALONE, is_asked)
    assert halted.outcome == "interrupted"
    result, points = run(cut, base)
    assert [p.score for p in points] == [p.score for p in expected_points]
    assert result.best is not None and expected.best is not None
    assert result.best.index == expected.best.index


def test_the_built_in_metrics() -> None:
    predictions, references = [" Oslo\n", "oslo", "rain in Oslo"], ["Oslo", "Oslo", "Oslo rain"]
    assert exact_match(predictions, references, []) == 1 / 3
    # 1, 1, and a common subsequence of one word: 2 x (1/3 x 1/2) / (1/3 + 1/2).
    assert rouge_l(predictions, references, []) == pytest.approx((1 + 1 + 0.4) / 3)


def test_what_is_asked_is_in_the_prepared_folder(data: Path) -> None:
    asked = Prompts.load(data)
    report = json.loads((data / "report.json").read_text())
    tokenizer = tiny.make_tokenizer()
    assert len(asked.prompts) == report["generation"]["rows"] == 40
    for prompt, reference, row in zip(asked.prompts, asked.references, asked.rows, strict=True):
        assert tokenizer.decode(prompt) == row["prompt"]
        assert row["completion"].strip() == reference  # the tokenizer knows no leading space
    assert asked.stop_ids == [tokenizer.eos_token_id]
    assert asked.max_new_tokens == 13  # 12 words and the end
    assert (data / "my_metrics.py").read_text() == METRICS


def test_few_training_rows_afford_few_prompts(tiny_base: Path, tmp_path: Path) -> None:
    ask = Ask(rows=64, max_new_tokens=None, n_rows=None, file=None)
    folder = tmp_path / "few"
    folder.mkdir()
    # 100 epochs of `tiny` pay for everything; one long completion for very little.
    long = replace(ask, max_new_tokens=4000)
    data = tiny.prepared_data(tiny_base, folder, n_train=48, n_eval=64, generation=long)
    assert json.loads((data / "report.json").read_text())["generation"]["rows"] == 32


def test_plain_text_has_nothing_to_generate_for(tiny_base: Path, tmp_path: Path) -> None:
    from trials.data.conversation import Example
    from trials.preparation.prompts import prompted
    from trials.rendering.renderer import Renderer

    text = Example(messages=None, prompt=None, completion=None, text="oslo", place="rows line 1")
    with pytest.raises(DataError, match="needs rows with prompts .* are plain text"):
        prompted([text], Renderer(tiny.make_tokenizer(), chat=False, loss_on="completion"))


def test_the_metric_of_the_page_knows_right_from_wrong() -> None:
    root = Path(__file__).parents[3]
    own = (root / "search_spaces" / "own_metric.py").read_text()
    page = (root / "search_spaces" / "README.md").read_text()
    assert own.partition("\n\n\n")[2].strip() in page
    data = root / "search_spaces" / "data" / "quickstart" / "eval.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    true = [row["completion"] for row in rows]
    objective = Objective(name="facts", direction="maximize", python="own_metric.py:facts")
    assert score(objective, root / "search_spaces", true, true, rows) == 1.0
    assert score(objective, root / "search_spaces", true[1:] + true[:1], true, rows) < 0.5


class RoomForEight(TransformersBase):
    """The base, on a device that has room to continue eight prompts at once."""

    def __init__(self, base: FrozenBase) -> None:
        vars(self).update(vars(base))

    def generate(self, prompts: Sequence[Sequence[int]], **asked: Any) -> list[list[int]]:
        if len(prompts) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().generate(prompts, **asked)


def test_memory_that_runs_out_while_writing_changes_no_score(
    judged: MakeConfig, base: FrozenBase
) -> None:
    _, undisturbed = run(judged(7), base)
    result, points = run(judged(8), RoomForEight(base))
    assert result.micro_batch_size == 8
    assert [p.score for p in points] == [p.score for p in undisturbed]
    losses = [p.eval_loss for p in undisturbed]
    assert [p.eval_loss for p in points] == pytest.approx(losses, rel=1e-5)
