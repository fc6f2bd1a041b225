"""Is 'probably better' right? 24 points, each trained with 30 seeds, and small sweeps of them.

    python -m tests.benchmarks.seeds --rows e2e/ --work seeds/ --processes 2
    python -m tests.benchmarks.seeds --work seeds/ --write tests/benchmarks/seeds.parquet
    python -m tests.benchmarks.seeds --judge --sweeps 1000

The rows and the base model are those of `tests.benchmarks.landscape`; a run's adapter is that of
its best evaluation on 64 rows, and is then measured on 256 others. What has run is kept in
`--work`.

`--judge` replays sweeps of 8 trials, each with one of its 30 seeds, on rows drawn for each sweep,
and asks the product what it says of each pair. The truth is the mean over all seeds on all rows;
trials whose difference has 0 in its 95 % interval are a tie.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from sweep.results.certainty import Scatter, lead_between
from tests.benchmarks.landscape import Point, in_processes, prepared, trial_config
from trials.config import TrialConfig
from trials.evaluation.row_nlls import RowLosses

RECORDED = Path(__file__).parent / "seeds.parquet"
N_SEEDS = 30
N_SWEEPS, N_TRIALS, N_ROWS = 40, 8, 64
POINTS = list(itertools.product((2, 8, 32), (2.5e-3, 5e-3), (1, 3), (8, 32)))
"""Rank, learning rate, epochs, effective batch: among the better half of the landscape."""
N_SAMPLE = 64
"""Rows on which a run's best evaluation is chosen."""
N_MEASURED = 256
MEASURED = "measured"
"""The split on which its adapter is measured afterwards."""


def grid() -> list[Point]:
    """All runs, those of one seed together: whatever has run is a fair sample."""
    return [Point("cosine", *point, seed) for seed in range(N_SEEDS) for point in POINTS]


def lay_out(rows: Path, work: Path) -> tuple[Any, Path]:
    """Prepare base and data as the landscape has them, and two samples of other rows."""
    from trials.data.tokens import TokenSplit

    model, data = prepared("small", rows, work, n_eval=N_SAMPLE + N_MEASURED)
    return model, _with_samples(data, work / "split", TokenSplit)


def _with_samples(data: Path, there: Path, split: Any) -> Path:
    if not there.exists():
        unfinished = there.with_suffix(".tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        rows = split.load(data / "eval")
        n = len(rows.lengths)
        rows.taken(list(range(N_SAMPLE)), 256).save(unfinished / "sample")
        rows.taken(list(range(N_SAMPLE, n)), 256).save(unfinished / MEASURED)
        for part in ("ids", "supervised", "offsets"):
            shutil.copy(data / f"train.{part}.npy", unfinished)
        unfinished.rename(there)
    return there


def work_off(rows: Path, work: Path, index: int, n_processes: int) -> None:
    """Train and measure every run that is this process's and has not run."""
    model, data = lay_out(rows, work)
    from trials.backends.loading import load
    from trials.memory.micro_batches import MicroBatchMemory
    from trials.training.train import run_trial

    base, memory = load(model), MicroBatchMemory()
    for point in grid()[index::n_processes]:
        file = work / "runs" / f"{point.name}.json"
        if file.exists():
            continue
        folder = work / f"trial-{index}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = replace(
            trial_config(point, model, data, folder), n_evaluations=8, evaluate_base=False
        )
        result = run_trial(config, base, memory, lambda _: None)
        found = run_trial(_of_adapter(config, folder), base, memory, lambda _: None)
        assert result.best is not None and found.best is not None
        run = {
            "point": asdict(point),
            "sample_loss": result.best.eval_loss,
            "loss": found.best.eval_loss,
            "row_nlls": found.best.row_nlls,
        }
        file.with_suffix(".tmp").write_text(json.dumps(run))
        file.with_suffix(".tmp").rename(file)
        print(f"{point.name}: {found.best.eval_loss:.4f}", flush=True)


def _of_adapter(config: TrialConfig, folder: Path) -> TrialConfig:
    return replace(config, measured_rows=MEASURED, measured_adapter=str(folder / "adapter"))


def write(work: Path, file: Path) -> None:
    """Put all that has run into one Parquet file, a row for each run."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from trials.data.tokens import TokenSplit
    from trials.evaluation.row_nlls import from_text

    records = []
    for point in grid():
        path = work / "runs" / f"{point.name}.json"
        if not path.exists():
            continue
        run = json.loads(path.read_text())
        nlls = from_text(run["row_nlls"]).astype("float16")
        fields = {key: value for key, value in asdict(point).items() if key != "scheduler"}
        records.append({**fields, "loss": run["loss"], "row_nlls": nlls})
    types = {
        **dict.fromkeys(("rank", "epochs", "batch", "seed"), pa.int8()),
        **dict.fromkeys(("learning_rate", "loss"), pa.float64()),
        "row_nlls": pa.list_(pa.float16()),
    }
    rows = TokenSplit.load(work / "split" / MEASURED)
    about = {"row_tokens": json.dumps(rows.supervised_tokens(256).tolist())}
    table = pa.Table.from_pylist(records, schema=pa.schema(types, metadata=about))
    pq.write_table(table, file, compression="zstd", compression_level=19)
    print(f"{file}: {len(records)} runs, {file.stat().st_size:,} bytes")


Key = tuple[int, float, int, int]
Losses = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recorded:
    """All runs: the nats of each row, by point and seed."""

    nlls: dict[Key, Losses]
    """(seeds, rows) of each point."""
    tokens: Losses
    """Supervised tokens of each row, (rows,)."""

    def mean(self, key: Key) -> Losses:
        """Eval loss on all rows of each seed, (seeds,)."""
        return np.asarray(self.nlls[key].sum(axis=1) / self.tokens.sum())

    def on(self, key: Key, seed: int, rows: npt.NDArray[np.int64]) -> RowLosses:
        """What a sweep that has drawn these rows sees of a run."""
        nlls = self.nlls[key][seed][rows]
        return RowLosses(float(nlls.sum() / self.tokens[rows].sum()), nlls)


def read(path: Path = RECORDED) -> Recorded:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    runs: dict[Key, dict[int, Losses]] = defaultdict(dict)
    for row in table.to_pylist():
        key = (row["rank"], row["learning_rate"], row["epochs"], row["batch"])
        runs[key][row["seed"]] = np.array(row["row_nlls"], dtype=np.float64)
    tokens = np.array(json.loads(table.schema.metadata[b"row_tokens"]), dtype=np.float64)
    return Recorded(
        {key: np.stack([of[s] for s in sorted(of)]) for key, of in runs.items()}, tokens
    )


def share_of_seeds(recorded: Recorded) -> dict[str, float]:
    """Return what `SEED_SHARE` stands for: of all points, and of the better half.

    Two seeds of a point differ in each row: ρ² = E[mean²] / E[variance] − 1 / rows.
    """
    order = sorted(recorded.nlls, key=lambda key: recorded.mean(key).mean())

    def pooled(keys: list[Key]) -> float:
        apart = [recorded.nlls[k][1:] - recorded.nlls[k][:-1] for k in keys]
        means = fmean(float((d.mean(axis=1) ** 2).mean()) for d in apart)
        variances = fmean(float(d.var(axis=1, ddof=1).mean()) for d in apart)
        return math.sqrt(max(0.0, means / variances - 1 / len(recorded.tokens)))

    return {"all points": pooled(order), "the better half": pooled(order[: len(order) // 2])}


def judge(recorded: Recorded, n_rows: int, n_sweeps: int, seed: int = 0) -> dict[str, Counter[str]]:
    """Count verdicts of sweeps, of all pairs and of winner and second, against the truth."""
    chance = np.random.default_rng(seed)
    keys, assumed = sorted(recorded.nlls), Scatter()
    n_seeds = len(recorded.nlls[keys[0]])
    found: dict[str, Counter[str]] = {"all pairs": Counter(), "winner and second": Counter()}
    for _ in range(n_sweeps):
        rows = chance.choice(len(recorded.tokens), n_rows, replace=False)
        drawn = [keys[i] for i in chance.choice(len(keys), N_TRIALS, replace=False)]
        seen = {key: recorded.on(key, int(chance.integers(n_seeds)), rows) for key in drawn}
        ranked = sorted(drawn, key=lambda key: seen[key].loss)
        for one, other in itertools.combinations(ranked, 2):
            lead = lead_between(seen[one], seen[other], assumed, n_trained=2)
            assert lead is not None
            kinds = _against_truth(lead.certainty, recorded.mean(one), recorded.mean(other))
            found["all pairs"].update(kinds)
            if (one, other) == tuple(ranked[:2]):
                found["winner and second"].update(kinds)
    return found


def _against_truth(said: str, one: Losses, other: Losses) -> list[str]:
    """What a verdict counts as; the first of the two was seen to be the better one."""
    from scipy.stats import t

    apart = other - one  # paired by seed: equal seeds draw equal orders
    half = t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / math.sqrt(len(apart))
    is_tie, is_right = abs(apart.mean()) <= half, apart.mean() > 0
    of_seeds = math.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2)
    kinds = ["pairs", f"said {said}"]
    if said == "probable":
        kinds.append("probable, right" if is_right else "probable, wrong")
    elif is_tie:
        kinds.append("unclear, a tie")
    if apart.mean() > 3 * of_seeds:
        kinds += ["far apart", *(["far apart, said"] if said == "probable" else [])]
    return kinds


def show(recorded: Recorded, n_sweeps: int) -> None:
    """Print the table of the README."""
    for which, rho in share_of_seeds(recorded).items():
        print(f"share of seeds, {which}: {rho:.2f}")
    print("| rows | pairs | said | right | far apart | of them said |")
    for n_rows in (32, 64, 128, len(recorded.tokens)):
        for which, n in judge(recorded, n_rows, n_sweeps).items():
            right = n["probable, right"] / max(1, n["said probable"])
            power = n["far apart, said"] / max(1, n["far apart"])
            print(f"| {n_rows} | {which}: {n['pairs']} | {n['said probable']} | {right:.1%} | "
                  f"{n['far apart']} | {power:.1%} |")  # fmt: skip


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, help="a folder with train.jsonl")
    parser.add_argument("--work", type=Path, help="where runs are kept")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path, help="a Parquet file; nothing is trained")
    parser.add_argument("--judge", action="store_true", help="replay sweeps; nothing is trained")
    parser.add_argument("--sweeps", type=int, default=N_SWEEPS, help="that --judge replays")
    parser.add_argument("--index", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.judge:
        show(read(), asked.sweeps)
    elif asked.write is not None:
        write(asked.work, asked.write)
    elif asked.index is not None:
        work_off(asked.rows, asked.work, asked.index, asked.processes)
    else:
        (asked.work / "runs").mkdir(parents=True, exist_ok=True)
        lay_out(asked.rows, asked.work)
        in_processes("tests.benchmarks.seeds", asked.processes)


if __name__ == "__main__":
    main()
