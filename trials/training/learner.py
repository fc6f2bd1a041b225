"""An adapter and what trains it, one optimizer step at a time, in as much memory as there is."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trials.config import TrialConfig
from trials.data.batches import EffectiveBatches, Rows, collate, micro_batches_by_tokens
from trials.data.tokens import IGNORED, TokenRows
from trials.distributed.group import Group
from trials.memory.device import give_back_memory, is_out_of_memory
from trials.memory.estimate import tokens_that_fit
from trials.memory.micro_batches import DoesNotFit, Fit, MicroBatchMemory
from trials.models.frozen_base import FrozenBase
from trials.training.checkpoint import State, on_host, optimizer_state, restore_optimizer
from trials.training.neftune import EmbeddingNoise
from trials.training.optimizer import (
    give_back_pages,
    make_optimizer,
    make_schedule,
    restore_schedule,
)
from trials.training.skipped import SkippedSteps


class Learner:
    """A new adapter on the base model, its optimizer and its learning rate.

    Args:
        rows: What it learns.
        group: The processes that share each effective batch.
    """

    def __init__(
        self,
        config: TrialConfig,
        base: FrozenBase,
        memory: MicroBatchMemory,
        rows: TokenRows,
        group: Group,
    ) -> None:
        self._config, self._base, self._rows, self._group = config, base, rows, group
        self.batches = EffectiveBatches(
            rows.lengths, size=config.effective_batch_size, seed=config.seed
        )
        self.n_steps = self.batches.n_steps(config.epochs)
        self.model = base.add_adapter(config)
        self._trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self._optimizer = make_optimizer(config, self._trained)
        self._schedule = make_schedule(config, self._optimizer, self.n_steps)
        # Small gradients vanish in float16, in no other type.
        self._scaler = torch.amp.GradScaler(base.device.type, enabled=base.dtype is torch.float16)
        self.skipped = SkippedSteps(base.device)
        self._noise: EmbeddingNoise | None = None
        if config.neftune_alpha:
            self._noise = EmbeddingNoise(self.model, config.neftune_alpha)
        n_trained = sum(p.numel() for p in self._trained.values())
        self._longest_row = int(rows.lengths.max())
        self.fit = Fit(
            memory,
            config,
            longest_row=self._longest_row,
            estimated=tokens_that_fit(base, config, n_trained=n_trained, group=group),
        )
        self.window = Window(base.device)
        self.grad_norm: torch.Tensor | float = math.nan
        """Of the latest step, before clipping; on the device."""
        self.learning_rate = math.nan
        """Of the latest step."""

    def close(self) -> None:
        """Take what is left of the trial off the base model."""
        if self._noise is not None:
            self._noise.remove()
        self._optimizer.state.clear()
        give_back_pages()

    def take_step(self, step: int) -> None:
        """Take optimizer step `step`, counted from 0.

        A micro-batch that does not fit is made smaller and the step begun again: its result stays
        the same, and what was learnt before it is kept.

        Raises:
            DoesNotFit: Not even one row does.
        """
        # Whatever noise the step draws depends on nothing that came before it.
        torch.manual_seed(_step_seed(self._config.seed, step, self._group.rank))
        while (tokens := self._accumulate(step)) is not None:
            if not self.fit.shrink(tokens):
                raise DoesNotFit
            self._optimizer.zero_grad()
            give_back_memory()
            if self.fit.attempt.gradient_checkpointing:
                self._base.recompute_activations()
        self._scaler.unscale_(self._optimizer)
        self.grad_norm = torch.nn.utils.clip_grad_norm_(
            self._trained.values(), self._config.max_grad_norm
        )
        if self._scaler.is_enabled():
            self.skipped.add(self.grad_norm)
        self.learning_rate = float(self._schedule.get_last_lr()[0])
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        self._optimizer.zero_grad()

    def _accumulate(self, step: int) -> int | None:
        """Put the gradients of the effective batch's mean loss in place.

        Returns:
            None, or the tokens of the micro-batch that did not fit.
        """
        indices, rows, n_targets = self._read(step)
        nll_sum = torch.zeros((), dtype=torch.float64, device=self._base.device)
        mine = indices[self._group.rank :: self._group.size]
        too_many: int | None = None
        parts = micro_batches_by_tokens(
            mine,
            self._rows.lengths,
            tokens=self.fit.attempt.tokens,
            most_rows=self._config.most_rows,
        )
        try:
            for part in parts:
                too_many = len(part) * int(self._rows.lengths[part[0]])
                nll_sum += self._learn([rows[index] for index in part], n_targets)
            too_many = None
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if self._group.size > 1:
            too_many, nll_sum = self._sum_gradients(nll_sum, too_many)
        if too_many is None:
            self.fit.most_rows = max([self.fit.most_rows, *map(len, parts)])
            n_tokens = sum(len(row["input_ids"]) for row in rows.values())
            self.window.add(nll_sum, n_targets, n_tokens)
        return too_many

    def _learn(self, rows: list[dict[str, Any]], n_targets: int) -> torch.Tensor:
        """Add a micro-batch's share of the gradients; return its nats.

        A function of its own: where memory has run out in it, nothing of the pass is left when
        the gradients are summed.
        """
        batch = collate(rows)
        if self._noise is not None:
            self._noise.expect(batch["attention_mask"])
        nll = self._base.nll_sum(self.model, batch)
        torch.autograd.backward(self._scaler.scale(nll / n_targets))
        return nll.detach()

    def _read(self, step: int) -> tuple[Rows, dict[int, dict[str, Any]], int]:
        """Return a step's rows, the longest first, what they hold, and their targets in all."""
        indices = self.batches[step]
        rows = {index: self._rows[index] for index in indices}
        n_targets = sum(int((row["labels"][1:] != IGNORED).sum()) for row in rows.values())
        return indices, rows, n_targets

    def _sum_gradients(
        self, nll_sum: torch.Tensor, too_many: int | None
    ) -> tuple[int | None, torch.Tensor]:
        """Sum the gradients over the processes; return the fewest tokens that did not fit in one of
        them, and all nats."""
        gradients = []
        for parameter in self._trained.values():
            if parameter.grad is None:  # it had no row of a small last batch, or no memory
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        is_short = torch.full_like(nll_sum, float(too_many is not None))
        extras = torch.stack([nll_sum, is_short]).float()
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), extras])
        self._group.sum(flat)
        sizes = [*(gradient.numel() for gradient in gradients), 1, 1]
        *sums, nll_of_all, n_short = torch.split(flat, sizes)
        for gradient, summed in zip(gradients, sums, strict=True):
            gradient.copy_(summed.view_as(gradient))
        if float(n_short):
            too_many = int(self._group.smallest(too_many or math.inf))
        return too_many, nll_of_all[0].double()

    def state(self) -> State:
        """Return all that it needs to go on after the steps it has taken."""
        optimizer, others = optimizer_state(self._optimizer)
        return State(
            tensors={
                **{f"trained.{name}": on_host(p) for name, p in self._trained.items()},
                **{f"optimizer.{name}": tensor for name, tensor in optimizer.items()},
                "window": on_host(self.window.nlls),
            },
            numbers={
                "optimizer": others,
                "schedule": self._schedule.state_dict(),
                "step": self._schedule.last_epoch,
                "scaler": self._scaler.state_dict(),
                "skipped": self.skipped.state(),
                "window": self.window.counts(),
                "fit": self.fit.state(),
            },
        )

    def restore(self, state: State) -> None:
        numbers = state.numbers
        with torch.no_grad():
            for name, weight in state.part("trained").items():
                self._trained[name].copy_(weight)
        restore_optimizer(self._optimizer, state.part("optimizer"), numbers["optimizer"])
        restore_schedule(self._schedule, numbers["schedule"])
        self._scaler.load_state_dict(numbers["scaler"])
        if "skipped" in numbers:  # not in checkpoints of an earlier version
            self.skipped.restore(numbers["skipped"])
        self.window.restore(state.tensors["window"], numbers["window"])
        self.fit.go_on_with(numbers.get("fit") or self._earlier_fit(numbers))
        if self.fit.attempt.gradient_checkpointing:
            self._base.recompute_activations()

    def _earlier_fit(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """What the checkpoint of an earlier version says, which counted rows."""
        rows, checkpointing = numbers["attempt"]
        return {
            "tokens": rows * self._longest_row,
            "gradient_checkpointing": checkpointing,
            "most_rows": rows,
            "eval_batch_size": numbers["eval_batch_size"],
        }


@dataclass(frozen=True, slots=True)
class Trained:
    """What was trained on between two evaluations."""

    step_losses: tuple[float, ...]
    """Mean nats per supervised token of each step."""
    loss: float
    """The same over all of them."""
    n_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float | None:
        return self.n_tokens / self.seconds if self.n_tokens and self.seconds else None


class Window:
    """What was trained on since the evaluation before."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._nlls: list[torch.Tensor] = []
        """Nats of each step; they stay on the device, so that training does not wait for them."""
        self._n_targets: list[int] = []
        self._n_tokens = 0
        self._seconds_before = 0.0
        self._began = time.perf_counter()

    @property
    def nlls(self) -> torch.Tensor:
        """Nats of each step, (steps,), on the device."""
        empty = torch.zeros(0, dtype=torch.float64, device=self._device)
        return torch.stack(self._nlls) if self._nlls else empty

    def begin(self) -> None:
        """Training begins, or goes on."""
        self._began = time.perf_counter()

    def add(self, nll_sum: torch.Tensor, n_targets: int, n_tokens: int) -> None:
        """Take a step; the tensor must stay as it is."""
        self._nlls.append(nll_sum)
        self._n_targets.append(n_targets)
        self._n_tokens += n_tokens

    def take(self) -> Trained:
        """Return it, and begin anew."""
        nlls = self.nlls.tolist()
        losses = tuple(nll / n for nll, n in zip(nlls, self._n_targets, strict=True))
        seconds = self._seconds_before + time.perf_counter() - self._began
        taken = Trained(losses, sum(nlls) / sum(self._n_targets), self._n_tokens, seconds)
        self._nlls, self._n_targets, self._n_tokens = [], [], 0
        self._seconds_before = 0.0
        return taken

    def counts(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside `nlls`."""
        return {
            "n_targets": self._n_targets,
            "n_tokens": self._n_tokens,
            "seconds": self._seconds_before + time.perf_counter() - self._began,
        }

    def restore(self, nlls: torch.Tensor, counts: Mapping[str, Any]) -> None:
        n_targets = counts["n_targets"]
        # An earlier version kept the sums alone: they stand for the latest of their steps.
        self._n_targets = n_targets if isinstance(n_targets, list) else [n_targets]
        self._nlls = list(nlls.to(self._device).reshape(-1).unbind())
        if self._n_targets == [0]:
            self._nlls, self._n_targets = [], []
        self._n_tokens = counts["n_tokens"]
        self._seconds_before = counts["seconds"]


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])
