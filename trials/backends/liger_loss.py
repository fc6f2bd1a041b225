"""Liger's kernel for the loss: one launch, and no logits in float32.

Written by the source of Liger 0.8.5; not yet seen on a GPU. Its own loss in chunks is not used: it
waits for the device at each call.
"""

from __future__ import annotations

import torch

LARGEST_BLOCK = 2**15
"""Logits that a program of the kernel takes at once (liger_kernel/ops/cross_entropy.py)."""


def liger_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, wants_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `trials.models.loss.CrossEntropy`. The gradient is written over the logits.

    Raises:
        ImportError: Liger is not installed; what Triton raises where it does not work.
    """
    import triton
    from liger_kernel.ops.cross_entropy import liger_cross_entropy_kernel

    nlls = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
    if not len(targets):
        return nlls, logits
    n_tokens = logits.shape[1]
    nothing = dict.fromkeys(
        ["weight_ptr", "z_loss_ptr", "token_accuracy_ptr", "predicted_tokens_ptr", "softcap"]
    )
    liger_cross_entropy_kernel[(len(targets),)](
        X_ptr=logits,
        X_stride=logits.stride(0),
        Y_ptr=targets,
        Y_stride=targets.stride(0),
        loss_ptr=nlls,
        loss_stride=1,
        token_accuracy_stride=0,
        predicted_tokens_stride=0,
        n_cols=n_tokens,
        # Of means and weights, which there are none of.
        n_non_ignore=1,
        sum_non_ignore_weight=1,
        weight_sum=0.0,
        ignore_index=-100,
        lse_square_scale=0.0,
        label_smoothing=0.0,
        reduction="sum",
        RETURN_Z_LOSS=False,
        RETURN_TOKEN_ACCURACY=False,
        RETURN_PREDICTED_TOKENS=False,
        HAS_WEIGHT=False,
        HAS_SOFTCAPPING=False,
        HAS_GRADIENTS=wants_gradient,
        BLOCK_SIZE=min(LARGEST_BLOCK, triton.next_power_of_2(n_tokens)),
        num_warps=32,
        **nothing,
    )
    return nlls, logits
