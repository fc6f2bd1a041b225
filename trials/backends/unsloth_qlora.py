"""LoRA and QLoRA with Unsloth's kernels. Import this module before transformers, peft and trl.

Written by the source of Unsloth 2026.10.7; not yet seen on a GPU. The tests run it on a fake one.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trials.backends.own_folder import own_folder
from trials.machine.cache import cache_dir

# Read when unsloth is imported; by default a folder in the working directory, which two workers
# would share. The next worker of this GPU finds what one before has compiled.
if "UNSLOTH_COMPILE_LOCATION" not in os.environ:
    _gpu = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(
        own_folder(cache_dir() / f"unsloth-compiled-{_gpu}")
    )
# Otherwise each load asks the hub for a file that tells its makers of this machine
# (unsloth/models/_utils.py, get_statistics).
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")

from unsloth import FastLanguageModel  # isort: skip
import torch

from trials.backends.adapted import check_adapted
from trials.backends.adapter_layers import draw_weights
from trials.backends.first_pass import first_pass
from trials.backends.loading import compute_dtype
from trials.backends.proof import Proof
from trials.backends.quantised import SHARD, load_quantised
from trials.config import ConfigError, ModelConfig, TrialConfig
from trials.data.batches import queued
from trials.memory.device import give_back_memory
from trials.memory.estimate import activation_bytes_per_token
from trials.models.checkpoint import check_form, config_of, form_in
from trials.models.frozen_base import FrozenBase
from trials.models.lora import lora_settings, take_off_adapter
from trials.models.loss import WholeLoss
from trials.models.sources import local_or_hub
from trials.models.target_modules import find
from trials.models.unsloth_kernels import check_kernels

NO_METRICS = "objective: Unsloth measures only eval loss; write backend: transformers."


def load(config: ModelConfig) -> FrozenBase:
    device = torch.device("cuda", 0)
    dtype = compute_dtype(config.compute_dtype, device)
    tokenizer: Any = None
    found = config_of(config.name, config.revision)
    check_form(config, form_in(found or {}))
    check_kernels(config, found)

    def from_pretrained(name: str, revision: str | None) -> Any:
        nonlocal tokenizer
        model, tokenizer = FastLanguageModel.from_pretrained(
            name,
            max_seq_length=config.max_length,
            dtype=dtype,
            revision=revision,
            load_in_4bit=config.quantization == "nf4",
            load_in_8bit=config.quantization == "int8",
            load_in_16bit=config.quantization == "none",
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,  # other weights are pickles, which can run code
            # Otherwise Unsloth takes a checkpoint of its own in place of the one that is named.
            use_exact_model_name=True,
            # By default it moves the embedding to the host where memory is tight.
            offload_embedding=False,
            # A trial turns it on when it must.
            use_gradient_checkpointing=False,
        )
        return model

    def write(model: Any, folder: Path) -> None:
        model.save_pretrained(folder, max_shard_size=SHARD)
        tokenizer.save_pretrained(folder)  # without one Unsloth does not load a folder

    model = load_quantised(
        config,
        device,
        dtype,
        quantise=lambda: from_pretrained(local_or_hub(config.name), config.revision),
        read=lambda folder: from_pretrained(str(folder), None),
        write=write,
    )
    model.requires_grad_(False)
    base = UnslothBase(model, device, dtype)
    first_pass(base, config)
    return base


class UnslothBase:
    """A frozen base model of Unsloth, with one peft adapter at a time."""

    load_seconds = 0.0

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.model: Any = model
        self.device, self.dtype = device, dtype
        self.activation_bytes_per_token = activation_bytes_per_token(model, WholeLoss())
        self._adapted: Any = None
        self._functions = _own_functions(model)
        self._proof = Proof(model)

    def add_adapter(self, config: TrialConfig) -> Any:
        settings = lora_settings(config, find(self.model, config.target_modules))
        # It prints a line for each name that is more than a leaf, and takes them all.
        with contextlib.redirect_stdout(io.StringIO()):
            self._adapted = FastLanguageModel.get_peft_model(
                self.model,
                **settings,  # DoRA is handed on to peft, without the fast kernels
                use_gradient_checkpointing=False,
                random_state=config.seed,
            )
        check_adapted(self.model, settings["target_modules"])
        draw_weights(self._adapted, config.seed)  # as the other backend does
        return self._adapted

    def recompute_activations(self) -> None:
        # Exactly one hook must be on the embeddings, which Unsloth's reentrant kind needs.
        # `get_peft_model` has put one there (unsloth_zoo/training_utils.py,
        # prepare_model_for_training). `for_training` adds another while the layers have no
        # function for it (unsloth/models/_utils.py, arm_gradient_checkpointing), and the handle of
        # the first is lost.
        self.model.disable_input_require_grads()
        FastLanguageModel.for_training(self._adapted, use_gradient_checkpointing=True)
        self.model.disable_input_require_grads()
        self.model.enable_input_require_grads()

    def remove_adapter(self) -> None:
        # Otherwise Unsloth hands the old adapter to the next trial as it is, not reset.
        if self._adapted is not None:
            self._adapted = None
            self.model.gradient_checkpointing_disable()
            self.model.disable_input_require_grads()
            take_off_adapter(self.model)
            give_back_memory()
            self.model.requires_grad_(False)
            _restore(self.model, self._functions)
        self._proof.check(self.model)

    def nll_sum(self, model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The fused loss makes no logits; divided by one item, it is the sum."""
        is_16_bit = self.dtype is not torch.float32
        names = ("input_ids", "attention_mask", "labels")
        inputs = {name: queued(batch[name], self.device) for name in names}
        with torch.autocast(self.device.type, self.dtype, enabled=is_16_bit):
            output = model(**inputs, num_items_in_batch=1, use_cache=False)
        nll: torch.Tensor = output.loss.float()
        return nll

    def nll_rows(
        self, model: Any, batch: Mapping[str, torch.Tensor], *, counts_correct: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The sum as the first row's: the fused loss makes no logits."""
        if counts_correct:
            raise ConfigError(NO_METRICS)
        of_rows = torch.zeros(len(batch["labels"]), dtype=torch.float64, device=self.device)
        of_rows[0] = self.nll_sum(model, batch)
        return of_rows, None

    def generate(self, prompts: Sequence[Sequence[int]], **_: Any) -> list[list[int]]:
        """Not with Unsloth: its kernels for inference would have to be taken off again."""
        raise ConfigError(NO_METRICS)


_REPLACED = ("forward", "apply_qkv", "apply_o")
"""What `get_peft_model` replaces on modules of the base by its kernels, for good."""


def _own_functions(model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    return {
        path: {name: vars(module)[name] for name in _REPLACED if name in vars(module)}
        for path, module in model.named_modules()
    }


def _restore(model: torch.nn.Module, functions: Mapping[str, Mapping[str, Any]]) -> None:
    for path, module in model.named_modules():
        for name in _REPLACED:
            vars(module).pop(name, None)
        vars(module).update(functions.get(path, {}))
