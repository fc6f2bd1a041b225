"""A pass that is thrown away: what kernels then take of a device, they keep."""

from __future__ import annotations

import torch

from trials.config import ConfigError, ModelConfig, short_trial
from trials.memory.device import give_back_memory, is_out_of_memory
from trials.models.frozen_base import FrozenBase


def first_pass(base: FrozenBase, model: ModelConfig) -> None:
    """Go forward and backward through a row of `max_length`, with an adapter on all linears.

    Unsloth keeps its largest dequantised weight in a global of a module, and the positions of as
    many tokens as it has seen (unsloth/kernels/utils.py, _scratch; unsloth/models/llama.py,
    _build_rope_cache): 128 MiB at 8B, which are no trial's leak.
    """
    try:
        adapted = base.add_adapter(short_trial(model))
    except ConfigError:  # no linear layer by name: the first trial takes the pass's place
        base.remove_adapter()
        return
    adapted.train()
    if not _fits(base, adapted, model.max_length):
        give_back_memory()
        base.recompute_activations()
        _fits(base, adapted, model.max_length)  # if not, each trial will say so
    del adapted
    base.remove_adapter()


def _fits(base: FrozenBase, adapted: torch.nn.Module, n_tokens: int) -> bool:
    ids = torch.zeros(1, n_tokens, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    try:
        torch.autograd.backward(base.nll_sum(adapted, batch))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        adapted.zero_grad()
    return True
