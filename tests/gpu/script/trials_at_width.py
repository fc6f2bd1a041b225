"""Three trials of a Llama as wide as 8B, the second with checkpointing, in each precision."""

from __future__ import annotations

import contextlib

from tests.gpu.script.bench import (
    Bench,
    Trial,
    expect_learnt,
    loaded,
    model_config,
    only_with_checkpointing,
    run,
    trial_config,
)
from tests.gpu.script.found import needs, said
from tests.gpu.script.llama import WIDE, folder_of, longest_row, write_rows
from trials.config import Backend, Quantization

LEARNT = "trial {}, losses"


def unsloth_nf4(bench: Bench) -> None:
    three_trials(bench, "unsloth", "nf4")


def unsloth_none(bench: Bench) -> None:
    three_trials(bench, "unsloth", "none")


def transformers_nf4(bench: Bench) -> None:
    three_trials(bench, "transformers", "nf4")


def transformers_int8(bench: Bench) -> None:
    three_trials(bench, "transformers", "int8")


def transformers_none(bench: Bench) -> None:
    three_trials(bench, "transformers", "none")


def three_trials(bench: Bench, backend: Backend, quantization: Quantization) -> None:
    """The base must be clean after each, which the backend proves; memory is noted beside it."""
    needs("bitsandbytes")
    if backend == "unsloth":
        bench.needs_gpu()
        needs("unsloth")
    found = bench.found
    model = model_config(
        folder_of(bench, WIDE), backend, quantization, max_length=longest_row(bench)
    )
    base = loaded(bench, model)
    data = write_rows(bench)
    trials: list[Trial] = []
    for number, recomputes in enumerate((False, True, False)):
        pressed = only_with_checkpointing(base) if recomputes else contextlib.nullcontext()
        with pressed:
            trial = run(trial_config(bench, number, model, data, epochs=2), base)
        trials.append(trial)
        found.figure(LEARNT.format(number), trial.losses)
        found.figure(f"trial {number}, held MiB", round(trial.held_mib, 1))
        found.figure(f"trial {number}, peak GiB", trial.points[-1].gpu_memory_gib)
        expect_learnt(bench, trial, f"trial {number}")
        found.expect(
            trial.recomputes is recomputes,
            f"trial {number}: checkpointing is {trial.recomputes}, not {recomputes}",
        )
    first, second, third = trials
    found.figure("tokens/s", round(third.points[-1].tokens_per_second or 0.0))
    # Sums of gradients come in any order on a GPU.
    found.expect_equal(third.losses, first.losses, within=1e-3, of="trial 2 beside trial 0")
    found.expect_equal(second.losses, first.losses, within=1e-2, of="with checkpointing")
    is_rising = first.held_mib < second.held_mib < third.held_mib
    found.expect(not is_rising, "device memory rises with each trial")


def backends(bench: Bench) -> None:
    """Both backends' losses, of the parts before: the base model's, and after training."""
    for quantization, within in (("none", 1e-2), ("nf4", 2e-2)):  # they leave other layers whole
        ours, theirs = (
            said(bench.folder, f"{backend}-{quantization}").figures.get(LEARNT.format(0))
            for backend in ("transformers", "unsloth")
        )
        if ours is None or theirs is None:
            bench.found.missing(f"{quantization}: not both backends have trained")
            continue
        bench.found.figure(f"{quantization}, transformers", ours)
        bench.found.figure(f"{quantization}, unsloth", theirs)
        bench.found.expect_equal(theirs, ours, within=within, of=f"{quantization}: Unsloth")
