"""A space and a set of hyperparameters → the `TrialConfig` that a worker runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.space import Space
from sweep.space_file import SpaceError
from trials.config import Backend, ModelConfig, TrialConfig, largest_divisor

CPU_MICRO_BATCH = 8
GPU_MICRO_BATCH = 16
"""Where the search for a micro-batch that fits begins; `trials.memory` halves it as needed."""


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """What depends on the device, resolved."""

    micro_batch_size: int
    optimizer: str


Resolve = Callable[[int, Mapping[str, Any], bool], TrialConfig]
"""(number, hyperparameters, whether to measure the base model too) → what a worker runs."""


def choose_backend(space: Space) -> Backend:
    """The backend of a space: transformers, which runs anywhere, unless it asks for Unsloth.

    Raises:
        SpaceError: Unsloth is asked for and not installed.
    """
    if space.settings.backend != "unsloth":
        return "transformers"
    if importlib.util.find_spec("unsloth") is None:
        raise SpaceError(
            "backend: unsloth needs its extra: pip install -c constraints.txt -e '.[unsloth]', "
            "or write backend: transformers."
        )
    return "unsloth"


def model_config(space: Space, backend: Backend) -> ModelConfig:
    """The base model of a space; a folder is made absolute, so that every worker finds it."""
    settings = space.settings
    beside_space = space.folder / settings.base_model
    name = str(beside_space.resolve()) if beside_space.is_dir() else settings.base_model
    return ModelConfig(
        name=name,
        revision=settings.revision,
        quantization=settings.quantization,
        backend=backend,
        max_length=int(space.largest["max_length"]),
        trust_remote_code=settings.trust_remote_code,
    )


def trial_settings(space: Space, *, on_gpus: bool) -> TrialSettings:
    """Resolve what the space leaves to the device."""
    micro, optimizer = space.settings.micro_batch_size, space.settings.optimizer
    return TrialSettings(
        micro_batch_size=(GPU_MICRO_BATCH if on_gpus else CPU_MICRO_BATCH)
        if micro == "auto"
        else micro,
        optimizer=("adamw_8bit" if on_gpus else "adamw") if optimizer == "auto" else optimizer,
    )


def resolver(
    space: Space,
    *,
    backend: Backend,
    on_gpus: bool,
    output_dir: Path,
    data_dir: Path,
) -> Resolve:
    """Return what `Sweep` turns a trial's hyperparameters into a configuration with."""
    model = model_config(space, backend)
    fixed = trial_settings(space, on_gpus=on_gpus)

    def resolve(number: int, values: Mapping[str, Any], evaluate_base: bool) -> TrialConfig:
        effective_batch_size = int(values["effective_batch_size"])
        return TrialConfig(
            number=number,
            model=model,
            data_dir=str(data_dir.resolve()),
            output_dir=str((output_dir / "trials" / f"{number:03d}").resolve()),
            micro_batch_size=largest_divisor(effective_batch_size, fixed.micro_batch_size),
            eval_batch_size=fixed.micro_batch_size,
            optimizer=fixed.optimizer,
            n_evaluations=space.settings.evaluate.times,
            evaluate_base=evaluate_base,
            seed=space.settings.seed,
            **values,
        )

    return resolve
