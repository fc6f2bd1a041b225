"""`sweep check --measure`: what a token takes here, from ten steps of one warm worker."""

import math
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

from sweep.driver.asked import answered
from sweep.driver.one_trial import environment
from sweep.driver.preparation import Check
from sweep.errors import StudyError
from sweep.space.backend import choose_backend
from sweep.space.space import Space
from sweep.space.usual_points import filled_in
from sweep.study.trial_config import resolver
from sweep.workers.paces import Pace
from trials.config import TrialConfig
from trials.machine.cards import named_devices
from trials.parent import module_command

N_STEPS = 10


def see_place(*, is_known: bool) -> None:
    """Refuse what cannot be measured, before the data is read.

    Raises:
        StudyError: Trials run elsewhere, or on devices that differ.
    """
    if "RAY_ADDRESS" in os.environ:
        raise StudyError(
            "--measure: must run where the trials do, but RAY_ADDRESS names a cluster: "
            f"{os.environ['RAY_ADDRESS']}. Unset it to measure on this machine."
        )
    if not is_known:
        raise StudyError(
            "--measure: needs GPUs of one kind, which nvidia-smi names, but they differ, or it "
            "does not answer. Choose some: CUDA_VISIBLE_DEVICES=0."
        )


def measured(space: Space, found: Check, workers: int | None, say: Callable[[str], None]) -> Pace:
    """Train ten steps of the usual trial, evaluate twice, and return the pace of the later half.

    Raises:
        SpaceError: The steps fail.
    """
    config = _config(space, found)
    asked = {
        "config": asdict(config),
        "environment": _environment(space, workers, on_gpus=found.on_gpus),
        "gpu_share": min(1.0, space.settings.gpus_per_trial),
    }
    say(f"Taking {N_STEPS} steps of {config.effective_batch_size} rows at rank {config.rank} …")
    seconds = answered(
        asked, say, partial(module_command, "trials.ten_steps"), what="taking ten steps"
    )
    evaluation = max(0.0, seconds["evaluation"]) / found.report["evaluation_tokens"]
    return Pace(seconds["token"], evaluation)


def _config(space: Space, found: Check) -> TrialConfig:
    """The usual point, with a run of so many steps and an evaluation after each half."""
    resolve = resolver(
        space,
        backend=choose_backend(space, on_gpus=found.on_gpus),
        on_gpus=found.on_gpus,
        output_dir=found.data_dir.parent,
        data_dir=found.data_dir,
    )
    usual = resolve(0, filled_in(space.domains, {}), False)
    counts = found.report["train"][str(usual.max_length)]
    n_rows = counts["rows"] - counts["dropped"]
    epochs = N_STEPS / math.ceil(n_rows / usual.effective_batch_size)
    return replace(usual, epochs=epochs, n_evaluations=2)


def _environment(space: Space, workers: int | None, *, on_gpus: bool) -> dict[str, str]:
    """As of a worker; each process of a trial has a GPU."""
    found = environment(space, workers, on_gpus=on_gpus)
    if on_gpus:
        n = space.settings.processes_per_trial
        named = named_devices() or [str(index) for index in range(n)]
        found["CUDA_VISIBLE_DEVICES"] = ",".join(named[:n])
    return found
