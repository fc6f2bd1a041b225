"""Train one trial: `run_trial(config, base, memory, report)`. Read it from top to bottom."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from trials.base_model import FrozenBase
from trials.config import EvalPoint, Report, Stop, TrialConfig, TrialResult
from trials.data import IGNORED, TokenRows, batches
from trials.memory import Attempt, MicroBatchMemory, is_out_of_memory, memory_in_words

OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
SCHEDULERS = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "warmup_stable_decay": "warmup_stable_decay",
}
DECAY_SHARE = 0.2
"""Share of the steps in which warmup_stable_decay falls (Hägele et al., 2024: 10 to 20 %)."""


def run_trial(
    config: TrialConfig, base: FrozenBase, memory: MicroBatchMemory, report: Report
) -> TrialResult:
    """Train the adapter of `config`, write the best one to `config.output_dir`/adapter.

    The base has no adapter before and none after, whatever happens.

    Args:
        report: Called after each evaluation; its verdict ends the trial.

    Raises:
        BaseNotClean: The base could not be given back as it was: replace the process.
    """
    for attempt in memory.attempts(config):
        trial = _Trial(config, base, attempt, report)
        try:
            result = trial.run()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            memory.did_not_fit(config, attempt)
            print(f"out of memory: {attempt}", flush=True)
            if trial.has_evaluated_base:
                config = replace(config, evaluate_base=False)
        else:
            return result
        finally:
            trial.close()
            base.remove_adapter()
    return TrialResult(
        outcome="out_of_memory",
        reason=(
            f"Out of memory with 1 row at a time and gradient checkpointing (rank {config.rank}, "
            f"max_length {config.max_length}, {memory_in_words(base.device)}). "
            f"Lower data.max_length, or search smaller ranks."
        ),
        micro_batch_size=1,
    )


def evaluation_steps(n_steps: int, n_evaluations: int) -> dict[int, int]:
    """Return {optimizer step: index 1…K}: K evaluations spread evenly over a run.

    A run shorter than K steps evaluates after each step, and the index still tells which
    share of the run is done.
    """
    return {math.ceil(n_steps * k / n_evaluations): k for k in range(1, n_evaluations + 1)}


def n_steps(n_rows: int, effective_batch_size: int, epochs: float) -> int:
    """Return the optimizer steps of a run: the last batch of an epoch may be smaller."""
    return max(1, round(math.ceil(n_rows / effective_batch_size) * epochs))


class _Trial:
    """One attempt at a trial."""

    def __init__(
        self,
        config: TrialConfig,
        base: FrozenBase,
        attempt: Attempt,
        report: Report,
    ) -> None:
        self.has_evaluated_base = False
        self._config = config
        self._base = base
        self._attempt = attempt
        self._micro_batch_size = attempt.micro_batch_size
        is_first = attempt.micro_batch_size >= config.micro_batch_size
        self._eval_batch_size = config.eval_batch_size if is_first else attempt.micro_batch_size
        self._report = report
        data_dir = Path(config.data_dir)
        self._train_rows = TokenRows(data_dir / "train", config.max_length)
        # Eval rows are cut at the largest max_length of the space, whatever this trial's own is:
        # the eval losses of a study are over the same tokens.
        self._sample = TokenRows(data_dir / "sample", max_length=2**31)
        self._trainer: _AdapterTrainer | None = None
        self._verdict: Stop | None = None
        self._best: EvalPoint | None = None
        self._best_weights: dict[str, torch.Tensor] = {}
        self._began = time.perf_counter()
        self._training_seconds = self._evaluation_seconds = 0.0

    def run(self) -> TrialResult:
        config = self._config
        set_seed(config.seed)  # before the adapter: its A matrices are drawn at random
        if self._base.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._base.device)
        checkpointing = self._attempt.gradient_checkpointing
        model = self._base.add_adapter(config, gradient_checkpointing=checkpointing)
        if config.evaluate_base:
            # B is zero, so an untrained adapter leaves the base model as it is.
            self._report(self._evaluate_base(model))
            self.has_evaluated_base = True
        steps = n_steps(len(self._train_rows), config.effective_batch_size, config.epochs)
        self._trainer = _AdapterTrainer(
            model, self._base, self._train_rows, config, self._micro_batch_size, steps
        )
        self._trainer.add_callback(
            _EvaluateAt(evaluation_steps(steps, config.n_evaluations), self._after_step)
        )
        self._window_began = time.perf_counter()
        self._trainer.train()
        self._save_best(model)
        return TrialResult(
            outcome=self._verdict.outcome if self._verdict else "completed",
            reason=self._verdict.reason if self._verdict else self._completed_in_words(),
            best=self._best,
            micro_batch_size=self._micro_batch_size,
            training_seconds=self._training_seconds,
            evaluation_seconds=self._evaluation_seconds,
        )

    def close(self) -> None:
        """Let go of everything that holds device memory or a hook on the base."""
        if self._trainer is not None:
            self._trainer.remove_hooks()
        self._trainer = None
        self._best_weights = {}

    def _evaluate_base(self, model: Any) -> EvalPoint:
        began = time.perf_counter()
        loss = eval_loss(self._base, model, self._sample, self._eval_batch_size)
        self._evaluation_seconds += time.perf_counter() - began
        return EvalPoint(
            index=0,
            step=0,
            epoch=0.0,
            eval_loss=loss,
            train_loss=None,
            learning_rate=None,
            grad_norm=None,
            tokens_per_second=None,
            gpu_memory_gib=None,
            seconds=time.perf_counter() - self._began,
        )

    def _after_step(self, index: int, step: int, epoch: float) -> bool:
        """Evaluate, report, keep the best weights; return whether the trial goes on."""
        trainer = self._trainer
        assert trainer is not None
        train_loss, n_tokens = trainer.take_window()  # waits for the device
        window_seconds = time.perf_counter() - self._window_began
        self._training_seconds += window_seconds

        began = time.perf_counter()
        loss = eval_loss(self._base, trainer.model, self._sample, self._eval_batch_size)
        self._evaluation_seconds += time.perf_counter() - began
        point = EvalPoint(
            index=index,
            step=step,
            epoch=epoch,
            eval_loss=loss,
            train_loss=train_loss,
            learning_rate=trainer.latest_learning_rate,
            grad_norm=float(trainer.latest_grad_norm),
            tokens_per_second=n_tokens / window_seconds,
            gpu_memory_gib=_peak_memory_gib(self._base.device),
            seconds=time.perf_counter() - self._began,
        )
        print(json.dumps(asdict(point)), flush=True)
        if math.isfinite(loss) and (self._best is None or loss < self._best.eval_loss):
            self._best = point
            self._best_weights = {
                name: weight.detach().to("cpu", copy=True)
                for name, weight in _adapter_weights(trainer.model).items()
            }
        self._verdict = self._report(point)
        self._window_began = time.perf_counter()
        return self._verdict is None

    def _save_best(self, model: Any) -> None:
        """Write the adapter of the best evaluation, whole or not at all."""
        if self._best is None:
            return
        set_peft_model_state_dict(model, self._best_weights)
        folder = Path(self._config.output_dir) / "adapter"
        unfinished = folder.with_name(f"adapter.{os.getpid()}.tmp")
        # Not "auto": peft would ask the hub for the base model's vocabulary size.
        model.save_pretrained(unfinished, save_embedding_layers=False)
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)

    def _completed_in_words(self) -> str:
        if self._best is None:
            return "Ran to its end without a finite eval loss."
        return (
            f"Ran to its end; lowest eval loss {self._best.eval_loss:.4f} "
            f"at step {self._best.step} (epoch {self._best.epoch:.2f})."
        )


def _adapter_weights(model: Any) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return weights


def _peak_memory_gib(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / 2**30


@torch.no_grad()
def eval_loss(base: FrozenBase, model: Any, rows: TokenRows, batch_size: int) -> float:
    """Return the mean negative log-likelihood per supervised token of `rows`, in nats.

    Sums over all tokens and divides once, so that it does not depend on how rows are batched.
    A mean of batch means would weigh the tokens of short completions more.
    """
    was_training = model.training
    model.eval()
    order = rows.lengths.argsort(kind="stable")[::-1]
    nll = torch.zeros((), dtype=torch.float64, device=base.device)
    n_tokens = 0
    for first in range(0, len(order), batch_size):
        batch = collate([rows[i] for i in order[first : first + batch_size]])
        n_tokens += int((batch["labels"][:, 1:] != IGNORED).sum())
        nll += base.nll_sum(model, {k: v.to(base.device) for k, v in batch.items()}).double()
    model.train(was_training)
    return float(nll) / n_tokens


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad rows on the right: `input_ids`, `labels`, `attention_mask`, each (batch, longest row)."""

    def padded(name: str, padding: int) -> torch.Tensor:
        tensors = [torch.as_tensor(row[name]) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=padding)

    attention_mask = pad_sequence(
        [torch.ones(len(row["input_ids"]), dtype=torch.long) for row in rows], batch_first=True
    )
    # The id of a padded token is of no account: it is masked, and its label carries no loss.
    return {
        "input_ids": padded("input_ids", 0),
        "labels": padded("labels", IGNORED),
        "attention_mask": attention_mask,
    }


class _MicroBatches(Sampler[list[int]]):
    """The micro-batches of each epoch in turn; every epoch has an order of its own."""

    def __init__(self, rows: TokenRows, config: TrialConfig, micro_batch_size: int) -> None:
        self._rows, self._config, self._micro_batch_size = rows, config, micro_batch_size
        self._epoch = 0

    def __len__(self) -> int:
        full, rest = divmod(len(self._rows), self._config.effective_batch_size)
        per_step = self._config.effective_batch_size // self._micro_batch_size
        return full * per_step + math.ceil(rest / self._micro_batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        seed = self._config.seed + self._epoch
        self._epoch += 1
        return batches(
            self._rows,
            effective_batch_size=self._config.effective_batch_size,
            micro_batch_size=self._micro_batch_size,
            seed=seed,
        )


class _AdapterTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer with our batches and our loss; evaluation and saving are ours."""

    def __init__(
        self,
        model: Any,
        base: FrozenBase,
        rows: TokenRows,
        config: TrialConfig,
        micro_batch_size: int,
        n_steps: int,
    ) -> None:
        on_cuda = base.device.type == "cuda"
        decay = {"num_decay_steps": math.ceil(n_steps * DECAY_SHARE)}
        super().__init__(
            model=model,
            args=TrainingArguments(
                output_dir=config.output_dir,  # it writes nothing there
                max_steps=n_steps,
                per_device_train_batch_size=micro_batch_size,
                gradient_accumulation_steps=config.effective_batch_size // micro_batch_size,
                learning_rate=config.learning_rate,
                lr_scheduler_type=SCHEDULERS[config.lr_scheduler],
                lr_scheduler_kwargs=decay if config.lr_scheduler == "warmup_stable_decay" else {},
                # Rounded down: rounded up, as a ratio is, the first step of a short run has rate 0.
                warmup_steps=int(config.warmup_ratio * n_steps),
                weight_decay=config.weight_decay,
                optim=OPTIMIZERS[config.optimizer],
                max_grad_norm=config.max_grad_norm,
                neftune_noise_alpha=config.neftune_alpha or None,
                seed=config.seed,
                use_cpu=not on_cuda,
                dataloader_pin_memory=on_cuda,
                # Autocast is our loss's own; float16 alone needs the scaler that comes with this.
                fp16=on_cuda and not torch.cuda.is_bf16_supported(including_emulation=False),
                logging_nan_inf_filter=False,  # it waits for the device after every micro-batch
                logging_strategy="no",
                eval_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=rows,
        )
        self.remove_callback(PrinterCallback)  # our own lines are the log
        self.latest_grad_norm: Any = math.nan
        self.latest_learning_rate = math.nan
        self._base, self._rows, self._config = base, rows, config
        self._micro_batch_size = micro_batch_size
        self._nll = torch.zeros((), dtype=torch.float64, device=base.device)
        self._supervised_tokens = torch.zeros((), dtype=torch.int64, device=base.device)
        self._tokens = torch.zeros((), dtype=torch.int64, device=base.device)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Our micro-batches, in order; no sharding, one process trains."""
        return DataLoader(
            self._rows,  # type: ignore[arg-type]
            batch_sampler=_MicroBatches(self._rows, self._config, self._micro_batch_size),
            collate_fn=collate,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The micro-batch's share of the mean loss per supervised token of the effective batch."""
        assert num_items_in_batch is not None and not return_outputs
        nll = self._base.nll_sum(model, inputs)
        self._nll += nll.detach()
        self._supervised_tokens += (inputs["labels"][:, 1:] != IGNORED).sum()
        self._tokens += inputs["attention_mask"].sum()
        return nll / num_items_in_batch

    def take_window(self) -> tuple[float, int]:
        """Return (mean train loss per supervised token, tokens) since the call before."""
        loss = float(self._nll) / int(self._supervised_tokens)
        n_tokens = int(self._tokens)
        for counter in (self._nll, self._supervised_tokens, self._tokens):
            counter.zero_()
        return loss, n_tokens

    def remove_hooks(self) -> None:
        """Remove NEFTune's hook, which a training cut short leaves on the base's embedding."""
        handle = getattr(self, "neftune_hook_handle", None)
        if handle is not None:
            handle.remove()

    def _clip_grad_norm(self, model: Any) -> Any:
        self.latest_grad_norm = super()._clip_grad_norm(model)
        self.latest_learning_rate = self._get_learning_rate()
        return self.latest_grad_norm

    def floating_point_ops(self, inputs: Any) -> int:
        """Nobody reads it, and counting walks over all parameters after every micro-batch."""
        return 0


class _EvaluateAt(TrainerCallback):  # type: ignore[misc]
    """Calls `after_step` at the chosen optimizer steps; False ends the training."""

    def __init__(self, steps: Mapping[int, int], after_step: Any) -> None:
        self._steps = steps
        self._after_step = after_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        index = self._steps.get(state.global_step)
        if index is not None and not self._after_step(index, state.global_step, state.epoch):
            control.should_training_stop = True
        return control
