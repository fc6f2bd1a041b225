"""The proof that a frozen base model is what was loaded, after a trial has used it."""

from __future__ import annotations

import gc

import torch

from trials.base_model import BaseNotClean


class Proof:
    """Remembers a base model as it was loaded."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._module_names = {name for name, _ in model.named_modules()}
        self._checksum = checksum(model)

    def check(self, model: torch.nn.Module) -> None:
        """Compare `model` with what was loaded.

        Raises:
            BaseNotClean: A module, a trainable parameter or a changed weight is left.
        """
        names = {name for name, _ in model.named_modules()}
        if names != self._module_names:
            left = sorted(names ^ self._module_names)[:3]
            raise BaseNotClean(f"modules differ from the loaded base model's: {left}")
        trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        if trainable:
            raise BaseNotClean(f"parameters are still trainable: {trainable[:3]}")
        if checksum(model) != self._checksum:
            raise BaseNotClean("frozen weights have changed")


def forget_adapter(model: torch.nn.Module) -> None:
    """Delete what peft and transformers write onto a base model and `unload` leaves there."""
    for left_over in ("peft_config", "_hf_peft_config_loaded", "forward"):
        model.__dict__.pop(left_over, None)
    model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def checksum(model: torch.nn.Module) -> int:
    """Return a number that changes when a bit of a parameter or buffer does; device-side."""
    total = 0
    for tensor in (*model.parameters(), *model.buffers()):
        flat = tensor.detach().contiguous().view(-1)
        if flat.numel():
            total += int(flat.view(torch.uint8).sum(dtype=torch.int64))
    return total
