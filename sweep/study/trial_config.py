"""A space and a set of hyperparameters → the `TrialConfig` that a worker runs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.pruners.peers import rows_wanted
from sweep.space.loading import Space
from sweep.space.yaml_file import SpaceError
from trials.config import Backend, ModelConfig, TrialConfig, largest_divisor
from trials.data.addresses import local_path

CPU_MICRO_BATCH = 8
GPU_MICRO_BATCH = 16
"""Where the search for a micro-batch that fits begins; `trials.memory` halves it as needed."""

PACKAGE = "_ray_pkg_"
"""How Ray calls the folder in which it unpacks what a job brings along."""


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """What depends on the device, resolved."""

    micro_batch_size: int
    optimizer: str


Resolve = Callable[[int, Mapping[str, Any], bool], TrialConfig]
"""(number, hyperparameters, whether to measure the base model too) → what a worker runs."""


def choose_backend(space: Space, *, on_gpus: bool) -> Backend:
    """The backend of a space; auto is Unsloth where nothing speaks against it.

    Raises:
        SpaceError: Unsloth is asked for and not installed.
    """
    asked = space.settings.backend
    if asked == "unsloth" and not _has_unsloth():
        raise SpaceError(
            "backend: unsloth needs its extra: pip install -c constraints.txt -e '.[unsloth]', "
            "or write backend: transformers."
        )
    if asked != "auto":
        return asked
    return "transformers" if _against_unsloth(space, on_gpus=on_gpus) else "unsloth"


def backend_in_words(space: Space, *, on_gpus: bool) -> str:
    """The backend that is chosen, and why."""
    backend = choose_backend(space, on_gpus=on_gpus)
    if space.settings.backend != "auto":
        return f"{backend}, as written"
    if backend == "unsloth":
        return "unsloth (installed; write backend: transformers for the other)"
    return f"transformers ({_against_unsloth(space, on_gpus=on_gpus)})"


def backend_notes(space: Space, backend: Backend) -> list[str]:
    """What somebody who waits for trials should know of the backend."""
    if backend == "unsloth" and space.may_be("use_dora", True):
        # Read in the source of 2026.10.7 (kernels/fast_lora.py): it leaves DoRA to peft's own code.
        return ["Trials with use_dora: true train without Unsloth's fast LoRA kernels."]
    return []


def _has_unsloth() -> bool:
    return importlib.util.find_spec("unsloth") is not None


def _against_unsloth(space: Space, *, on_gpus: bool) -> str | None:
    """Say why auto does not choose Unsloth, or None."""
    settings = space.settings
    if not space.objective.is_eval_loss:
        return "Unsloth measures eval loss alone"
    if not on_gpus:
        return "trials run on processors"
    if settings.gpus_per_trial > 1:
        return "Unsloth trains on one GPU"
    if space.may_be("use_dora", True):
        return "Unsloth has no kernels for use_dora"
    if settings.compute_dtype == "float32":
        return "Unsloth's kernels compute in 16 bits"
    if settings.quantization == "int8":
        return "int8 is outside of Unsloth's fast path"
    if not _has_unsloth():
        return "Unsloth is not installed"
    return None


def training_environment(
    *, n_slots: int, n_processes: int = 1, n_cores: int | None = None
) -> dict[str, str]:
    """What a process that trains must have in its environment before it imports torch.

    Its threads are its share of the cores: more of them than cores slow a step down by an order of
    magnitude, and sums come out a little different with another number of them. Where others use
    the cores too, threads that wait for each other must not spin, which does the same.

    Args:
        n_slots: Trials at once.
        n_processes: Of each.
        n_cores: That they share; None: all of this machine.
    """
    threads = str(max(1, (n_cores or os.cpu_count() or 1) // (n_slots * n_processes)))
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }


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
        quantization=settings.quantization,
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
    rows_at = rows_wanted(space)

    def resolve(number: int, values: Mapping[str, Any], evaluate_base: bool) -> TrialConfig:
        effective_batch_size = int(values["effective_batch_size"])
        n_processes = space.settings.processes_per_trial
        return TrialConfig(
            number=number,
            model=model,
            data_dir=str(data_dir.resolve()),
            output_dir=str((output_dir / "trials" / f"{number:03d}").resolve()),
            gpus_per_trial=n_processes,
            micro_batch_size=largest_divisor(
                effective_batch_size // n_processes, fixed.micro_batch_size
            ),
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
