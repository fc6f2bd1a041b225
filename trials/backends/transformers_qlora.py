"""LoRA and QLoRA with transformers, peft and bitsandbytes, on CUDA and on processors."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoConfig, FineGrainedFP8Config, Mxfp4Config

from trials.backends.adapter_layers import SpareLayers, draw_weights
from trials.backends.attention import BOUNDED, choose_attention
from trials.backends.continuing import Continuing
from trials.backends.first_pass import first_pass
from trials.backends.known_rows import rows_known
from trials.backends.loading import compute_dtype
from trials.backends.one_call import join_calls
from trials.backends.packing import Batch, ForwardCost, Layout, packed, padded
from trials.backends.proof import Proof
from trials.backends.proven_loss import proven_loss
from trials.backends.quantised import SHARD, load_quantised
from trials.backends.recomputing import (
    is_in_8_bits,
    recompute,
    reentrant_is_right,
    stop_recomputing,
)
from trials.backends.rows_apart import most_tokens, rows_stay_apart, sees_ahead
from trials.config import ConfigError, ModelConfig, TrialConfig
from trials.data.batches import queued
from trials.memory.device import give_back_memory
from trials.memory.estimate import activation_bytes_per_token
from trials.models.checkpoint import check_form, config_of, form_of
from trials.models.frozen_base import FrozenBase
from trials.models.lora import lora_settings, put_on
from trials.models.quantisation import bitsandbytes_config, keep_cpu_kernels_differentiable
from trials.models.shapes import auto_class, carries_state, no_next_token, on_meta, taken_by
from trials.models.sources import local_or_hub
from trials.models.target_modules import find
from trials.models.weights import check_keys


def load(config: ModelConfig) -> FrozenBase:
    """Load and quantise the base model onto this process's only device."""
    # At every 8-bit layer of every forward pass bitsandbytes says that it works in float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    found = config_of(config.name, config.revision) or {}
    dtype = compute_dtype(config.compute_dtype, device, found.get("model_type"))
    model = load_quantised(
        config,
        device,
        dtype,
        quantise=lambda: _from_pretrained(
            local_or_hub(config.name),
            device,
            dtype,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            **_quantization(config, dtype),
        ),
        read=lambda folder: _from_pretrained(str(folder), device, dtype),
        write=lambda model, folder: model.save_pretrained(folder, max_shard_size=SHARD),
    )
    model.requires_grad_(False)
    keep_cpu_kernels_differentiable(model)
    choose_attention(model, device, dtype)
    base = TransformersBase(model, device, dtype)
    if device.type == "cuda":
        first_pass(base, config)
    return base


def _from_pretrained(name: str, device: torch.device, dtype: torch.dtype, **settings: Any) -> Any:
    place = {key: settings[key] for key in ("revision", "trust_remote_code") if key in settings}
    config = AutoConfig.from_pretrained(name, **place)
    # use_safetensors: other weights are pickles, which can run code when they are read.
    # ignore_mismatched_sizes: told in our words, not in transformers' table.
    model, found = auto_class(config).from_pretrained(
        name,
        dtype=dtype,
        device_map={"": device},
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **settings,
    )
    check_keys(name, found)
    return model


def _quantization(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """What transformers is told; nothing where the checkpoint says it itself: even None would hide
    that."""
    form = form_of(config.name, config.revision)
    check_form(config, form)
    if form is not None:
        return {"quantization_config": DEQUANTISED[form.name]()} if form.is_dequantised else {}
    if config.quantization == "none":
        return {}
    shapes = on_meta(config)
    return {"quantization_config": bitsandbytes_config(config.quantization, dtype, shapes)}


DEQUANTISED = {
    "FP8": lambda: FineGrainedFP8Config(dequantize=True),
    "MXFP4": lambda: Mxfp4Config(dequantize=True),
}


class TransformersBase:
    """A frozen base model of transformers, with one peft adapter at a time."""

    load_seconds = 0.0

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.model: Any = model
        self.device, self.dtype = device, dtype
        self._adapted: Any = None
        self._kind: tuple[str, bool] | None = None
        self._spare: dict[tuple[str, bool] | None, SpareLayers] = {}
        self._is_in_8_bits = is_in_8_bits(model)
        self._reentrant: dict[tuple[str, bool] | None, bool] = {}
        """Whether reentrant checkpointing has been seen to be right, by kind of adapter."""
        self._names_bounds = model.config._attn_implementation in BOUNDED
        self._carries_state = carries_state(model)
        if sees_ahead(model, lambda layout: self._logits(model, layout)[0]):
            raise ConfigError(no_next_token(model.config, "one whose tokens see those after them"))
        self._rows_stay_apart = self._tells_rows_apart()
        # Elsewhere it is of no use, and Mamba has no heads to count.
        self._cost = ForwardCost.of(model) if self._rows_stay_apart else None
        self._most_tokens = most_tokens(model)
        self._continuing = Continuing(model, dtype)
        self._run_once()
        self._loss = proven_loss(model, dtype, lambda layout: self._logits(model, layout))
        self.activation_bytes_per_token = activation_bytes_per_token(model, self._loss)
        self._proof = Proof(model)

    def add_adapter(self, config: TrialConfig) -> Any:
        self._kind = SpareLayers.kind(config)
        spare = self._spare.pop(self._kind, None)
        self._adapted = spare.put_on(config) if spare else self._built(config)
        draw_weights(self._adapted, config.seed)
        return self._adapted

    def _built(self, config: TrialConfig) -> Any:
        targets = find(self.model, config.target_modules, experts=config.experts)
        adapted = put_on(self.model, lora_settings(config, targets))
        for layer in adapted.modules():
            if isinstance(layer, BaseTunerLayer):
                # Autocast chooses the type; on processors peft does not see that it is on, and
                # would turn every input into float32 and back.
                layer.cast_input_dtype_enabled = False
        if self.dtype is not torch.float32:  # without casts to save, they are not half as many
            join_calls(adapted)
        return adapted

    def recompute_activations(self) -> None:
        """Keep only the inputs of decoder layers, until the adapter is removed."""
        if not self.model.supports_gradient_checkpointing:  # JetMoE: the trial will not fit
            return
        if self._is_in_8_bits and self._kind not in self._reentrant:
            is_right = reentrant_is_right(self.model, self._adapted, self.nll_sum)
            self._reentrant[self._kind] = is_right
        recompute(self.model, reentrant=self._reentrant.get(self._kind, False))

    def remove_adapter(self) -> None:
        if self._adapted is not None:
            stop_recomputing(self.model)
            spare = SpareLayers(self.model, self._adapted)
            self._adapted = None
            if self._kind is not None:
                self._spare[self._kind] = spare
            give_back_memory()
        self._proof.check(self.model)

    def nll_sum(self, model: Any, batch: Batch) -> torch.Tensor:
        return self._loss.sum(lambda: self._logits(model, self._layout(batch)))

    def nll_rows(
        self, model: Any, batch: Batch, *, counts_correct: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        layout = self._layout(batch)
        nlls, correct = self._loss.each(
            lambda: self._logits(model, layout), counts_correct=counts_correct
        )
        rows = self._on_device(layout.rows)

        def of_rows(of_targets: torch.Tensor) -> torch.Tensor:
            sums = torch.zeros(len(batch["labels"]), dtype=torch.float64, device=self.device)
            return sums.index_add_(0, rows, of_targets.double())

        return of_rows(nlls), None if correct is None else of_rows(correct)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        stop_ids: Sequence[int],
        max_new_tokens: int,
        is_over: Callable[[], bool] = lambda: False,
    ) -> list[list[int]]:
        return self._continuing.continued(
            prompts, stop_ids=list(stop_ids), max_new_tokens=max_new_tokens, is_over=is_over
        )

    def _layout(self, batch: Batch) -> Layout:
        return self._packed(batch) if self._packs(batch) else padded(batch)

    def _packed(self, batch: Batch) -> Layout:
        return packed(batch, name_bounds=self._names_bounds)

    def _packs(self, batch: Batch) -> bool:
        mask = batch["attention_mask"]
        if not self._rows_stay_apart or self._cost is None or mask.sum() > self._most_tokens:
            return False
        # Attention that knows where rows end goes through no key of another.
        return self._names_bounds or self._cost.packing_is_cheaper(mask)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def _logits(self, model: Any, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (targets, vocabulary), and the targets."""
        on_device = {name: self._on_device(value) for name, value in layout.inputs.items()}
        # Layers with a state would look whether a mask has padding.
        told = contextlib.nullcontext if self._carries_state else rows_known
        with self._autocast(), told(on_device) as inputs:
            output = model(
                **inputs,
                **taken_by(
                    self.model, logits_to_keep=self._on_device(layout.predicting), use_cache=False
                ),
            )
        logits = output.logits
        if logits.shape[1] != len(layout.predicting):  # xLSTM takes the argument, and ignores it
            logits = logits.index_select(1, self._on_device(layout.predicting))
        logits = logits.flatten(0, 1)
        if len(layout.kept) < len(logits):
            logits = logits.index_select(0, self._on_device(layout.kept))
        return logits, self._on_device(layout.targets)

    def _on_device(self, value: Any) -> Any:
        return queued(value, self.device) if isinstance(value, torch.Tensor) else value

    @torch.no_grad()
    def _run_once(self) -> None:
        """Before the proof: in 8 bits the first pass moves the scales."""
        with self._autocast():
            self.model(
                input_ids=self._on_device(torch.tensor([[0, 0]])),
                **taken_by(self.model, use_cache=False),
            )

    def _tells_rows_apart(self) -> bool:
        return rows_stay_apart(
            self.model, lambda layout: self._logits(self.model, layout)[0], self._packed
        )
