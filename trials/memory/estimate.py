"""How much memory a trial takes, before it is tried."""

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from trials.config import ModelConfig, TrialConfig
from trials.distributed.group import Group
from trials.memory.device import free_bytes
from trials.memory.one_step import MOST_OPERATIONS, TooLong, peak_bytes
from trials.models.frozen_base import FrozenBase
from trials.models.loss import ChunkedLoss, WholeLoss
from trials.models.quantisation import kept_plain

ADAMW_BYTES = {"adamw": 8.0, "adamw_8bit": 2.0, "paged_adamw_8bit": 2.0}
"""Bytes of optimizer state for each trained parameter: two moments."""
WEIGHT_BYTES = {"nf4": 0.5 + 0.127 / 8, "int8": 1.0}
"""Bytes of a frozen linear weight; NF4 with double quantisation adds 0.127 bits (QLoRA, 3)."""


def activation_bytes_per_token(model: Any, loss: WholeLoss) -> float:
    """Estimate the bytes that one token of a micro-batch keeps on the device in training.

    Of every linear its input and its output in 16 bits, and as much again for norms, rotary
    embeddings, attention and the adapter's own path; the logits, where they are whole, in 16 bits,
    in float32, and their gradient. A rough first guess, without gradient checkpointing, with a
    target at every position. Too low for experts, state-space layers, plain attention and an
    adapter on the head: there a worker may begin with too many rows, and run out of memory once;
    that costs time alone. `peak_bytes` knows better.
    """
    head = model.get_output_embeddings()
    widths = sum(_widths(module) for module in model.modules() if module is not head)
    if isinstance(loss, ChunkedLoss):  # it keeps the gradient of what goes into the head
        of_loss = loss.head.in_features * 2
    else:
        of_loss = model.config.get_text_config().vocab_size * (2 + 4 + 4)
    return float(2 * 2 * widths / 1.5 + of_loss)


def _widths(module: Any) -> int:
    if isinstance(module, Conv1D):  # GPT-2's linear layer
        return int(module.nx + module.nf)
    return module.in_features + module.out_features if isinstance(module, torch.nn.Linear) else 0


@dataclass(frozen=True, slots=True)
class WeightSizes:
    """Of a base model on its device."""

    n_parameters: int
    n_bytes: float
    largest_quantised: int
    """Weights of the largest layer that is quantised: in 16 bits, while it computes."""
    left: dict[str, int]
    """Parameters that quantisation leaves as they are, by the class that holds them; without
    embeddings, the head, norms and biases."""


def weight_sizes(shapes: Any, model: ModelConfig) -> WeightSizes:
    """Size up the base model as transformers loads it; tied weights count once.

    Args:
        shapes: The model on the meta device, without an adapter.
    """
    width = _compute_bytes(model)
    quantised = {id(layer.weight): layer for layer in _quantised(shapes, model)}
    ends = shapes.get_input_embeddings(), shapes.get_output_embeddings()
    embedded = {id(end.weight) for end in ends if end is not None}
    owners = {
        id(weight): type(module).__name__
        for module in shapes.modules()
        for weight in module.parameters(recurse=False)
    }
    n_bytes, left = 0.0, Counter[str]()
    for weight in shapes.parameters():
        if layer := quantised.get(id(weight)):
            scales = 4 * _n_outputs(layer) if model.quantization == "int8" else 0
            n_bytes += weight.numel() * WEIGHT_BYTES[model.quantization] + scales
            continue
        n_bytes += weight.numel() * width
        if weight.dim() > 1 and id(weight) not in embedded:
            left[owners[id(weight)]] += weight.numel()
    return WeightSizes(
        n_parameters=sum(weight.numel() for weight in shapes.parameters()),
        n_bytes=n_bytes,
        largest_quantised=max((layer.weight.numel() for layer in quantised.values()), default=0),
        left=dict(left) if model.quantization != "none" else {},
    )


def _quantised(shapes: Any, model: ModelConfig) -> list[Any]:
    """The layers that transformers hands to bitsandbytes: no subclass of Linear, such as Falcon's,
    and no experts that are one tensor (`replace_with_bnb_linear`)."""
    if model.quantization == "none":
        return []
    own = getattr(shapes.config, "quantization_config", None) or {}
    kept = HfQuantizer.get_modules_to_not_convert(
        shapes, own.get("llm_int8_skip_modules") or kept_plain(shapes), shapes._keep_in_fp32_modules
    )
    embedded = shapes.get_input_embeddings().weight
    return [
        module
        for name, module in shapes.named_modules()
        if _is_quantised_kind(module)
        and should_convert_module(name, kept)
        and module.weight is not embedded  # a tied head is the embedding, whatever was asked
    ]


def _is_quantised_kind(module: Any) -> bool:
    return isinstance(module, Conv1D) or type(module) is torch.nn.Linear


def quantised_weights(shapes: Any, model: ModelConfig) -> set[str]:
    """Name the weights that are quantised."""
    layers = {id(layer.weight) for layer in _quantised(shapes, model)}
    return {name for name, weight in shapes.named_parameters() if id(weight) in layers}


def _n_outputs(layer: Any) -> int:
    return int(layer.weight.shape[1 if isinstance(layer, Conv1D) else 0])


def _compute_bytes(model: ModelConfig) -> int:
    """Bytes of a number of the matrix products."""
    return 4 if model.compute_dtype == "float32" else 2


def estimate(
    adapted: Any,
    model: ModelConfig,
    weights: WeightSizes,
    *,
    optimizer: str,
    micro_batch_size: int,
    max_length: int,
    on_gpu: bool,
) -> dict[str, float]:
    """Estimate the device memory of the largest trial, in GiB, from the shapes of the model alone.

    Args:
        adapted: The model on the meta device with the trial's adapter on it.

    Returns:
        `base_parameters` and `adapter_parameters` (counts); `weights_gib`; `adapter_gib` (float32
        weights, gradients, optimizer); `activations_gib` for one micro-batch of the longest rows
        without gradient checkpointing. An upper guess, since rows are seldom all that long.
    """
    width = _compute_bytes(model)
    n_adapter = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    adapted.to(torch.float32 if width == 4 else torch.bfloat16).train()
    held = _activation_bytes(adapted, micro_batch_size, max_length, on_gpu=on_gpu)
    # While it computes, a quantised layer is whole; autocast keeps the adapter in 16 bits, too.
    held += width * weights.largest_quantised + (2 * n_adapter if width == 2 else 0)
    if model.quantization != "none":
        held += width * _kept_whole(adapted)
    gib = 2.0**30
    return {
        "base_parameters": float(weights.n_parameters),
        "adapter_parameters": float(n_adapter),
        "weights_gib": weights.n_bytes / gib,
        "adapter_gib": n_adapter * (4 + 4 + ADAMW_BYTES[optimizer]) / gib,
        "activations_gib": held / gib,
    }


def _kept_whole(adapted: Any) -> int:
    """Count the quantised weights that peft makes whole, and autograd keeps until the backward
    pass: DoRA with dropout goes through each layer a second time."""
    if not any(about.use_dora and about.lora_dropout for about in adapted.peft_config.values()):
        return 0
    layers = (m.get_base_layer() for m in adapted.modules() if isinstance(m, LoraLayer))
    return sum(m.weight.numel() for m in layers if _is_quantised_kind(m))


def _activation_bytes(adapted: Any, rows: int, length: int, *, on_gpu: bool) -> float:
    def peak(n_tokens: int, at_most: int = MOST_OPERATIONS) -> int:
        return peak_bytes(adapted, rows=rows, length=n_tokens, on_gpu=on_gpu, at_most=at_most)

    try:
        n_modules = sum(1 for _ in adapted.modules())
        with contextlib.suppress(TooLong):
            return peak(length, min(MOST_OPERATIONS, OPERATIONS_OF_A_MODULE * n_modules))
        # It goes through its tokens in a loop, so each of them adds the same.
        short, longer = peak(SHORT), peak(2 * SHORT)
        return short + (length - SHORT) * (longer - short) / SHORT
    # Exception: a model's code may ask for values, which there are none of on the meta device.
    except Exception as error:
        print(f"memory: activations are a rough guess ({type(error).__name__})", flush=True)
        base = adapted.get_base_model()
        return rows * length * activation_bytes_per_token(base, WholeLoss())


OPERATIONS_OF_A_MODULE = 70
"""More tell of a loop over tokens. Llama has 5; linear attention in chunks, on long rows, 20 to
67; RWKV 7 for each token of a row."""
SHORT = 8
"""Tokens of a row that nearly any model gets through."""

FREE_SHARE = 0.9
"""Of the free memory that an estimate may plan with; the rest is for what it does not know."""


def tokens_that_fit(base: FrozenBase, config: TrialConfig, *, n_trained: int, group: Group) -> int:
    """Estimate how many tokens a forward and backward pass can hold, on the fullest device.

    Args:
        n_trained: Parameters of the adapter, whose gradients and optimizer state come yet.
    """
    state = n_trained * (4 + ADAMW_BYTES[config.optimizer])
    free = FREE_SHARE * free_bytes(base.device) - state
    return int(group.smallest(free) // base.activation_bytes_per_token)
