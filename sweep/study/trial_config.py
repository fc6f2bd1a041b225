"""A space and a set of hyperparameters → the `TrialConfig` that a worker runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.folder.layout import trial_dir
from sweep.pruners.peers import rungs_of
from sweep.space.space import Space
from trials.config import Backend, ModelConfig, TrialConfig
from trials.data.addresses import local_path

CPU_MICRO_BATCH = 8
GPU_MICRO_BATCH = 16
"""Where the search for a micro-batch that fits begins, in rows of the greatest length;
`trials.memory` halves its tokens as needed."""
PACKAGE = "_ray_pkg_"
"""How Ray calls the folder in which it unpacks what a job brings along."""


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """What depends on the device, resolved."""

    micro_batch_size: int
    most_rows: int | None
    optimizer: str


Resolve = Callable[[int, Mapping[str, Any], bool], TrialConfig]
"""(number, hyperparameters, whether to measure the base model too) → what a worker runs."""


def model_config(space: Space, backend: Backend) -> ModelConfig:
    """The base model of a space; a folder is made absolute, so that every worker finds it.

    One that a Ray job has brought along is found from the job's folder, in which all its processes
    run: that folder's own path is another one in each job, and a study stays with its base model.
    """
    settings = space.settings
    given = local_path(settings.base_model)
    beside_space = space.folder / given
    is_brought = space.folder.name.startswith(PACKAGE) and not Path(given).is_absolute()
    name = str(beside_space.resolve()) if beside_space.is_dir() and not is_brought else given
    return ModelConfig(
        name=name,
        revision=settings.revision,
        quantization=space.quantization,
        compute_dtype=settings.compute_dtype,
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
        most_rows=None if micro == "auto" else micro,
        # bitsandbytes' waits for the device at every tensor: 448 times a step of an 8B model.
        optimizer="adamw" if optimizer == "auto" else optimizer,
    )


def resolver(
    space: Space, *, backend: Backend, on_gpus: bool, output_dir: Path, data_dir: Path
) -> Resolve:
    """Return what `Sweep` turns a trial's hyperparameters into a configuration with."""
    model = model_config(space, backend)
    fixed = trial_settings(space, on_gpus=on_gpus)
    rows_at = rungs_of(space)

    def resolve(number: int, values: Mapping[str, Any], evaluate_base: bool) -> TrialConfig:
        return TrialConfig(
            number=number,
            model=model,
            data_dir=str(data_dir.resolve()),
            output_dir=str(trial_dir(output_dir, number).resolve()),
            gpus_per_trial=space.settings.processes_per_trial,
            micro_batch_size=fixed.micro_batch_size,
            most_rows=fixed.most_rows,
            eval_batch_size=fixed.micro_batch_size,
            optimizer=fixed.optimizer,
            n_evaluations=space.settings.evaluate.times,
            evaluate_base=evaluate_base,
            checkpoint_minutes=space.settings.checkpoint_minutes,
            stall_minutes=space.settings.stall_minutes,
            seed=space.settings.seed,
            objective=space.objective,
            row_nlls_at=rows_at,
            **values,
        )

    return resolve
