"""LoRA and QLoRA with transformers, peft and bitsandbytes, on CUDA and on processors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from trials.base_model import TARGET_MODULES, compute_dtype, local_or_hub
from trials.config import ModelConfig, TrialConfig
from trials.data import IGNORED
from trials.proof import Proof, forget_adapter


def load(config: ModelConfig) -> TransformersBase:
    """Load and quantise the base model onto this process's only device."""
    began = time.perf_counter()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    dtype = compute_dtype(device)
    model = AutoModelForCausalLM.from_pretrained(
        local_or_hub(config.name),
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        dtype=dtype,
        device_map={"": device},
        quantization_config=_quantization(config, dtype),
    )
    model.requires_grad_(False)
    _keep_cpu_kernels_differentiable(model)
    return TransformersBase(model, device, dtype, time.perf_counter() - began)


def _quantization(config: ModelConfig, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if config.quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return None


def _keep_cpu_kernels_differentiable(model: torch.nn.Module) -> None:
    """Turn off a kernel of bitsandbytes that breaks training after the first evaluation.

    On a CPU with AVX512-BF16, `Linear4bit` repacks its weight in place in the first forward pass
    without gradients, and from then on uses a kernel that has no backward pass.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


class TransformersBase:
    """A frozen base model of transformers, with one peft adapter at a time."""

    def __init__(
        self, model: Any, device: torch.device, dtype: torch.dtype, load_seconds: float
    ) -> None:
        self.device = device
        self.load_seconds = load_seconds
        self._base = model
        self._dtype = dtype
        self._adapted: Any = None
        self._proof = Proof(model)

    def add_adapter(self, config: TrialConfig, *, gradient_checkpointing: bool) -> Any:
        """Return the base with a new, untrained adapter. Seed the generators first."""
        modules = TARGET_MODULES[config.target_modules]
        lora = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            use_rslora=config.use_rslora,
            target_modules=modules,
            bias="none",
            task_type="CAUSAL_LM",
        )
        self._adapted = get_peft_model(self._base, lora)
        if gradient_checkpointing:
            self._base.gradient_checkpointing_enable({"use_reentrant": False})
        return self._adapted

    def remove_adapter(self) -> None:
        """Give the base back as it was loaded; raise `BaseNotClean` where that cannot be shown."""
        if self._adapted is not None:
            self._base = self._adapted.unload()
            self._adapted = None
            self._base.gradient_checkpointing_disable()
        forget_adapter(self._base)
        self._proof.check(self._base)

    def nll_sum(self, model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the negative log-likelihood summed over the supervised tokens, in nats."""
        targets = batch["labels"][:, 1:]
        supervised = targets != IGNORED
        # Logits are made only where some row of the batch has a target: over a vocabulary of 50,000
        # and more they are the largest tensor of a step, and prompts need none of them.
        positions = supervised.any(dim=0).nonzero().squeeze(1)
        with torch.autocast(self.device.type, self._dtype):
            output = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                logits_to_keep=positions,
                use_cache=False,
            )
        kept = supervised[:, positions]  # (batch, positions)
        logits = output.logits[kept].float()  # (supervised tokens, vocabulary)
        return F.cross_entropy(logits, targets[:, positions][kept], reduction="sum")
