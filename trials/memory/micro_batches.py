"""Which micro-batch fits: halve it when memory runs out, keep the effective batch, remember."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from trials.config import TrialConfig, largest_divisor

Key = tuple[int, int, str, bool, bool]


class DoesNotFit(Exception):
    """Not even one row at a time, with gradient checkpointing, fits into memory."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A way to train a trial in less memory than the one before; none changes the result."""

    micro_batch_size: int
    gradient_checkpointing: bool
    """Whether activations are computed again in the backward pass: about a third slower."""

    def needs_as_much_as(self, other: Attempt) -> bool:
        """Whether this attempt fails where `other` did."""
        if self.gradient_checkpointing != other.gradient_checkpointing:
            return other.gradient_checkpointing
        return self.micro_batch_size >= other.micro_batch_size


@dataclass
class MicroBatchMemory:
    """What a worker has learnt about the batches that its device can hold, for one base model."""

    _failed: dict[Key, Attempt] = field(default_factory=dict)
    _eval_limits: dict[Key, int] = field(default_factory=dict)

    def attempts(self, config: TrialConfig, estimated: int) -> Iterator[Attempt]:
        """Yield attempts, the fastest first; each micro-batch divides a GPU's share of the batch.

        What has run out of memory before is left out, but for the very last resort.

        Args:
            estimated: Rows that are believed to fit; the first attempt holds no more.
        """
        share = config.effective_batch_size // config.gpus_per_trial
        sizes = [largest_divisor(share, config.micro_batch_size)]
        while sizes[-1] > 1:
            sizes.append(largest_divisor(share, sizes[-1] // 2))
        *attempts, last = [
            Attempt(m, checkpointing) for checkpointing in (False, True) for m in sizes
        ]
        for attempt in attempts:
            believed = attempt.gradient_checkpointing or attempt.micro_batch_size <= max(
                estimated, 1
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


def _key(config: TrialConfig) -> Key:
    adapted = config.target_modules, config.experts, config.use_dora
    return config.max_length, config.rank, *adapted


class Fit:
    """How a running trial uses its device's memory: it takes less whenever that has run out."""

    def __init__(self, memory: MicroBatchMemory, config: TrialConfig, estimated: int) -> None:
        self._memory, self._config = memory, config
        self._attempts = memory.attempts(config, estimated)
        self.attempt = next(self._attempts)
        self.eval_batch_size = memory.eval_batch_size(config)

    def go_on_with(self, attempt: Attempt, eval_batch_size: int) -> None:
        """Use what a checkpoint says of the trial's earlier part."""
        self.attempt, self.eval_batch_size = attempt, eval_batch_size
        self._attempts = (
            a
            for a in self._memory.attempts(self._config, attempt.micro_batch_size)
            if not a.needs_as_much_as(attempt)
        )

    def shrink(self) -> bool:
        """Take the next attempt after the present one ran out of memory; False: there is none."""
        print(f"out of memory: {self.attempt}", flush=True)
        self._memory.did_not_fit(self._config, self.attempt)
        following = next(self._attempts, None)
        self.attempt = following or self.attempt
        return following is not None

    def shrink_evaluation(self) -> bool:
        """Halve the evaluation's batch after it ran out of memory; False: it holds one row."""
        print(f"out of memory: evaluation of {self.eval_batch_size} rows at a time", flush=True)
        if self.eval_batch_size == 1:
            return False
        self._memory.evaluation_did_not_fit(self._config, self.eval_batch_size)
        self.eval_batch_size = self._memory.eval_batch_size(self._config)
        return True
