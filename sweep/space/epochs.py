"""Epochs as a by-product: at a constant learning rate a run passes through every shorter one."""

from collections.abc import Mapping

from sweep.space.domains import Choices, Domain, Range, TimesRank, is_fixed

PASSES_THROUGH = "constant"
"""The schedule under which a run of 3 epochs has been, after 1, what a run of 1 epoch ends as: but
for the warm-up, a share of all steps. warmup_stable_decay falls at the end of a run alone, so the
shorter runs would each need their own end."""


def passed_through(domains: Mapping[str, Domain]) -> Domain | None:
    """Return the epochs that need no runs of their own; None: each number does.

    A trial is worth its best evaluation and keeps that adapter, so that the run to the most epochs
    is worth at least what a shorter one is, to within the space between two evaluations.
    """
    scheduler, epochs = domains["lr_scheduler"], domains["epochs"]
    is_constant = isinstance(scheduler, Choices) and scheduler.values == (PASSES_THROUGH,)
    return epochs if is_constant and not is_fixed(epochs) else None


def most(epochs: Domain) -> Choices:
    """The longest run alone."""
    assert not isinstance(epochs, TimesRank)
    value = epochs.high if isinstance(epochs, Range) else max(epochs.values, key=float)
    return Choices((value,))


def epochs_text(epochs: Domain) -> str:
    """What becomes of the epochs that were searched."""
    longest = most(epochs).values[0]
    return (
        f"epochs: {longest:g} in every trial: at a constant learning rate it also covers {epochs}, "
        f"and counts by its best evaluation"
    )
