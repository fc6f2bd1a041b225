"""What a search costs: sampler and pruner judged over many seeds on a recorded landscape.

    python -m tests.benchmarks.simulator --seeds 200

A sweep of the whole grid (`tests.benchmarks.replay`), by the loop, study, sampler and pruner as
they are. For each it counts the GPU-seconds until an adapter within 0.2 % and 1 % of the grid's
best eval loss is on disk: a trial that has ended with a value, not one that is paused or was cut.
All GPUs count from the beginning, idle or not. The exhaustive grid costs what all its runs take.

`--what` is `reach` (the above), `budget` (GPU-seconds and best eval loss of a sweep of --trials),
`winner` (how often the grid's best run is cut for good in a sweep of the whole space), or `overfit`
(of all recorded runs, how many are stopped as overfit, and how many wrongly are or are not).
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import multiprocessing
import tempfile
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import optuna

from sweep.driver.loop import run
from sweep.pruners.own_curve import ByItself
from sweep.space.loading import load_space
from sweep.space.settings import DivergedSettings, Pruning
from sweep.space.space import Space
from sweep.storage.attributes import COUNTS
from sweep.storage.mirror import InMemory
from sweep.study.budget import Budget
from sweep.study.sweep import Sweep
from sweep.study.trial_config import resolver
from tests.benchmarks.landscape import N_EVALUATIONS
from tests.benchmarks.replay import LANDSCAPE, Landscape, ReplayRunner, Run, read_landscapes
from trials.config import TrialConfig, TrialResult

WITHIN = (0.002, 0.01)
NO_PRUNING = "{overfit: false, outclassed: false, diverged: {factor: 1.0e+9}}"
PRUNING = {
    "none": NO_PRUNING,
    "median": "{outclassed: {pruner: median}}",
    "halving, killing": "{outclassed: {pruner: successive_halving, factor: 4}}",
    "halving, pausing": "{outclassed: {pruner: asha, standard_errors: 0}}",
    "ours": "{}",
}
SAMPLERS = ("random", "tpe", "gp")


@dataclass(frozen=True, slots=True)
class Case:
    """One simulated sweep."""

    what: str
    sampler: str
    pruning: str
    """One of `PRUNING`, or what stands under `pruning` in the YAML."""
    n_gpus: int
    seed: int
    scheduler: str = "cosine"
    space: str = ""
    """Further lines of the YAML."""
    n_trials: int = 24
    """Of `budget`."""


@dataclass(frozen=True, slots=True)
class Found:
    """What it cost."""

    reached: list[float | None]
    """GPU-seconds to within each of `WITHIN`; None: never."""
    gpu_seconds: float
    best: float
    """The lowest eval loss of an adapter on disk; infinite: there is none."""
    n_trials: int
    has_winner: bool
    """Whether the grid's best run was let go to its best evaluation."""


_landscapes: dict[tuple[str, int], Landscape] = {}


def simulate(case: Case, landscape: Landscape, folder: Path) -> Found:
    """Run one sweep, to its aim or to its end."""
    space = _space(case, landscape, folder)
    study = optuna.create_study(storage=InMemory(), pruner=optuna.pruners.NopPruner())
    resolve = resolver(
        space, backend="transformers", on_gpus=True, output_dir=folder, data_dir=folder
    )
    sweep = Sweep(space, study, resolve)
    budget = Budget(case.n_trials if case.what == "budget" else None, None)
    is_there = threading.Event()
    reached: list[float | None] = [None] * len(WITHIN)
    best = math.inf
    has_winner = False

    def on_end(now: float, config: TrialConfig, result: TrialResult) -> None:
        nonlocal best, has_winner
        if result.outcome not in COUNTS or result.best is None:
            return
        best = min(best, result.best.eval_loss)
        has_winner = has_winner or result.best.eval_loss == landscape.best
        for index, within in enumerate(WITHIN):
            if reached[index] is None and best <= landscape.best * (1 + within):
                reached[index] = case.n_gpus * now
        if case.what == "reach" and reached[0] is not None:
            is_there.set()

    runner = ReplayRunner(landscape, case.n_gpus, on_end)
    run(sweep, runner, budget, is_there.is_set)
    n_trials = len(study.get_trials(deepcopy=False))
    return Found(reached, runner.gpu_seconds, best, n_trials, has_winner)


def _space(case: Case, landscape: Landscape, folder: Path) -> Space:
    ranks, rates, epochs, batches = (landscape.values(place) for place in range(4))
    path = folder / "space.yaml"
    (folder / "rows.jsonl").write_text("{}")
    path.write_text(
        f"base_model: none\ndata: {{train: rows.jsonl, eval: 0.1}}\n"
        f"sampler: {case.sampler}\nseed: {case.seed}\n"
        f"pruning: {PRUNING.get(case.pruning, case.pruning)}\n"
        f"search: {{rank: {ranks}, learning_rate: {rates}, epochs: {epochs}, "
        f"effective_batch_size: {batches}, lr_scheduler: {case.scheduler}}}\n{case.space}"
    )
    return load_space(path)


def _simulated(case: Case) -> tuple[Case, Found]:
    landscape = _landscapes[case.scheduler, case.seed % 2]
    with tempfile.TemporaryDirectory() as folder:
        return case, simulate(case, landscape, Path(folder))


def all_found(
    cases: Sequence[Case], landscapes: dict[tuple[str, int], Landscape], n_processes: int
) -> dict[Case, list[Found]]:
    """Simulate all cases; those that differ in seed alone come together."""
    _landscapes.update(landscapes)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.disable(logging.WARNING)
    found: dict[Case, list[Found]] = defaultdict(list)
    with multiprocessing.get_context("fork").Pool(n_processes) as pool:
        for case, result in pool.imap(_simulated, cases, chunksize=4):
            found[Case(**{**asdict(case), "seed": 0})].append(result)
    return found


def in_a_row(values: Sequence[float | None]) -> str:
    """Median and 90th percentile, never reached as infinite."""
    numbers = sorted(math.inf if value is None else value for value in values)
    low = median(numbers)
    high = numbers[math.ceil(0.9 * len(numbers)) - 1]
    return f"{_shown(low)} ({_shown(high)})"


def _shown(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:,.0f}"


def _rows(found: dict[Case, list[Found]], what: str) -> None:
    for case, results in found.items():
        start = f"| {case.sampler} | {case.pruning} | {case.n_gpus} |"
        if what == "reach":
            cells = [in_a_row([r.reached[i] for r in results]) for i in range(len(WITHIN))]
            cells.append(f"{median(r.n_trials for r in results):.0f}")
        elif what == "budget":
            seconds = [r.gpu_seconds for r in results]
            bests = [r.best for r in results]
            cells = [in_a_row(seconds), f"{fmean(bests):.4f}", f"{median(bests):.4f}"]
            cells.append(f"{quantiles(bests, n=10)[-1]:.4f}")
        else:
            n_cut = sum(not r.has_winner for r in results)
            cells = [f"{n_cut / len(results):.1%}", in_a_row([r.gpu_seconds for r in results])]
        print(start, " | ".join(cells), "|", flush=True)


@dataclass(frozen=True, slots=True)
class OverfitStops:
    """Of recorded runs, each judged as if it were alone."""

    n_runs: int
    n_stopped: int
    n_wrong: int
    """Stopped, though they would have fallen more than 0.5 % below their best until then."""
    n_rose: int
    """Whose last eval loss is more than 1 % above their best, while their train loss fell."""
    n_missed: int
    """Of these, those that were not stopped before their end."""
    saved: float
    """Share of all seconds."""


WRONG_BY = 0.005


def overfit_stops(scheduler: str, runs: Sequence[Run]) -> OverfitStops:
    """Judge recorded runs as a sweep does, with its usual settings."""
    judge = ByItself(Pruning(diverged=DivergedSettings(factor=1e9)), n_evaluations=N_EVALUATIONS)
    n_stopped = n_wrong = n_rose = n_missed = 0
    saved = 0.0
    for recorded in runs:
        points = recorded.points[1:]
        found = (n for n in range(1, len(points)) if judge.verdict(points[:n], None, scheduler))
        stop = next(found, None)
        rose = _has_overfitted(recorded)
        n_rose += rose
        if stop is None:
            n_missed += rose
            continue
        n_stopped += 1
        saved += recorded.seconds[-1] - points[stop - 1].seconds
        before = min(point.eval_loss for point in points[:stop])
        n_wrong += min(point.eval_loss for point in points[stop:]) < before * (1 - WRONG_BY)
    share = saved / sum(recorded.seconds[-1] for recorded in runs)
    return OverfitStops(len(runs), n_stopped, n_wrong, n_rose, n_missed, share)


def _has_overfitted(recorded: Run) -> bool:
    last, best = recorded.points[-1], recorded.best
    assert last.train_loss is not None and best.train_loss is not None
    return last.eval_loss > best.eval_loss * 1.01 and last.train_loss < best.train_loss


def main() -> None:
    """Read the command line, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=["reach", "budget", "winner", "overfit"], default="reach")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    parser.add_argument(
        "--pruning",
        nargs="+",
        default=list(PRUNING),
        help=f"{', '.join(PRUNING)}, or YAML: {{outclassed: {{rungs: [0.2], factor: 4}}}}",
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--landscape", type=Path, default=LANDSCAPE)
    parser.add_argument("--scheduler", default="cosine")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--space", default="", help="further lines of the YAML")
    parser.add_argument("--json", type=Path, help="write all results there")
    asked = parser.parse_args()
    landscapes = read_landscapes(asked.landscape)
    if asked.what == "overfit":
        for scheduler in sorted({of for of, _ in landscapes}):
            some = [there for (of, _), there in landscapes.items() if of == scheduler]
            runs = [recorded for there in some for recorded in there.runs.values()]
            print(scheduler, overfit_stops(scheduler, runs))
        return
    for seed in (0, 1):
        there = landscapes[asked.scheduler, seed]
        print(f"seed {seed}: {len(there.runs)} runs, {there.gpu_seconds:,.0f} GPU-seconds, best ")
        print(f"{there.best:.4f} at {there.winner}")
    for sampler, pruning, n_gpus in itertools.product(asked.samplers, asked.pruning, asked.gpus):
        cases = [
            Case(
                asked.what,
                sampler,
                pruning,
                n_gpus,
                seed,
                scheduler=asked.scheduler,
                space=asked.space,
                n_trials=asked.trials,
            )
            for seed in range(asked.seeds)
        ]
        found = all_found(cases, landscapes, asked.processes)
        _rows(found, asked.what)
        if asked.json is not None:
            _append(asked.json, found)


def _append(path: Path, found: dict[Case, list[Found]]) -> None:
    rows: list[dict[str, Any]] = [
        {**asdict(case), "found": [asdict(r) for r in results]} for case, results in found.items()
    ]
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
