"""LoRA and QLoRA with Unsloth's kernels. Import this module before transformers, peft and trl.

Written by the source of Unsloth 2026.10.7; not yet seen on a GPU, and it runs nowhere else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from platformdirs import user_cache_path

# Read when unsloth is imported. By default it is a folder in the working directory, which two
# workers would share.
os.environ.setdefault(
    "UNSLOTH_COMPILE_LOCATION", str(user_cache_path("sweep") / f"unsloth-compiled-{os.getpid()}")
)

from unsloth import FastLanguageModel  # isort: skip
import torch

from trials.base_model import TARGET_MODULES, compute_dtype, local_or_hub
from trials.config import ModelConfig, TrialConfig
from trials.proof import Proof, forget_adapter


def load(config: ModelConfig) -> UnslothBase:
    """Load and quantise the base model onto this process's only device."""
    began = time.perf_counter()
    device = torch.device("cuda", 0)
    model, _ = FastLanguageModel.from_pretrained(
        local_or_hub(config.name),
        max_seq_length=config.max_length,
        revision=config.revision,
        load_in_4bit=config.quantization == "nf4",
        load_in_16bit=config.quantization == "none",
        trust_remote_code=config.trust_remote_code,
        # Otherwise Unsloth takes a checkpoint of its own in place of the one that is named.
        use_exact_model_name=True,
    )
    model.requires_grad_(False)
    return UnslothBase(model, device, time.perf_counter() - began)


class UnslothBase:
    """A frozen base model of Unsloth, with one peft adapter at a time."""

    def __init__(self, model: Any, device: torch.device, load_seconds: float) -> None:
        self.device = device
        self.load_seconds = load_seconds
        self._base = model
        self._adapted: Any = None
        self._proof = Proof(model)

    def add_adapter(self, config: TrialConfig, *, gradient_checkpointing: bool) -> Any:
        """Return the base with a new, untrained adapter."""
        self._adapted = FastLanguageModel.get_peft_model(
            self._base,
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,  # above 0 Unsloth leaves its fast kernels, and says so
            use_rslora=config.use_rslora,
            target_modules=TARGET_MODULES[config.target_modules],
            bias="none",
            use_gradient_checkpointing="unsloth" if gradient_checkpointing else False,
            random_state=config.seed,
        )
        return self._adapted

    def remove_adapter(self) -> None:
        """Give the base back as it was loaded; raise `BaseNotClean` where that cannot be shown.

        Without it, Unsloth hands the old adapter to the next trial as it is, not reset.
        """
        if self._adapted is not None:
            self._base = self._adapted.unload()
            self._adapted = None
            self._base.requires_grad_(False)
        forget_adapter(self._base)
        self._proof.check(self._base)

    def nll_sum(self, model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the negative log-likelihood summed over the supervised tokens, in nats.

        Unsloth's fused loss makes no logits; divided by one item, it is the sum.
        """
        with torch.autocast(self.device.type, compute_dtype(self.device)):
            output = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                labels=batch["labels"],
                num_items_in_batch=1,
                use_cache=False,
            )
        nll: torch.Tensor = output.loss.float()
        return nll
