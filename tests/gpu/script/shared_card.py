"""Two processes at once: one cache of 4-bit models, and one GPU in halves."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tests.gpu.script.bench import (
    Bench,
    Trial,
    expect_learnt,
    loaded,
    model_config,
    run,
    trial_config,
)
from tests.gpu.script.found import Found, needs
from tests.gpu.script.internals import cached
from tests.gpu.script.llama import WIDE, folder_of, longest_row, write_rows
from trials.config import TrialConfig


def at_once(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a function in fresh processes that run beside each other."""
    with multiprocessing.get_context("spawn").Pool(len(arguments)) as pool:
        return pool.starmap(function, arguments, chunksize=1)


def cache_of_two(bench: Bench) -> None:
    """The first of two quantises, the other waits and reads; both have one content."""
    import os

    needs("bitsandbytes")
    os.environ["XDG_CACHE_HOME"] = str(bench.work / "cache")  # not that of the other parts
    model = model_config(folder_of(bench, WIDE), "transformers", "nf4")
    found = at_once(cached, [(model,), (model,)])
    hashes, seconds, entries = zip(*found, strict=True)
    bench.found.figure("load s", [round(each, 1) for each in seconds])
    bench.found.expect(len(set(hashes)) == 1, f"contents differ: {hashes}")
    bench.found.expect(entries[-1] == 1, f"the cache has {entries[-1]} entries, not 1")


def half_a_gpu(bench: Bench) -> None:
    """Two trials share a GPU, each within its half, and come to the same losses."""
    needs("bitsandbytes")
    model = model_config(
        folder_of(bench, WIDE), "transformers", "nf4", max_length=longest_row(bench)
    )
    data = write_rows(bench)
    configs = [trial_config(bench, number, model, data) for number in range(2)]
    halves = at_once(_in_half, [(bench, config) for config in configs])
    for number, (trial, reserved_share) in enumerate(halves):
        bench.found.figure(f"trial {number}, losses", trial.losses)
        bench.found.figure(f"trial {number}, share reserved", reserved_share)
        expect_learnt(bench, trial, f"trial {number}")
        bench.found.expect(reserved_share <= 0.5, f"trial {number} took {reserved_share:.0%}")
    first, second = (trial.losses for trial, _ in halves)
    bench.found.expect_equal(second, first, within=1e-3, of="the other half")


def _in_half(of_both: Bench, config: TrialConfig) -> tuple[Trial, float]:
    name = f"half-{config.number}"
    bench = replace(of_both, name=name, found=Found(of_both.folder, name))
    base = loaded(bench, config.model, gpu_share=0.5)
    trial = run(config, base)
    if not bench.has_gpu:
        return trial, 0.0
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    return trial, torch.cuda.max_memory_reserved() / total
