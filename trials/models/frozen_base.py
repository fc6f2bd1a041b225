"""A frozen base model: where it comes from, who loads it, what a worker may do with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from trials.config import TrialConfig

if TYPE_CHECKING:
    import torch


class FrozenBase(Protocol):
    """A base model in a worker: loaded once, it carries one adapter at a time."""

    model: Any
    """The model itself, of transformers; an adapter's layers lie on it while there is one."""
    device: torch.device
    dtype: torch.dtype
    """Of the matrix products."""
    load_seconds: float
    activation_bytes_per_token: float
    """See `trials.memory.estimate`; without an adapter."""

    def add_adapter(self, config: TrialConfig) -> Any:
        """Return the base with a new, untrained adapter (a peft model).

        It follows from the trial's seed; the generators are left as that leaves them.

        Raises:
            ConfigError: The backend cannot train such an adapter.
        """

    def recompute_activations(self) -> None:
        """From now on compute activations again in the backward pass, instead of keeping them.

        Until the adapter is removed; may be called in the middle of a training. Slower by about a
        third, in much less memory, with the same result.
        """

    def remove_adapter(self) -> None:
        """Give the base back as it was loaded.

        Raises:
            BaseNotClean: Something of the trial is left; the process must be replaced.
        """

    def nll_sum(self, model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the negative log-likelihood summed over the supervised tokens, in nats.

        Args:
            batch: `input_ids`, `attention_mask`, `labels`, each (batch, sequence), on the host
                and padded on the right; a label is -100 where there is no loss. The first token of
                a row is never a target.

        Returns:
            A float32 scalar on the device. The call does not wait for the device.
        """

    def nll_rows(
        self, model: Any, batch: Mapping[str, torch.Tensor], *, counts_correct: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return `nll_sum` of each row, (batch,) in float64, and, where asked for, how many of its
        supervised tokens are the model's first choice, likewise.

        A backend that knows the sum alone gives it to the first row, and 0 to the others.
        """

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        stop_ids: Sequence[int],
        max_new_tokens: int,
        is_over: Callable[[], bool] = lambda: False,
    ) -> list[list[int]]:
        """Continue each prompt greedily, with the adapter as it is, up to a token of `stop_ids`.

        Args:
            is_over: Asked after each token: whether to end there.

        Returns:
            The new tokens of each, without the one that ended it.
        """


class BaseNotClean(RuntimeError):
    """The frozen base is not what was loaded."""
