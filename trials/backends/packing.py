"""How the rows of a micro-batch lie in a forward pass: padded side by side, or end to end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trials.data.tokens import IGNORED

Batch = Mapping[str, torch.Tensor]
"""`input_ids`, `attention_mask`, `labels`: each (rows, longest row), on the host, padded right."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A micro-batch as a model takes it. All tensors are on the host."""

    inputs: Mapping[str, Any]
    """Keyword arguments of the model."""
    predicting: torch.Tensor
    """Positions of the sequence whose logits are made, (positions,): they predict some target."""
    kept: torch.Tensor
    """Of the logits (rows × positions, vocabulary), those that predict a target, (targets,)."""
    targets: torch.Tensor
    """Token ids, (targets,)."""
    rows: torch.Tensor
    """Of which row of the batch each target is, (targets,)."""


def padded(batch: Batch) -> Layout:
    """Lay the rows side by side, (rows, longest row).

    Without a mask: in causal attention no token sees the padding on its right, and attention
    without a mask has the fastest kernels.
    """
    targets = batch["labels"][:, 1:]
    supervised = targets != IGNORED
    # Logits are made only where some row has a target: over a vocabulary of 50,000 and more they
    # are the largest tensor of a step, and prompts need none of them.
    predicting = supervised.any(dim=0).nonzero().squeeze(1)
    return Layout(
        inputs={"input_ids": batch["input_ids"]},
        predicting=predicting,
        kept=supervised[:, predicting].flatten().nonzero().squeeze(1),
        targets=targets[supervised],
        rows=supervised.nonzero()[:, 0],
    )


def packed(batch: Batch, *, name_bounds: bool) -> Layout:
    """Lay the rows end to end in one sequence, (1, tokens), whose positions begin anew with each.

    Where positions begin anew, transformers keeps a token from seeing the rows before its own.

    Args:
        name_bounds: Whether to say where the rows begin and end, as flash attention takes it; it
            would else ask the device in every layer.
    """
    is_token = batch["attention_mask"].bool()
    lengths = is_token.sum(dim=1)
    position_ids = (is_token.cumsum(dim=1) - 1)[is_token]
    labels = batch["labels"][is_token]
    # The last token of a row must not predict the first of the next.
    labels[position_ids == 0] = IGNORED
    predicting = (labels[1:] != IGNORED).nonzero().squeeze(1)
    inputs: dict[str, Any] = {
        "input_ids": batch["input_ids"][is_token][None],
        "position_ids": position_ids[None],
    }
    if name_bounds:
        bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        longest = int(lengths.max())
        inputs |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
        inputs |= {"max_length_q": longest, "max_length_k": longest}
    return Layout(
        inputs=inputs,
        predicting=predicting,
        kept=torch.arange(len(predicting)),
        targets=labels[predicting + 1],
        rows=is_token.nonzero()[predicting + 1, 0],
    )


@dataclass(frozen=True, slots=True)
class ForwardCost:
    """What decides how much a forward pass has to compute."""

    linear_weights: int
    """Weights of all linear layers but the head's."""
    attention_width: int
    """Heads × width of a head, summed over the layers."""
    attention_slowness: float
    """How much longer an operation takes in attention than in a linear layer."""

    @classmethod
    def of(cls, model: Any) -> ForwardCost:
        """Read it off a model of transformers."""
        head = model.get_output_embeddings()
        return cls(
            linear_weights=sum(
                module.in_features * module.out_features
                for module in model.modules()
                if isinstance(module, torch.nn.Linear) and module is not head
            ),
            attention_width=_attention_width(model),
            # Measured with SmolLM2 on a processor with AVX-512, in bfloat16; a GPU's are as fast.
            attention_slowness=3.0 if model.device.type == "cpu" else 1.0,
        )

    def flops(self, tokens: int, context: float) -> float:
        """Floating-point operations of a forward pass over `tokens` tokens in all.

        tokens × (2 × linear_weights + 4 × attention_width × context): a multiplication and an
        addition for each weight, and for each pair of a query and a key, once for their product
        and once for the weighted sum of values (Kaplan et al., 2020, arXiv 2001.08361, table 1).

        Args:
            context: Keys that the attention kernel goes through for each query, on average.
        """
        return tokens * (2.0 * self.linear_weights + 4.0 * self.attention_width * context)

    def packing_is_cheaper(self, attention_mask: torch.Tensor) -> bool:
        """Whether rows end to end cost less than padded ones, where attention takes a dense mask.

        Padded rows need no mask, so the causal kernel skips the later half of the keys; under a
        mask of all tokens by all tokens every key counts, those of other rows too.

        Args:
            attention_mask: (rows, longest row).
        """
        rows, longest = attention_mask.shape
        tokens = int(attention_mask.sum())
        if tokens == rows * longest or tokens > LONGEST_PACKED:
            return False
        slow = self.attention_slowness
        return self.flops(tokens, slow * tokens) < self.flops(rows * longest, slow * longest / 2)


def _attention_width(model: Any) -> int:
    """Heads × width of a head, summed over the layers.

    Where a configuration lacks such a number, or lists many, the embedding's width stands for
    them: an estimate of a cost must not end a worker.
    """
    config = model.config.get_text_config()
    layers = [config] * (_number(config, "num_hidden_layers") or 1)
    if getattr(config, "is_heterogeneous", False):  # Gemma 4, whose heads differ in width
        layers = config.per_layer_config
    width = 0
    for layer in layers:
        heads, of_head = _number(layer, "num_attention_heads"), _number(layer, "head_dim")
        known = heads * of_head if heads and of_head else None
        width += known or model.get_input_embeddings().embedding_dim
    return width


def _number(config: Any, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else None


LONGEST_PACKED = 8192
"""Tokens end to end under a dense mask: in 16 bits it then has 128 MiB."""
