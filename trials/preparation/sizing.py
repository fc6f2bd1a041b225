"""The base model and its adapters, sized up without weights before rows are tokenised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from trials.config import AdapterChoices, ConfigError, ModelConfig
from trials.memory.estimate import WeightSizes, estimate, quantised_weights, weight_sizes
from trials.models.shapes import on_meta
from trials.models.weights import check_headers
from trials.preparation import adapters
from trials.preparation.model_checks import weight_files


@dataclass(frozen=True, slots=True)
class Sized:
    """A base model on the meta device, and what of it may be trained."""

    model: ModelConfig
    choices: AdapterChoices
    shapes: Any
    weights: WeightSizes
    adapters: list[dict[str, Any]]
    """See `trials.preparation.adapters`."""

    @property
    def notes(self) -> list[str]:
        return adapters.notes(self.shapes, self.adapters, self.choices)

    def memory(
        self, *, optimizer: str, micro_batch_size: int, max_length: int, on_gpu: bool
    ) -> dict[str, Any]:
        """Estimate the memory of the largest trial; leaves its adapter on the shapes."""
        plain_gib = self._plain_gib  # before an adapter is on the shapes
        sizes = estimate(
            adapters.with_largest(self.shapes, self.adapters, self.choices),
            self.model,
            self.weights,
            optimizer=optimizer,
            micro_batch_size=micro_batch_size,
            max_length=max_length,
            on_gpu=on_gpu,
        )
        return {**sizes, "left": self.weights.left, "plain_gib": plain_gib}

    @property
    def _plain_gib(self) -> float | None:
        """Of the base model in 16 bits; None: the checkpoint has no such weights."""
        plain = replace(self.model, quantization="none")
        if self.model.quantization != "none" and hasattr(self.shapes.config, "quantization_config"):
            return None
        return weight_sizes(self.shapes, plain).n_bytes / 2**30


def size_up(model: ModelConfig, choices: AdapterChoices, *, on_gpu: bool) -> Sized:
    """Build the model's shapes and every adapter that is searched.

    Raises:
        ConfigError: Weights are missing or of another shape; a choice of modules matches nothing.
    """
    shapes = on_meta(model)
    if model.quantization == "int8" and not on_gpu:
        _check_int8(shapes, choices)
    check_headers(shapes, model, weight_files(model))
    found = adapters.adapters(shapes, choices, quantised_weights(shapes, model))
    return Sized(model, choices, shapes, weight_sizes(shapes, model), found)


def _check_int8(shapes: Any, choices: AdapterChoices) -> None:
    """Refuse what bitsandbytes 0.50 does not compute on processors: in 8 bits an input of four
    dimensions, as latent attention hands to kv_b_proj (backends/default/ops.py), and weights that
    DoRA has read, which peft puts back on the processor without their scales."""
    if any(name.endswith(".kv_b_proj") for name, _ in shapes.named_modules()):
        raise ConfigError(
            f"quantization: must be nf4 or none for {shapes.config.model_type} on processors, not "
            f"int8: bitsandbytes does not compute its latent attention (kv_b_proj) in 8 bits there."
        )
    if choices.use_dora:
        raise ConfigError(
            "quantization: must be nf4 or none where search.use_dora may be true on processors, "
            "not int8: there DoRA loses the scales of weights in 8 bits (peft, bitsandbytes)."
        )
