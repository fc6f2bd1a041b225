"""The base model and its adapters, sized up without weights before rows are tokenised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trials.config import AdapterChoices, ModelConfig
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
        return adapters.notes(self.shapes, self.adapters, self.choices, self.model)

    def memory(
        self, *, optimizer: str, micro_batch_size: int, max_length: int, on_gpu: bool
    ) -> dict[str, Any]:
        """Estimate the memory of the largest trial; leaves its adapter on the shapes."""
        sizes = estimate(
            adapters.with_largest(self.shapes, self.adapters, self.choices),
            self.model,
            self.weights,
            optimizer=optimizer,
            micro_batch_size=micro_batch_size,
            max_length=max_length,
            on_gpu=on_gpu,
        )
        return {**sizes, "left": self.weights.left}


def size_up(model: ModelConfig, choices: AdapterChoices) -> Sized:
    """Build the model's shapes and every adapter that is searched.

    Raises:
        ConfigError: Weights are missing or of another shape; a choice of modules matches nothing.
    """
    shapes = on_meta(model)
    check_headers(shapes, model, weight_files(model))
    found = adapters.adapters(shapes, choices, quantised_weights(shapes, model))
    return Sized(model, choices, shapes, weight_sizes(shapes, model), found)
