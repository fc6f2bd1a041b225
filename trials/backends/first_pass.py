"""A pass that is thrown away: what kernels then take of a device, they keep."""

from __future__ import annotations

import torch

from trials.config import ConfigError, ModelConfig, TrialConfig
from trials.memory.device import give_back_memory, is_out_of_memory
from trials.models.frozen_base import FrozenBase


def first_pass(base: FrozenBase, model: ModelConfig) -> None:
    """Go forward and backward through a row of `max_length`, with an adapter on all linears.

    Unsloth keeps its largest dequantised weight in a global of a module, and the positions of as
    many tokens as it has seen (unsloth/kernels/utils.py, _scratch; unsloth/models/llama.py,
    _build_rope_cache): 128 MiB at 8B, which are no trial's leak.
    """
    try:
        adapted = base.add_adapter(_thrown_away(model))
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


def _thrown_away(model: ModelConfig) -> TrialConfig:
    return TrialConfig(
        number=0,
        model=model,
        data_dir="",
        output_dir="",
        rank=8,
        alpha=8.0,
        learning_rate=1e-4,
        epochs=1.0,
        effective_batch_size=1,
        gpus_per_trial=1,
        micro_batch_size=1,
        eval_batch_size=1,
        max_length=model.max_length,
        dropout=0.0,
        warmup_ratio=0.0,
        weight_decay=0.0,
        lr_scheduler="constant",
        optimizer="adamw",
        max_grad_norm=1.0,
        target_modules="all-linear",
        use_rslora=False,
        use_dora=False,
        neftune_alpha=0.0,
        n_evaluations=1,
        evaluate_base=False,
        checkpoint_minutes=0.0,
        stall_minutes=0.0,
        seed=0,
    )
