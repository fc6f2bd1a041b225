"""Noise on the embeddings while training (NEFTune; Jain et al., 2023, arXiv 2310.05914)."""

from typing import Any

import torch

from trials.data.batches import queued


class EmbeddingNoise:
    """Adds uniform noise to what a model's embedding gives, in training only.

    A row of L tokens gets noise within ± alpha / √(L × width), whether it stands in a padded batch
    or end to end with others.

    Args:
        model: Its input embedding is hooked until `remove`.
        alpha: Scale of the noise.
    """

    def __init__(self, model: Any, alpha: float) -> None:
        self._alpha = alpha
        self._lengths: torch.Tensor = torch.empty(0)
        self._handle = model.get_input_embeddings().register_forward_hook(self._add)

    def expect(self, attention_mask: torch.Tensor) -> None:
        """Tell the lengths of the rows that come next: a mask of (batch, sequence) on the host."""
        self._lengths = attention_mask.sum(dim=1)

    def _add(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        noise = torch.empty_like(output).uniform_(-1, 1)
        return output + noise * queued(self._scale(output), output.device)

    def _scale(self, output: torch.Tensor) -> torch.Tensor:
        """Of each row's noise, on the host: (rows, 1, 1), or (1, tokens, 1) where they lie end to
        end."""
        scale = self._alpha / (self._lengths * output.shape[-1]).sqrt()
        if len(output) == len(scale):
            scale = scale[:, None, None]
        else:
            scale = scale.repeat_interleave(self._lengths)[None, :, None]
        return scale.to(output.dtype)

    def remove(self) -> None:
        self._handle.remove()
