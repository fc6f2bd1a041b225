"""Optimizer steps that float16 has cost: gradients that were not finite are left out."""

import torch

SETTLING_STEPS = 50
"""In which the scaler finds a scale that fits; it begins far too high."""
MOST_IN_A_ROW = 20
MOST_LATER = 0.1
"""Share of the steps after `SETTLING_STEPS`."""


class SkippedSteps:
    """Counts them on the device, so that training does not wait for it."""

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(4, dtype=torch.int64, device=device)
        """In all, after `SETTLING_STEPS`, in a row until now, the most in a row."""
        self._n_steps = 0

    def add(self, grad_norm: torch.Tensor) -> None:
        """Take a step's norm: where it is not finite, the scaler has left the step out."""
        self._n_steps += 1
        is_late = self._n_steps > SETTLING_STEPS
        skipped = (~torch.isfinite(grad_norm)).long()
        n, n_late, now, most = self._counts
        now = (now + 1) * skipped
        self._counts = torch.stack(
            [n + skipped, n_late + skipped * is_late, now, torch.maximum(most, now)]
        )

    def in_words(self) -> str | None:
        """Say how many were skipped; None: none."""
        n = int(self._counts[0])
        return f"{n} of {self._n_steps} steps were skipped, {_WHY}." if n else None

    def reason(self, *, is_last: bool) -> str | None:
        """Say why the trial counts as diverged, or None.

        Args:
            is_last: Whether no further step comes.
        """
        n, n_late, _, most = self._counts.tolist()
        steps_late = self._n_steps - SETTLING_STEPS
        if most > MOST_IN_A_ROW:
            what = f"{most} steps in a row"
        elif n_late > max(1, MOST_LATER * steps_late):
            what = f"{n_late} of the {steps_late} steps after the first {SETTLING_STEPS}"
        elif is_last and n == self._n_steps > 0:
            what = f"All {n} steps"
        else:
            return None
        return f"{what} were skipped, {_WHY}. {_MEND}"

    def state(self) -> list[int]:
        """Return what a checkpoint keeps."""
        return [self._n_steps, *self._counts.tolist()]

    def restore(self, state: list[int]) -> None:
        self._n_steps, *counts = state
        self._counts.copy_(torch.tensor(counts))


_WHY = "since gradients were not finite in float16"
_MEND = "Write compute_dtype: float32, or use a GPU that has bfloat16."
