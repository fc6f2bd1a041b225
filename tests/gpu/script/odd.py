"""float16, and models whose layers are not Llama's: experts, and Gemma 4."""

from __future__ import annotations

from typing import Any

from tests.gpu.script.bench import (
    Bench,
    expect_learnt,
    held_mib,
    loaded,
    model_config,
    run,
    trial_config,
)
from tests.gpu.script.found import needs
from tests.gpu.script.llama import DEEP, folder_of, longest_row, write_rows
from trials.config import Backend

ODD: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"target_modules": "attention", "experts": True},
    "gemma4_text": {},
}
"""Architectures of `tests.zoo.architectures`, and what is adapted of them."""
LONGEST = 256
"""Tokens that the zoo's models have positions for."""


def float16(bench: Bench) -> None:
    in_float16(bench, "transformers")


def float16_with_unsloth(bench: Bench) -> None:
    bench.needs_gpu()
    needs("unsloth")
    in_float16(bench, "unsloth")


def in_float16(bench: Bench, backend: Backend) -> None:
    """As on cards without bfloat16: gradients are scaled, and few steps are left out."""
    needs("bitsandbytes")
    model = model_config(
        folder_of(bench, DEEP),
        backend,
        "nf4",
        max_length=longest_row(bench),
        compute_dtype="float16",
    )
    base = loaded(bench, model)
    trial = run(trial_config(bench, 0, model, write_rows(bench), epochs=4), base)
    bench.found.figure("losses", trial.losses)
    bench.found.note(trial.reason)
    expect_learnt(bench, trial, "float16")


def odd_models(bench: Bench) -> None:
    """Each trains twice on one base, to equal losses: nothing of the first trial is left."""
    from tests.zoo.build import built

    needs("bitsandbytes")
    data = write_rows(bench, longest=LONGEST)
    for index, (name, adapted) in enumerate(ODD.items()):
        folder = built(name, bench.work / "models" / name)
        model = model_config(folder, "transformers", "nf4", max_length=LONGEST)
        base = loaded(bench, model)
        first, second = (
            run(trial_config(bench, 2 * index + number, model, data, **adapted), base)
            for number in range(2)
        )
        bench.found.figure(f"{name}, losses", first.losses)
        bench.found.figure(f"{name}, held MiB", round(held_mib(), 1))
        expect_learnt(bench, first, name)
        bench.found.expect_equal(second.losses, first.losses, within=1e-3, of=f"{name}, again")
