"""What should be known of the GPUs before trials take them: who uses them, what fits on which."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from trials.machine.cards import Card, NoAnswer, cards, gib, visible, without


def card_notes(report: Mapping[str, Any], gpus_per_trial: float) -> list[str]:
    """Say who else uses GPUs of this machine, and which are too small; nothing of a cluster's.

    Args:
        report: Of `trials.preparation.prepare`, with its estimate of memory.
    """
    if "RAY_ADDRESS" in os.environ:
        return []
    try:
        found = visible(cards() or [])
    except NoAnswer as error:
        return [f"The driver of the GPUs does not answer: {error}"]
    memory = report["memory"]
    needed = memory["weights_gib"] + memory["adapter_gib"]
    whole = needed + memory["activations_gib"]
    share = min(1.0, gpus_per_trial)
    return [*_users(found), *_too_small(found, needed / share, whole / share)]


def _users(found: Sequence[Card]) -> list[str]:
    return [
        f"{card.in_words}: {users}; {gib(card.free_mib)} of {gib(card.total_mib)} are left. "
        f"End it, or {without(card, found)}."
        for card in found
        if (users := card.users) is not None
    ]


def _too_small(found: Sequence[Card], needed: float, whole: float) -> list[str]:
    """Compare what is free with the largest trials of a GPU.

    Args:
        needed: GiB of what no smaller micro-batch saves; `whole`: with one as it is set.
    """
    free = {card: card.free_mib / 1024 for card in found if card.free_mib is not None}
    fits = [card for card, there in free.items() if there > needed]
    notes = []
    if len(fits) < len(free):
        small = ", ".join(f"{c.in_words} with {free[c]:.1f}" for c in free if c not in fits)
        names = ",".join(str(card.index) for card in fits)
        mend = (
            f"Trials begin on whichever GPU is free; CUDA_VISIBLE_DEVICES={names} keeps them on "
            f"those that hold all."
            if fits
            else "Search smaller ranks, lower quantization, or free memory."
        )
        notes.append(
            f"Weights and adapter of the largest trials take {needed:.1f} GiB, more than is free "
            f"on {small}: they end there as out_of_memory. {mend}"
        )
    tight = [card for card in fits if free[card] <= whole]
    if tight and len(tight) < len(fits):
        names = ", ".join(card.in_words for card in tight)
        notes.append(f"The largest trials take smaller micro-batches on {names}, at the same loss.")
    return notes


CONTEXT_GIB = 0.5
"""What CUDA takes of a GPU beside torch."""


def room_gib(gpus_per_trial: float, *, n_workers: int | None) -> float | None:
    """Return what a worker of this machine may hold once others have ended; None: not known.

    Args:
        n_workers: That share the host's memory; None: workers have GPUs.
    """
    if "RAY_ADDRESS" in os.environ:
        return None
    if n_workers is not None:
        return float(psutil.virtual_memory().total) / 2**30 / n_workers
    try:
        found = visible(cards() or [])
    except NoAnswer:
        return None
    sizes = [card.total_mib for card in found if card.total_mib is not None]
    return min(1.0, gpus_per_trial) * min(sizes) / 1024 - CONTEXT_GIB if sizes else None
