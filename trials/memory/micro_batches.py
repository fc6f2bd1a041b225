"""Which micro-batch fits: halve it when memory runs out, keep the effective batch, remember."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from trials.config import TrialConfig
from trials.memory.device import give_back_memory, is_out_of_memory

T = TypeVar("T")

Key = tuple[int, int, str, bool, bool]


class DoesNotFit(Exception):
    """Not even one row at a time, with gradient checkpointing, fits into memory."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A way to train a trial in less memory than the one before; none changes the result."""

    tokens: int
    """Of a micro-batch, as `trials.data.batches` counts them."""
    gradient_checkpointing: bool
    """Whether activations are computed again in the backward pass: about a third slower."""

    def needs_as_much_as(self, other: Attempt) -> bool:
        """Whether this attempt fails where `other` did."""
        if self.gradient_checkpointing != other.gradient_checkpointing:
            return other.gradient_checkpointing
        return self.tokens >= other.tokens


@dataclass
class MicroBatchMemory:
    """What a worker has learnt about the batches that its device can hold, for one base model."""

    _failed: dict[Key, Attempt] = field(default_factory=dict)
    _eval_limits: dict[Key, int] = field(default_factory=dict)

    def attempts(
        self, config: TrialConfig, *, longest_row: int, estimated: int
    ) -> Iterator[Attempt]:
        """Yield attempts, the fastest first, down to one row at a time.

        What has run out of memory before is left out, but for the very last resort.

        Args:
            longest_row: Tokens of the longest row.
            estimated: Tokens that are believed to fit; the first attempt holds no more.
        """
        sizes = [longest_row * min(config.micro_batch_size, config.rows_of_a_gpu)]
        while sizes[-1] > longest_row:
            sizes.append(max(sizes[-1] // 2, longest_row))
        *attempts, last = [
            Attempt(tokens, checkpointing) for checkpointing in (False, True) for tokens in sizes
        ]
        for attempt in attempts:
            believed = attempt.gradient_checkpointing or attempt.tokens <= max(
                estimated, longest_row
            )
            failed = self._failed.get(_key(config))
            if believed and (failed is None or not attempt.needs_as_much_as(failed)):
                yield attempt
        yield last

    def did_not_fit(self, config: TrialConfig, attempt: Attempt) -> None:
        """Remember that this attempt ran out of memory, so that no later trial makes it."""
        self._failed[_key(config)] = attempt

    def eval_batch_size(self, config: TrialConfig) -> int:
        """Rows of an evaluation's forward pass: the study's own, unless it did not fit before."""
        return min(config.eval_batch_size, self._eval_limits.get(_key(config), 2**31))

    def evaluation_did_not_fit(self, config: TrialConfig, size: int) -> None:
        """Remember that evaluation batches of `size` rows do not fit: later ones hold half."""
        self._eval_limits[_key(config)] = max(1, size // 2)

    def evaluated(self, config: TrialConfig, evaluate: Callable[[int], T]) -> T:
        """Return what `evaluate` makes of the largest batch, in rows, that fits."""
        while True:
            size = self.eval_batch_size(config)
            try:
                return evaluate(size)
            except Exception as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
            self.evaluation_did_not_fit(config, size)
            give_back_memory()


def _key(config: TrialConfig) -> Key:
    adapted = config.target_modules, config.experts, config.use_dora
    return config.max_length, config.rank, *adapted


class Fit:
    """How a running trial uses its device's memory: it takes less whenever that has run out."""

    def __init__(
        self, memory: MicroBatchMemory, config: TrialConfig, *, longest_row: int, estimated: int
    ) -> None:
        self._memory, self._config, self._longest_row = memory, config, longest_row
        self._attempts = memory.attempts(config, longest_row=longest_row, estimated=estimated)
        self.attempt = next(self._attempts)
        self.most_rows = 0
        """That a micro-batch of the present attempt has held."""
        self.eval_batch_size = memory.eval_batch_size(config)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "tokens": self.attempt.tokens,
            "gradient_checkpointing": self.attempt.gradient_checkpointing,
            "most_rows": self.most_rows,
            "eval_batch_size": self.eval_batch_size,
        }

    def go_on_with(self, state: Mapping[str, Any]) -> None:
        """Use what a checkpoint says of the trial's earlier part."""
        self.attempt = Attempt(state["tokens"], state["gradient_checkpointing"])
        self.most_rows, self.eval_batch_size = state["most_rows"], state["eval_batch_size"]
        self._attempts = self._below(self.attempt)

    def _below(self, attempt: Attempt) -> Iterator[Attempt]:
        attempts = self._memory.attempts(
            self._config, longest_row=self._longest_row, estimated=attempt.tokens
        )
        return (a for a in attempts if not a.needs_as_much_as(attempt))

    def shrink(self, tokens: int | None = None) -> bool:
        """Take the next attempt after the present one ran out of memory; False: there is none.

        Args:
            tokens: Of the micro-batch that did not fit; None: the memory was for something else.
        """
        failed = replace(self.attempt, tokens=tokens or self.attempt.tokens)
        print(f"out of memory: {failed}", flush=True)
        self._memory.did_not_fit(self._config, failed)
        following = next((a for a in self._attempts if not a.needs_as_much_as(failed)), None)
        self.attempt, self.most_rows = following or self.attempt, 0
        return following is not None

    def shrink_evaluation(self) -> bool:
        """Halve the evaluation's batch after it ran out of memory; False: it holds one row."""
        print(f"out of memory: evaluation of {self.eval_batch_size} rows at a time", flush=True)
        if self.eval_batch_size == 1:
            return False
        self._memory.evaluation_did_not_fit(self._config, self.eval_batch_size)
        self.eval_batch_size = self._memory.eval_batch_size(self._config)
        return True
