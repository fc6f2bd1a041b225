"""Real trials on a tiny model: the numbers, the adapter that stays, the base that comes back."""

from __future__ import annotations

import json
import math
import shutil
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from sweep.pruners.overfit import Overfit
from tests.tiny import eval_loss, model_config, transformers_base
from trials.backends import transformers_qlora
from trials.backends.loading import load
from trials.backends.packing import Batch
from trials.backends.transformers_qlora import TransformersBase
from trials.config import EvalPoint, Stop, TrialConfig, TrialResult
from trials.data.batches import EffectiveBatches, collate
from trials.data.tokens import IGNORED, TokenRows, TokenSplit
from trials.distributed.group import Alone
from trials.evaluation.row_nlls import from_text
from trials.memory.device import is_out_of_memory
from trials.memory.micro_batches import Attempt, Fit, MicroBatchMemory
from trials.models.frozen_base import BaseNotClean, FrozenBase
from trials.training.train import evaluation_steps, run_trial

MakeConfig = Callable[..., TrialConfig]


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> TransformersBase:
    """The base model, loaded once for all tests of this file: they share it as trials do."""
    return transformers_base(model_config(tiny_base))


@pytest.fixture(scope="module")
def exact(tiny_base: Path) -> TransformersBase:
    """The same in float32, where sums in another order differ in the seventh digit only."""
    return transformers_base(replace(model_config(tiny_base), compute_dtype="float32"))


def run(
    config: TrialConfig, base: FrozenBase, memory: MicroBatchMemory | None = None
) -> tuple[TrialResult, list[EvalPoint]]:
    points: list[EvalPoint] = []
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    result = run_trial(config, base, memory or MicroBatchMemory(), points.append)
    return result, points


def losses(points: list[EvalPoint]) -> list[tuple[float | None, float]]:
    return [(point.train_loss, point.eval_loss) for point in points]


def flat(points: list[EvalPoint]) -> list[float]:
    return [loss for pair in losses(points) for loss in pair if loss is not None]


def loss_by_hand(folder: Path, model: Any) -> float:
    """Row by row, whole logits, float64: nothing of ours but the file."""
    total, n_tokens = 0.0, 0
    for line in (folder / "eval_sample.jsonl").read_text().splitlines():
        row = json.loads(line)
        labels = torch.tensor(row["labels"][1:])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].double()
        kept = labels != IGNORED
        total -= float(logits.log_softmax(-1)[kept, labels[kept]].sum())
        n_tokens += int(kept.sum())
    return total / n_tokens


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"),
    [
        (100, 4, {25: 1, 50: 2, 75: 3, 100: 4}),
        (10, 4, {3: 1, 5: 2, 8: 3, 10: 4}),
        (3, 4, {1: 1, 2: 2, 3: 4}),  # the index still tells the share of the run
        (1, 20, {1: 20}),
    ],
)
def test_evaluations_lie_at_equal_shares_of_a_run(
    steps: int, evaluations: int, expected: dict[int, int]
) -> None:
    assert evaluation_steps(steps, evaluations) == expected


def learns(points: list[EvalPoint]) -> bool:
    """Whether the rows cost less in the second of two epochs, a pair of evaluations each.

    The eval loss tells less: how far the tiny base has come already depends on the processor.
    """
    losses = [point.train_loss for point in points[1:] if point.train_loss is not None]
    return len(losses) == 4 and sum(losses[2:]) < sum(losses[:2])


def test_a_trial_learns_and_says_so(config: MakeConfig, base: TransformersBase) -> None:
    result, points = run(config(evaluate_base=True), base)
    assert [point.index for point in points] == [0, 1, 2, 3, 4]
    assert learns(points)
    assert result.outcome == "completed"
    best = min(points[1:], key=lambda point: point.eval_loss)
    assert result.best == replace(best, step_losses=None)  # they are told, and not kept


def test_before_the_first_step_the_eval_loss_is_the_base_models_own(
    config: MakeConfig, base: TransformersBase, tiny_data: Path
) -> None:
    _, points = run(config(evaluate_base=True, epochs=0.1), base)
    by_hand = loss_by_hand(tiny_data, base.model)
    assert points[0].eval_loss == pytest.approx(by_hand, rel=2e-3)  # bfloat16 logits


def test_the_logged_eval_loss_is_what_plain_peft_gives(
    config: MakeConfig, base: TransformersBase, tiny_data: Path
) -> None:
    trial = config()
    result, _ = run(trial, base)
    assert result.best is not None
    plain = AutoModelForCausalLM.from_pretrained(
        trial.model.name, dtype=torch.bfloat16,
        **transformers_qlora._quantization(trial.model, torch.bfloat16),
    )  # fmt: skip
    model = PeftModel.from_pretrained(plain, Path(trial.output_dir) / "adapter").eval()
    assert loss_by_hand(tiny_data, model) == pytest.approx(result.best.eval_loss, rel=1e-2)


def test_the_eval_loss_does_not_move_with_the_eval_batch_and_equals_a_loop_by_hand(
    exact: TransformersBase, tiny_data: Path
) -> None:
    rows = TokenRows(tiny_data / "sample", 64)
    by_batch = [eval_loss(exact, exact.model, rows, size) for size in (1, 7, 64)]
    by_hand = loss_by_hand(tiny_data, exact.model)
    assert by_batch == pytest.approx([by_hand] * 3, rel=1e-6)


def test_in_16_bits_the_eval_loss_moves_little_with_the_eval_batch(
    base: TransformersBase, tiny_data: Path
) -> None:
    rows = TokenRows(tiny_data / "sample", 64)
    by_batch = [eval_loss(base, base.model, rows, size) for size in (1, 7, 64)]
    assert by_batch == pytest.approx([by_batch[0]] * 3, rel=1e-3)


def test_an_overfit_trial_is_stopped_and_its_best_adapter_stays(
    config: MakeConfig, base: TransformersBase, tiny_data: Path
) -> None:
    trial = config(rank=16, learning_rate=3e-3, epochs=60, n_evaluations=20)
    Path(trial.output_dir).mkdir(parents=True)
    points: list[EvalPoint] = []

    def report(point: EvalPoint) -> Stop | None:
        points.append(point)
        reason = Overfit(min_rise=0.02, patience=3).reason(points)
        return Stop(outcome="overfit", reason=reason) if reason else None

    result = run_trial(trial, base, MicroBatchMemory(), report)
    assert result.outcome == "overfit"
    assert result.best is not None and result.best.index < points[-1].index < 20
    plain = AutoModelForCausalLM.from_pretrained(trial.model.name, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(plain, Path(trial.output_dir) / "adapter").eval()
    kept = loss_by_hand(tiny_data, model)
    assert abs(kept - result.best.eval_loss) < abs(kept - points[-1].eval_loss)


def test_waiting_for_a_verdict_is_no_time_of_the_trial(
    config: MakeConfig, base: TransformersBase
) -> None:
    trial = config(n_evaluations=3)
    Path(trial.output_dir).mkdir(parents=True)
    points: list[EvalPoint] = []

    def slowly(point: EvalPoint) -> None:
        points.append(point)
        time.sleep(2.0)

    began = time.perf_counter()
    run_trial(trial, base, MicroBatchMemory(), slowly)
    waited = 2.0 * (len(points) - 1)
    assert points[-1].seconds < time.perf_counter() - began - waited


def test_gradients_are_equal_before_and_after_an_evaluation(
    config: MakeConfig, base: TransformersBase, tiny_data: Path
) -> None:
    rows = TokenRows(tiny_data / "sample", 64)
    batch = collate([rows[i] for i in range(8)])
    torch.manual_seed(0)
    model = base.add_adapter(config())

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        torch.autograd.backward(base.nll_sum(model, batch))
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    before = gradients()
    eval_loss(base, model, rows, 8)
    after = gradients()
    base.remove_adapter()
    assert before and all(torch.equal(b, a) for b, a in zip(before, after, strict=True))


def test_a_warm_base_gives_the_losses_of_a_cold_one(
    config: MakeConfig, base: TransformersBase
) -> None:
    run(config(1, rank=4, neftune_alpha=5.0, dropout=0.1, epochs=1), base)
    run(config(4, rank=4), base)  # its layers, at another rank, are those of the next one
    _, warm = run(config(2), base)
    _, cold = run(config(3), load(config().model))
    assert losses(warm) == losses(cold)


def test_thirty_trials_leave_memory_as_it_was(config: MakeConfig, base: TransformersBase) -> None:
    process = psutil.Process()
    used = []
    for number in range(30):
        run(config(number, epochs=0.5, n_evaluations=1, rank=(8, 16, 32)[number % 3]), base)
        used.append(process.memory_info().rss)
    assert max(used[20:]) - max(used[5:10]) < 3 * 2**20


def test_a_trial_that_raises_gives_the_base_back(
    config: MakeConfig, base: TransformersBase
) -> None:
    def report(point: EvalPoint) -> None:
        raise RuntimeError("the report went wrong")

    trial = config()
    Path(trial.output_dir).mkdir(parents=True)
    with pytest.raises(RuntimeError, match="the report went wrong"):
        run_trial(trial, base, MicroBatchMemory(), report)
    base.remove_adapter()  # raises when anything is left


def test_a_failure_is_told_and_not_what_it_leaves_behind(
    config: MakeConfig, base: TransformersBase
) -> None:
    class Spoilt(LimitedMemory):
        def remove_adapter(self) -> None:
            super().remove_adapter()
            raise BaseNotClean("300 MiB more of device memory held than at load")

    def report(point: EvalPoint) -> None:
        raise RuntimeError("the report went wrong")

    spoilt = Spoilt(base, limit=8)
    trial = config()
    Path(trial.output_dir).mkdir(parents=True)
    with pytest.raises(RuntimeError, match="the report went wrong"):
        run_trial(trial, spoilt, MicroBatchMemory(), report)
    with pytest.raises(BaseNotClean, match="300 MiB"):
        run(config(1), spoilt)


@pytest.mark.parametrize("micro_batch_size", [4, 2, 1])
def test_the_micro_batch_changes_nothing_but_speed(
    config: MakeConfig, exact: TransformersBase, micro_batch_size: int
) -> None:
    # 48 rows in batches of 32: the last batch of each epoch is not whole.
    whole = config(1, effective_batch_size=32, epochs=4, learning_rate=3e-3)
    _, in_eights = run(whole, exact)
    _, smaller = run(replace(whole, micro_batch_size=micro_batch_size), exact)
    assert len(in_eights) == 4
    assert flat(smaller) == pytest.approx(flat(in_eights), rel=1e-5)


class LimitedMemory(TransformersBase):
    """The base, on a device that has no room for more than `limit` rows, from a given call on."""

    def __init__(
        self, base: FrozenBase, limit: int, *, training: bool | None = None, from_call: int = 0
    ) -> None:
        vars(self).update(vars(base))
        self._limit, self._training, self._from_call = limit, training, from_call
        self.calls = self.out_of_memory = 0

    def nll_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        self._take(model, len(batch["input_ids"]))
        return super().nll_sum(model, batch)

    def nll_rows(
        self, model: Any, batch: Batch, *, counts_correct: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        self._take(model, len(batch["input_ids"]))
        return super().nll_rows(model, batch, counts_correct=counts_correct)

    def _take(self, model: Any, n_rows: int) -> None:
        if self._training in (None, model.training):
            self.calls += 1
            if self.calls > self._from_call and n_rows > self._limit:
                self.out_of_memory += 1
                raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("training", "from_call"),
    [(True, 0), (True, 9), (False, 0), (False, 11)],
    ids=["first step", "tenth step", "first evaluation", "second evaluation"],
)
def test_memory_that_runs_out_at_any_point_changes_no_loss(
    config: MakeConfig, exact: TransformersBase, training: bool, from_call: int
) -> None:
    trial = config(1, evaluate_base=True)
    _, undisturbed = run(trial, exact)
    limited = LimitedMemory(exact, limit=2, training=training, from_call=from_call)
    result, points = run(trial, limited)
    assert flat(points) == pytest.approx(flat(undisturbed), rel=1e-5)
    assert result.micro_batch_size is not None
    assert result.micro_batch_size <= 2 if training else result.micro_batch_size == 8


def test_what_was_learnt_before_memory_ran_out_is_kept(
    config: MakeConfig, exact: TransformersBase
) -> None:
    limited = LimitedMemory(exact, limit=4, training=True, from_call=9)
    run(config(1), limited)
    # 12 steps: 9 of one forward pass, one attempt that failed, 3 of two forward passes.
    assert limited.calls == 9 + 1 + 3 * 2


def test_later_trials_do_not_try_again_what_did_not_fit(
    config: MakeConfig, base: TransformersBase
) -> None:
    memory = MicroBatchMemory()
    limited = LimitedMemory(base, limit=2)
    tries = []
    for number in (1, 2):
        result, _ = run(config(number), limited, memory)
        assert (result.outcome, result.micro_batch_size) == ("completed", 2)
        tries.append(limited.out_of_memory)
    assert tries == [4, 4]  # 8 and 4 rows, of the first trial's training and its evaluation
    assert memory.eval_batch_size(config()) == 2


def test_a_trial_whose_single_row_does_not_fit_is_out_of_memory(
    config: MakeConfig, base: TransformersBase
) -> None:
    limited = LimitedMemory(base, limit=0)
    result, _ = run(config(), limited)
    assert result.outcome == "out_of_memory"
    assert "with 1 row at a time and gradient checkpointing (rank 8, max_length 64" in result.reason


def test_a_trial_that_is_out_of_memory_leaves_no_checkpoint(
    config: MakeConfig, base: TransformersBase
) -> None:
    trial = config(checkpoint_minutes=0.0)
    result, _ = run(trial, LimitedMemory(base, limit=0, training=True, from_call=3))
    assert result.outcome == "out_of_memory"
    assert [path.name for path in Path(trial.output_dir).iterdir()] == ["result.json"]


class OneOfTwo(Alone):
    """A process whose peer has nothing to learn."""

    size = 2

    def __init__(self, at_sum: Callable[[], None]) -> None:
        self._at_sum = at_sum

    def sum(self, tensor: torch.Tensor) -> None:
        self._at_sum()


def test_a_pass_that_ran_out_of_memory_is_gone_when_the_gradients_are_summed(
    config: MakeConfig, exact: TransformersBase
) -> None:
    passes: list[weakref.ref[torch.Tensor]] = []
    were_there: list[bool] = []

    def run_out(_: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    class ShortInBackward(LimitedMemory):
        def nll_sum(self, model: Any, batch: Batch) -> torch.Tensor:
            nll = super().nll_sum(model, batch)
            passes.append(weakref.ref(nll))
            if len(passes) == 1:
                nll.register_hook(run_out)  # type: ignore[no-untyped-call]
            return nll

    trial = config(1, gpus_per_trial=2)
    Path(trial.output_dir).mkdir(parents=True)
    group = OneOfTwo(lambda: were_there.append(any(nll() is not None for nll in passes)))
    base = ShortInBackward(exact, limit=8)
    run_trial(trial, base, MicroBatchMemory(), lambda _: None, group)
    assert were_there and not any(were_there)


def test_memory_that_runs_out_in_the_optimizer_begins_the_trial_anew(
    config: MakeConfig, exact: TransformersBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, undisturbed = run(config(1), exact)
    step, calls = torch.optim.AdamW.step, []

    def short_once(self: Any, closure: Any = None) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", short_once)
    result, points = run(config(2), exact)
    assert result.micro_batch_size == 4
    assert flat(points) == pytest.approx(flat(undisturbed), rel=1e-5)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate "
                      "memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("CUDA driver error: out of memory"), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate"), True),
        (RuntimeError("Unsloth: No or negligible GPU memory available for fused cross entropy."),
         True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("CUDA out of memory"), False),
    ],
    ids=str,
)  # fmt: skip
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_the_first_attempt_holds_no_more_tokens_than_an_estimate_says(config: MakeConfig) -> None:
    sizes = [
        next(MicroBatchMemory().attempts(config(), longest_row=50, estimated=estimated)).tokens
        for estimated in (5000, 400, 399, 150, 0)
    ]
    assert sizes == [400, 400, 200, 100, 50]


def test_what_did_not_fit_is_halved_and_not_what_was_allowed(config: MakeConfig) -> None:
    """A step of short rows fails with fewer tokens than there might have been."""
    memory = MicroBatchMemory()
    fit = Fit(memory, config(), longest_row=50, estimated=5000)
    assert fit.attempt.tokens == 400
    assert fit.shrink(tokens=190)
    assert fit.attempt == Attempt(100, gradient_checkpointing=False)
    again = Fit(memory, config(), longest_row=50, estimated=5000)
    assert again.attempt == fit.attempt
    assert fit.shrink() and fit.shrink()
    assert fit.attempt == Attempt(400, gradient_checkpointing=True)


@pytest.fixture
def unequal(tiny_data: Path, tmp_path: Path) -> Path:
    """The tiny data set with 32 rows of 17 tokens, and 4 of 51 and more."""
    folder = tmp_path / "unequal"
    shutil.copytree(tiny_data, folder)
    whole = TokenRows(folder / "train", 64)
    rows = [whole[n] for n in range(len(whole.lengths))]
    joined = [rows[n : n + 3] for n in range(0, 12, 3)] + [[row] for row in rows[12:44]]
    ids = [torch.as_tensor(row["input_ids"]) for group in joined for row in group]
    labels = [torch.as_tensor(row["labels"]) for group in joined for row in group]
    TokenSplit.of(
        ids=torch.cat(ids).numpy().astype(np.int32),
        supervised=(torch.cat(labels) != IGNORED).numpy(),
        lengths=np.array([sum(len(row["input_ids"]) for row in group) for group in joined]),
    ).save(folder / "train")
    return folder


def test_rows_of_unequal_length_take_few_passes_and_learn_the_same(
    config: MakeConfig, exact: TransformersBase, unequal: Path
) -> None:
    every_step = {"n_evaluations": 6, "data_dir": str(unequal), "learning_rate": 3e-3}
    trial = config(1, effective_batch_size=16, micro_batch_size=16, **every_step)
    _, whole = run(trial, exact)
    assert len(whole) == 6
    assert whole[0].train_loss == pytest.approx(first_loss_by_hand(trial, exact.model), rel=1e-5)
    for number, most_rows in enumerate([None, 4, 1], start=2):
        counted = LimitedMemory(exact, limit=16, training=True)
        part = replace(trial, number=number, micro_batch_size=4, most_rows=most_rows)
        result, points = run(part, counted)
        assert flat(points) == pytest.approx(flat(whole), rel=1e-5)
        # 4 of the longest are 12 of the others: 16 rows take 2 passes at most.
        assert counted.calls <= (2 * 6 if most_rows is None else 36 * 2 // most_rows)
        assert result.micro_batch_size is not None
        assert (
            result.micro_batch_size > 4
            if most_rows is None
            else result.micro_batch_size == most_rows
        )


def first_loss_by_hand(trial: TrialConfig, model: Any) -> float:
    """Of the rows of the first step, one by one: the adapter is still without effect."""
    rows = TokenRows(Path(trial.data_dir) / "train", trial.max_length)
    total, n_tokens = 0.0, 0
    size = trial.effective_batch_size
    for index in EffectiveBatches(rows.lengths, size=size, seed=trial.seed)[0]:
        ids, labels = (torch.as_tensor(rows[index][name]) for name in ("input_ids", "labels"))
        with torch.no_grad():
            logits = model(input_ids=ids[None].long()).logits[0, :-1].double()
        kept = labels[1:] != IGNORED
        total -= float(logits.log_softmax(-1)[kept, labels[1:][kept].long()].sum())
        n_tokens += int(kept.sum())
    return total / n_tokens


def test_gradient_checkpointing_comes_when_one_row_does_not_fit_and_changes_no_loss(
    config: MakeConfig, base: TransformersBase
) -> None:
    trial = config(1, micro_batch_size=1)
    _, plain = run(trial, base)
    memory = MicroBatchMemory()
    memory.did_not_fit(trial, Attempt(1, gradient_checkpointing=False))
    _, points = run(replace(trial, number=2), base, memory)
    assert losses(points) == losses(plain)
    assert not base.model.is_gradient_checkpointing


def test_gradient_checkpointing_can_begin_in_the_middle(
    config: MakeConfig, exact: TransformersBase
) -> None:
    trial = config(1, micro_batch_size=1)
    _, plain = run(trial, exact)
    calls: list[int] = []

    class ShortOnce(LimitedMemory):
        def nll_sum(self, model: Any, batch: Batch) -> torch.Tensor:
            calls.append(1)
            if len(calls) == 20:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().nll_sum(model, batch)

    _, points = run(replace(trial, number=2), ShortOnce(exact, limit=1))
    assert flat(points) == pytest.approx(flat(plain), rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"lr_scheduler": "linear"},
        {"lr_scheduler": "constant"},
        {"lr_scheduler": "warmup_stable_decay"},
        {"use_rslora": True},
        {"use_dora": True},
        {"neftune_alpha": 5.0},
        {"target_modules": "attention"},
        {"target_modules": "mlp"},
        {"target_modules": "qv"},
        {"optimizer": "adamw_8bit"},
        pytest.param(
            {"optimizer": "paged_adamw_8bit"},
            marks=pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU"),
        ),
        {"weight_decay": 0.1, "dropout": 0.1},
        {"effective_batch_size": 16},
    ],
    ids=str,
)
def test_every_setting_trains(
    config: MakeConfig, base: TransformersBase, changes: dict[str, object]
) -> None:
    _, points = run(config(evaluate_base=True, **changes), base)
    assert all(math.isfinite(point.eval_loss) for point in points)
    assert learns(points)


def is_lowest(point: EvalPoint, before: Sequence[EvalPoint]) -> bool:
    return all(point.eval_loss < other.eval_loss for other in before)


def test_with_unsloth_no_losses_of_single_rows_are_told(
    config: MakeConfig, exact: TransformersBase
) -> None:
    """It knows a batch's sum alone, which is no row's: trials are ranked by their loss there."""
    settings = config(row_nlls_at=(1, 3))
    settings = replace(settings, model=replace(settings.model, backend="unsloth"))
    _, points = run(settings, exact)
    assert points and all(point.row_nlls is None for point in points)


def test_the_losses_of_single_rows_sum_to_the_eval_loss(
    config: MakeConfig, exact: TransformersBase
) -> None:
    settings = config(row_nlls_at=(1, 3), evaluate_base=True)
    result, points = run(settings, exact)
    of_rows = {p.index: from_text(p.row_nlls) for p in points if p.row_nlls is not None}
    best_so_far = {p.index for n, p in enumerate(points[1:]) if is_lowest(p, points[1 : n + 1])}
    assert set(of_rows) == {0, 1, 3} | best_so_far
    assert result.best is not None and result.best.row_nlls is not None
    sample = TokenRows(Path(settings.data_dir) / "sample", 2**31)
    n_tokens = sum(
        int((sample[index]["labels"][1:] != IGNORED).sum()) for index in range(len(sample))
    )
    for point in points:
        if point.index in of_rows:
            assert len(of_rows[point.index]) == len(sample)
            assert of_rows[point.index].sum() / n_tokens == pytest.approx(point.eval_loss, rel=1e-3)


def test_at_a_constant_rate_a_long_run_passes_through_the_shorter_one(
    config: MakeConfig, exact: TransformersBase, tmp_path: Path
) -> None:
    constant = {"lr_scheduler": "constant", "warmup_ratio": 0.0}
    short = config(**constant, epochs=1, n_evaluations=2, output_dir=str(tmp_path / "short"))
    long = config(**constant, epochs=2, n_evaluations=4, output_dir=str(tmp_path / "long"))
    expected, found = run(short, exact)[1], run(long, exact)[1]
    at = {point.step: point.eval_loss for point in found}
    assert [at[p.step] for p in expected] == pytest.approx([p.eval_loss for p in expected], 1e-6)
