"""Train one trial: `run_trial(config, base, memory, report)`. Read it from top to bottom."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file

from trials.config import GOES_ON, EvalPoint, Report, Stop, TrialConfig, TrialResult
from trials.data.tokens import TokenRows
from trials.distributed.group import ALONE, Group
from trials.evaluation.evaluate import Evaluator
from trials.evaluation.row_nlls import as_text, best_of, first_from, thinned
from trials.memory.device import give_back_memory, is_out_of_memory, memory_in_words
from trials.memory.micro_batches import DoesNotFit, MicroBatchMemory
from trials.models.frozen_base import BaseNotClean, FrozenBase
from trials.models.lora import as_saved
from trials.training.answering import answer_prompts
from trials.training.checkpoint import Checkpoints, State, on_host
from trials.training.gpu_busy import GpuBusy
from trials.training.learner import Learner, Trained
from trials.training.measured import measure_adapter
from trials.trial_folder import ADAPTER, TOKENIZER, write_result
from trials.whole_file import give_usual_mode, link_or_copy, new_folder, sync_folder

T = TypeVar("T")
AfterStep = Callable[[int, int], bool]
"""Hears of the steps that are taken, and of all there are; whether the trial is to be set aside."""

SET_ASIDE = Stop(outcome="interrupted", reason="Interrupted; resumes from its checkpoint.")


def run_trial(
    config: TrialConfig,
    base: FrozenBase,
    memory: MicroBatchMemory,
    report: Report,
    group: Group = ALONE,
    after_step: AfterStep = lambda step, n_steps: False,
) -> TrialResult:
    """Train the adapter of `config`, write the best one to `config.output_dir`/adapter.

    The base has no adapter before and none after, whatever happens. A trial that was cut off goes
    on from its checkpoint, and reports once more what it had reported before. A configuration that
    names rows to measure trains nothing (`trials.training.measured`), nor does one that answers
    prompts (`trials.training.answering`).

    Args:
        report: Called after each evaluation; its verdict ends the trial.
        group: The processes that train it together; only the first one reports and writes.
        after_step: Called after each. If it says so, the trial is set aside: it writes a checkpoint
            and ends as `interrupted`, on several GPUs at its next evaluation.

    Raises:
        BaseNotClean: The base could not be given back as it was: replace the process.
    """
    if config.answers:
        return answer_prompts(config, base, memory, group, partial(after_step, 0, 1))
    if config.measured_rows:
        return measure_adapter(config, base, memory, group, partial(after_step, 0, 1))
    while True:
        trial = _Trial(config, base, memory, report, group, after_step)
        with _gives_back(trial, base):
            try:
                result = trial.run()
            except DoesNotFit:
                result = _out_of_memory(config, base.device)
            except Exception as error:
                # Micro-batches are made smaller where they stand; this is the optimizer's memory.
                if group.size > 1 or not is_out_of_memory(error) or not trial.shrink():
                    raise
                continue
        if result.outcome not in GOES_ON:
            if group.rank == 0:
                write_result(config, result, trial.points)
            trial.checkpoints.delete()
        return result


def _out_of_memory(config: TrialConfig, device: torch.device) -> TrialResult:
    return TrialResult(
        outcome="out_of_memory",
        reason=(
            f"Out of memory with 1 row at a time and gradient checkpointing (rank {config.rank}, "
            f"max_length {config.max_length}, {memory_in_words(device)}). "
            f"Lower data.max_length, or search smaller ranks."
        ),
        micro_batch_size=1,
        gradient_checkpointing=True,
    )


@contextlib.contextmanager
def _gives_back(trial: _Trial, base: FrozenBase) -> Iterator[None]:
    """Take the trial's adapter off the base; prove that nothing is left, unless it has failed."""
    try:
        yield
    except BaseException:
        trial.close()
        # The traceback still holds the trial's tensors, and its cause is what must be told.
        with contextlib.suppress(BaseNotClean):
            base.remove_adapter()
        raise
    trial.close()
    base.remove_adapter()


def evaluation_steps(n_steps: int, n_evaluations: int) -> dict[int, int]:
    """Return {optimizer step: index 1…K}: K evaluations spread evenly over a run.

    A run shorter than K steps evaluates after each step, and the index still tells which
    share of the run is done.
    """
    return {math.ceil(n_steps * k / n_evaluations): k for k in range(1, n_evaluations + 1)}


class _Trial:
    """A trial from its first step, or from its checkpoint, to its end."""

    def __init__(
        self,
        config: TrialConfig,
        base: FrozenBase,
        memory: MicroBatchMemory,
        report: Report,
        group: Group,
        after_step: AfterStep,
    ) -> None:
        self._config, self._base, self._memory = config, base, memory
        self._report, self._group = report, group
        self._after_step = after_step
        self.checkpoints = Checkpoints(config)
        self._evaluator = Evaluator(config, base, group)
        self._busy = GpuBusy(base.device)
        self._learner: Learner | None = None
        self.points: list[EvalPoint] = []
        self._with_rows: set[int] = set()
        """Indices of the evaluations that report the losses of single rows, as do the base model's
        and each that is the best so far."""
        self._knows_rows = config.model.backend != "unsloth"
        self._verdict: Stop | None = None
        self._best: EvalPoint | None = None
        self._best_weights: dict[str, torch.Tensor] = {}
        self._began = time.perf_counter()
        self._training_seconds = self._evaluation_seconds = 0.0

    def run(self) -> TrialResult:
        """Train to the end, or to the verdict that ends it."""
        if self._base.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._base.device)
        rows = TokenRows(Path(self._config.data_dir) / "train", self._config.max_length)
        learner = Learner(self._config, self._base, self._memory, rows, self._group)
        self._learner = learner
        self._train(learner, first_step=self._go_on(learner))
        if not self._goes_on_later:
            self._save_best(learner)
        return TrialResult(
            outcome=self._verdict.outcome if self._verdict else "completed",
            reason=self._verdict.reason if self._verdict else self._completed_in_words(learner),
            best=self._best,
            micro_batch_size=learner.fit.most_rows or None,
            gradient_checkpointing=learner.fit.attempt.gradient_checkpointing,
            training_seconds=self._training_seconds,
            evaluation_seconds=self._evaluation_seconds,
        )

    @property
    def _goes_on_later(self) -> bool:
        """Whether the verdict ends a part of the run alone."""
        return self._verdict is not None and self._verdict.outcome in GOES_ON

    def shrink(self) -> bool:
        """Whether the trial can be begun again with a smaller micro-batch."""
        return self._learner is not None and self._learner.fit.shrink()

    def close(self) -> None:
        """Let go of everything that holds device memory or a hook on the base."""
        self.checkpoints.close()
        self._busy.take()
        if self._learner is not None:
            self._learner.close()
        self._learner = None
        self._best_weights = {}

    def _train(self, learner: Learner, first_step: int) -> None:
        evaluations = evaluation_steps(learner.n_steps, self._config.n_evaluations)
        self._with_rows = first_from(self._config.row_nlls_at, evaluations.values())
        if self._config.evaluate_base and not self.points:
            # B is zero, so an untrained adapter leaves the base model as it is.
            self._hand_over(self._evaluate(learner, 0, 0))
        learner.model.train()
        learner.window.begin()
        self._busy.begin()
        for step in range(first_step, learner.n_steps):
            if self._verdict is not None:
                return
            learner.take_step(step)
            index = evaluations.get(step + 1)
            if index is not None:
                self._after_window(learner, index, step + 1)
            if self._group.rank == 0:
                self._between_steps(learner, step + 1)

    def _between_steps(self, learner: Learner, step: int) -> None:
        """Write a checkpoint when it is time for one, or when the trial is to be set aside."""
        is_asked, is_last = self._after_step(step, learner.n_steps), step == learner.n_steps
        if is_asked and self._group.size == 1 and self._verdict is None and not is_last:
            self._verdict = SET_ASIDE
        is_due = self._verdict is None and self.checkpoints.is_due
        if is_due or self._goes_on_later:
            self.checkpoints.write(self._state(learner))

    def _after_window(self, learner: Learner, index: int, step: int) -> None:
        trained = learner.window.take()  # waits for the device
        self._training_seconds += trained.seconds
        point = self._evaluate(learner, index, step, trained, self._busy.take())
        is_best = best_of([*self.points, point], self._config.objective) is point
        if not is_best and index not in self._with_rows:
            point = replace(point, row_nlls=None)
        if is_best:
            self._best = point
            weights = get_peft_model_state_dict(learner.model, save_embedding_layers=False)
            self._best_weights = {name: on_host(weight) for name, weight in weights.items()}
        self._hand_over(point, trained.step_losses)
        self._judge_skipped(learner, is_last=step == learner.n_steps)
        learner.window.begin()
        self._busy.begin()

    def _judge_skipped(self, learner: Learner, *, is_last: bool) -> None:
        """End a trial whose steps float16 leaves out: it would 'complete' with the base's loss."""
        if words := learner.skipped.in_words():
            print(words, flush=True)
        reason = learner.skipped.reason(is_last=is_last)
        if reason and self._verdict is None:
            self._verdict = Stop(outcome="diverged", reason=reason)

    def _hand_over(self, point: EvalPoint, step_losses: tuple[float, ...] | None = None) -> None:
        """Report an evaluation; the verdict is that of the first process.

        Args:
            step_losses: Of one that is new: as `EvalPoint` has them.
        """
        self.points.append(point)
        self.points = thinned(self.points, self._config.objective, self._config.row_nlls_at)
        told = replace(point, step_losses=step_losses)
        asked = time.perf_counter()
        verdict = self._report(told) if self._group.rank == 0 else None
        self._began += time.perf_counter() - asked  # who answers may be stopped for an hour
        if verdict is None and self._group.size > 1 and self._group.rank == 0:
            assert self._learner is not None
            is_asked = self._after_step(point.step, self._learner.n_steps)
            verdict = SET_ASIDE if is_asked else None
        self._verdict = self._group.broadcast(verdict)

    def _evaluate(
        self,
        learner: Learner,
        index: int,
        step: int,
        trained: Trained | None = None,
        gpu_busy: float | None = None,
    ) -> EvalPoint:
        """Evaluate the adapter as it is, after `step` steps.

        Args:
            trained: Since the evaluation before; None: nothing.
        """
        began = time.perf_counter()
        found = self._fitting(learner, self._evaluator.measure)
        score = found.accuracy
        if self._evaluator.is_generated:
            # Equal in all processes; a lost model would write up to the limit for nothing.
            is_lost = not math.isfinite(found.loss)
            score = math.nan if is_lost else self._fitting(learner, self._evaluator.score)
        self._evaluation_seconds += time.perf_counter() - began
        return EvalPoint(
            index=index,
            step=step,
            epoch=step / learner.batches.steps_per_epoch,
            eval_loss=found.loss,
            train_loss=trained.loss if trained else None,
            learning_rate=learner.learning_rate if step else None,
            grad_norm=float(learner.grad_norm) if step else None,
            tokens_per_second=trained.tokens_per_second if trained else None,
            tokens=self._tokens_so_far(trained),
            gpu_memory_gib=_peak_memory_gib(self._base.device) if step else None,
            gpu_busy=gpu_busy,
            seconds=time.perf_counter() - self._began,
            score=score,
            row_nlls=as_text(found.row_nlls) if self._knows_rows else None,
        )

    def _tokens_so_far(self, trained: Trained | None) -> int | None:
        """What it has trained on, with what came since the evaluation before."""
        before = self.points[-1] if self.points and self.points[-1].index else None
        if trained is None or (before is not None and before.tokens is None):
            return None
        return trained.n_tokens + (before.tokens or 0 if before else 0)

    def _fitting(self, learner: Learner, measure: Callable[[Any, int], T]) -> T:
        """Measure in batches that fit. Processes wait for each other at the end of `measure` alone,
        so that one of them may begin it again.
        """
        found: list[T] = []
        while not found:
            size = learner.fit.eval_batch_size
            try:
                found.append(measure(learner.model, size))
            except Exception as error:
                if not is_out_of_memory(error) or (size == 1 and self._group.size > 1):
                    raise
            if not found:
                if not learner.fit.shrink_evaluation():
                    raise DoesNotFit
                give_back_memory()
        return found[0]

    def _state(self, learner: Learner) -> State:
        state = learner.state()
        best = {f"best.{name}": weight for name, weight in self._best_weights.items()}
        return State(
            tensors={**state.tensors, **best},
            numbers={
                **state.numbers,
                "points": [asdict(point) for point in self.points],
                "best": self._best.index if self._best else None,
                "training_seconds": self._training_seconds,
                "evaluation_seconds": self._evaluation_seconds,
                "seconds": time.perf_counter() - self._began,
            },
        )

    def _go_on(self, learner: Learner) -> int:
        """Put the checkpoint's state in place, if there is one; return the steps it had taken."""
        state = self.checkpoints.read() if self._group.rank == 0 else None
        state = self._group.broadcast(state)
        if state is None:
            return 0
        learner.restore(state)
        numbers = state.numbers
        print(f"going on after step {numbers['step']} of {learner.n_steps}", flush=True)
        self._best_weights = state.part("best")
        self._training_seconds = numbers["training_seconds"]
        self._evaluation_seconds = numbers["evaluation_seconds"]
        self._began -= numbers["seconds"]
        for values in numbers["points"]:
            if self._verdict is None:
                self._hand_over(EvalPoint(**values))
        self._best = next((p for p in self.points if p.index == numbers["best"]), None)
        return int(numbers["step"])

    def _save_best(self, learner: Learner) -> None:
        """Write the adapter of the best evaluation, whole or not at all."""
        if self._best is None or self._group.rank > 0:
            return
        about = as_saved(learner.model)
        # As peft's save_pretrained writes it, but straight from the copy on the host and without
        # an empty model card: the next trial waits for this.
        with new_folder(Path(self._config.output_dir) / ADAPTER) as folder:
            weights_path = folder / SAFETENSORS_WEIGHTS_NAME
            save_file(self._best_weights, weights_path, metadata={"format": "pt"})
            give_usual_mode([weights_path])
            about.save_pretrained(folder)
            tokenizer = Path(self._config.data_dir) / TOKENIZER
            if tokenizer.is_dir():  # linked: it may be larger than the adapter
                shutil.copytree(tokenizer, folder, copy_function=link_or_copy, dirs_exist_ok=True)
            sync_folder(folder)

    def _completed_in_words(self, learner: Learner) -> str:
        return " ".join(filter(None, [self._best_in_words(), learner.skipped.in_words()]))

    def _best_in_words(self) -> str:
        if self._best is None:
            return "Ran to its end without a finite eval loss."
        objective = self._config.objective
        loss = "" if objective.is_eval_loss else f", with eval loss {self._best.eval_loss:.4f},"
        return (
            f"Ran to its end; {objective.extreme} {objective.heading} {self._best.value:.4f}{loss} "
            f"at step {self._best.step} (epoch {self._best.epoch:.2f})."
        )


def _peak_memory_gib(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / 2**30
