"""`Request`: what is asked of the preparation."""

from __future__ import annotations

from dataclasses import dataclass

from trials.config import ModelConfig
from trials.data.rendering import LossOn
from trials.preparation.prompts import Ask


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    train: str
    """Absolute path, or a hub data set."""
    eval: str | float
    """The same, or the share of train that is held out."""
    columns: dict[str, str]
    template: str | None
    chat: bool | None
    loss_on: LossOn
    model: ModelConfig
    max_lengths: list[int]
    """Every max_length that trials may have."""
    n_evaluations: int
    sample_rows: int
    """At most so many eval rows are read at each evaluation."""
    smallest_epochs: float
    smallest_batch: int
    """The smallest effective batch: the most optimizer steps in an epoch."""
    largest_rank: int
    target_modules: str
    micro_batch_size: int
    optimizer: str
    seed: int
    output_dir: str
    """The prepared folder; made whole or not at all."""
    n_sample_rows: int | None = None
    """Eval rows of each evaluation, where earlier trials have set them."""
    generation: Ask | None = None
    """None: the objective needs no completions that the model writes."""
