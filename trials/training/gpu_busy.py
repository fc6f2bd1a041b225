"""The share of time in which a trial's GPU computed, as its driver tells it."""

from __future__ import annotations

import threading
from statistics import fmean
from typing import Any

import torch

SECONDS = 1.0
"""Between two samples. NVML looks back as far, at most."""


class GpuBusy:
    """Samples a card in a thread of its own, so that training never waits.

    A sample is the share of its time in which any kernel ran, of whichever process. Nothing is
    known of a processor, of a slice of MIG, and where NVML does not answer.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ended = threading.Event()
        self._shares: list[float] = []

    def begin(self) -> None:
        """Training begins, or goes on."""
        self._ended, self._shares = threading.Event(), []
        if self._device.type == "cuda":
            given = (self._device, self._shares, self._ended)
            threading.Thread(target=_sample, args=given, daemon=True, name="gpu-busy").start()

    def take(self) -> float | None:
        """Return the share since `begin`, and sample no more."""
        self._ended.set()
        return fmean(self._shares) if self._shares else None


def _card(device: torch.device) -> Any:
    """NVML's handle, by the card's UUID: its numbers know nothing of CUDA_VISIBLE_DEVICES."""
    import pynvml

    try:
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        return None


def _sample(device: torch.device, shares: list[float], ended: threading.Event) -> None:
    try:
        import pynvml
    except ImportError:
        return
    card = _card(device)  # here, since a driver in trouble may not answer at all
    while card is not None and not ended.wait(SECONDS):
        try:
            percent = pynvml.nvmlDeviceGetUtilizationRates(card).gpu
        except pynvml.NVMLError:  # not of a card in slices
            return
        shares.append(percent / 100)
