"""The optimizer and the learning rate of each step."""

import ctypes
import math
from collections.abc import Mapping
from typing import Any

import bitsandbytes
import torch
from bitsandbytes import functional
from bitsandbytes.functional import GlobalPageManager
from transformers import get_scheduler

from trials.config import TrialConfig
from trials.models.presets import DECAY_SHARE, SCHEDULERS


def make_optimizer(
    config: TrialConfig, trained: Mapping[str, torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """Return AdamW over an adapter's parameters; DoRA's magnitudes are not decayed towards 0."""
    decayed = [p for name, p in trained.items() if "lora_magnitude_vector" not in name]
    others = [p for name, p in trained.items() if "lora_magnitude_vector" in name]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": config.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    if config.optimizer == "adamw":
        # An adapter is hundreds of small tensors: one kernel for all of them, on processors too.
        return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    in_8_bits = bitsandbytes.optim.AdamW8bit
    if config.optimizer == "paged_adamw_8bit":
        in_8_bits = bitsandbytes.optim.PagedAdamW8bit
    optimizer: torch.optim.Optimizer = in_8_bits(groups, lr=config.learning_rate)
    return optimizer


def give_back_pages() -> None:
    """Free the pages of a trial's optimizer, which nothing may use any more.

    bitsandbytes keeps them in a list of the process (optim/optimizer.py, get_state_buffer), and
    frees them nowhere (functional.py, get_paged): up to 2 bytes for each trained parameter.
    """
    pages = GlobalPageManager.get_instance().paged_tensors
    for page in pages:
        if torch.version.cuda and getattr(page, "is_paged", False):
            # Of the CUDA runtime that bitsandbytes' library is linked to; it waits for the device.
            functional.lib.cudaFree(ctypes.c_void_p(page.data_ptr()))
    pages.clear()


def make_schedule(
    config: TrialConfig, optimizer: torch.optim.Optimizer, n_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the schedule of a run of `n_steps`, at its first step."""
    decay = {"num_decay_steps": math.ceil(n_steps * DECAY_SHARE)}
    schedule: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
        SCHEDULERS[config.lr_scheduler],
        optimizer,
        # Rounded down: rounded up, as a ratio is, the first step of a short run has rate 0.
        num_warmup_steps=int(config.warmup_ratio * n_steps),
        num_training_steps=n_steps,
        scheduler_specific_kwargs=decay if config.lr_scheduler == "warmup_stable_decay" else None,
    )
    return schedule


def restore_schedule(schedule: torch.optim.lr_scheduler.LRScheduler, state: dict[str, Any]) -> None:
    """Set a schedule, and its optimizer's rates, to an earlier `state_dict`."""
    schedule.load_state_dict(state)
    for group, rate in zip(schedule.optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate
