"""A recorded landscape: the learning curves of every point of a grid, trained with this tool.

    python -m tests.benchmarks.landscape --rows e2e/ --work landscape/ --processes 2

E2E NLG rows (256 to learn, 128 to evaluate, no prompt in both), a base model (`--model small`, made
by `tests.benchmarks.small_base`; or smollm2-135m, for a GPU), rank x learning rate x epochs x
effective batch x two seeds, once with the cosine schedule; with `constant` and
`warmup_stable_decay` for the most epochs alone, which pass through all fewer ones. Each trial is
`trials.training.train.run_trial`, without pruning. What has run is kept in `--work`: the same
command goes on. `--write FILE` puts all that has run into one Parquet file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trials.config import AdapterChoices, EvalPoint, ModelConfig, TrialConfig, largest_divisor

N_TRAIN, N_EVAL = 256, 128
N_EVALUATIONS = 20
RANKS = (2, 8, 32)
EPOCHS = (1, 3, 8)
BATCHES = (8, 16, 32)
SEEDS = (0, 1)
LEARNING_RATES = {
    "small": (6e-4, 1.2e-3, 2.5e-3, 5e-3, 1e-2, 2e-2),
    "smollm2-135m": (1e-4, 3e-4, 6e-4, 1.2e-3, 2.5e-3, 5e-3),
}
ROW_NLLS_AT = (1, 2, 4, 8, 16)
"""From these evaluations on the next keeps the losses of single rows: where peers are compared."""


@dataclass(frozen=True, slots=True)
class Point:
    """Of the grid."""

    scheduler: str
    rank: int
    learning_rate: float
    epochs: int
    batch: int
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        rate = f"{self.learning_rate:g}"
        return f"{self.scheduler}-r{self.rank}-lr{rate}-e{self.epochs}-b{self.batch}-s{self.seed}"


def grid(model: str) -> list[Point]:
    """All points, in an order in which what has run at any time is a fair sample."""
    rates = LEARNING_RATES[model]
    points = [
        Point(scheduler, *point)
        for scheduler in ("cosine", "constant", "warmup_stable_decay")
        for point in itertools.product(RANKS, rates, EPOCHS, BATCHES, SEEDS)
        if scheduler == "cosine" or point[2] == max(EPOCHS)
    ]
    random.Random(0).shuffle(points)
    points.sort(key=lambda point: (point.scheduler != "cosine", point.seed))
    return points


def prepared(model: str, rows: Path, work: Path, n_eval: int = N_EVAL) -> tuple[ModelConfig, Path]:
    """Make the base model and the prepared data, unless they are there."""
    from tests.benchmarks.small_base import make_small_base, read_rows
    from trials.data.examples import Reading
    from trials.preparation.prepare import Request, prepare

    found = read_rows(rows / "train.jsonl")
    # Rows of one prompt stay together: what is evaluated asks for what was never answered.
    order = random.Random(0).sample(range(len(found)), len(found))
    place = {found[index]["prompt"]: index for index in order}
    found.sort(key=lambda row: order[place[row["prompt"]]])
    train, evaluated = found[:N_TRAIN], found[N_TRAIN : N_TRAIN + n_eval]
    name = model
    if model == "small":
        name = str((work / "base").resolve())
        if not (work / "base" / "config.json").exists():
            make_small_base(work / "base", found[N_TRAIN + n_eval :])
    config = ModelConfig(
        name=name,
        revision=None,
        quantization="none",
        compute_dtype="auto" if model != "small" else "float32",
        backend="transformers",
        max_length=256,
        trust_remote_code=False,
    )
    for file, kept in (("train", train), ("eval", evaluated)):
        text = "".join(
            json.dumps({"prompt": row["prompt"], "completion": " " + row["completion"]}) + "\n"
            for row in kept
        )
        (work / f"{file}.jsonl").write_text(text)
    request = Request(
        train=str((work / "train.jsonl").resolve()),
        eval=str((work / "eval.jsonl").resolve()),
        reading=Reading(),
        chat=False,
        loss_on="completion",
        model=config,
        max_lengths=[256],
        n_evaluations=N_EVALUATIONS,
        sample_rows=n_eval,
        smallest_epochs=min(EPOCHS),
        smallest_batch=min(BATCHES),
        adapters=AdapterChoices(
            target_modules=["all-linear"], experts=[False], use_dora=False, largest_rank=max(RANKS)
        ),
        micro_batch_size=16,
        optimizer="adamw",
        seed=0,
        output_dir=str((work / "data").resolve()),
        n_sample_rows=n_eval,
    )
    prepare(request)
    return config, work / "data"


def trial_config(point: Point, model: ModelConfig, data: Path, folder: Path) -> TrialConfig:
    """The point as the tool would train it."""
    return TrialConfig(
        number=0,
        model=model,
        data_dir=str(data.resolve()),
        output_dir=str(folder.resolve()),
        rank=point.rank,
        alpha=2 * point.rank,
        learning_rate=point.learning_rate,
        epochs=point.epochs,
        effective_batch_size=point.batch,
        gpus_per_trial=1,
        micro_batch_size=largest_divisor(point.batch, 16),
        eval_batch_size=64,
        max_length=256,
        dropout=0.0,
        warmup_ratio=0.03,
        weight_decay=0.0,
        lr_scheduler=point.scheduler,
        optimizer="adamw",
        max_grad_norm=1.0,
        target_modules="all-linear",
        use_rslora=False,
        use_dora=False,
        neftune_alpha=0.0,
        n_evaluations=N_EVALUATIONS,
        evaluate_base=True,
        checkpoint_minutes=1e6,
        stall_minutes=60.0,
        seed=point.seed,
        row_nlls_at=ROW_NLLS_AT,
    )


def work_off(model: str, rows: Path, work: Path, index: int, n_processes: int) -> None:
    """Train every point that is this process's and has not run."""
    config, data = prepared(model, rows, work)
    from trials.backends.loading import load
    from trials.memory.micro_batches import MicroBatchMemory
    from trials.training.train import run_trial

    base = load(config)
    memory = MicroBatchMemory()
    on_cpu = base.device.type == "cpu"
    # What else the machine does must not be in the curves.
    clock = time.process_time if on_cpu else time.perf_counter
    for point in grid(model)[index::n_processes]:
        file = work / "runs" / f"{point.name}.json"
        if file.exists():
            continue
        folder = work / f"trial-{index}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        points: list[dict[str, Any]] = []
        began = clock()

        def report(
            found: EvalPoint, began: float = began, points: list[dict[str, Any]] = points
        ) -> None:
            points.append(asdict(replace(found, seconds=clock() - began)))

        result = run_trial(trial_config(point, config, data, folder), base, memory, report)
        print(f"{point.name}: {result.reason}", flush=True)
        run = {"point": asdict(point), "curve": points, "why": result.reason}
        file.with_suffix(".tmp").write_text(json.dumps({**run, "seconds": clock() - began}))
        file.with_suffix(".tmp").rename(file)


def write(work: Path, file: Path) -> None:
    """Put all that has run into one Parquet file, a row for each evaluation."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from trials.evaluation.row_nlls import from_text

    records = []
    for path in sorted((work / "runs").glob("*.json")):
        run = json.loads(path.read_text())
        for found in run["curve"]:
            nlls = from_text(found["row_nlls"]).astype("float16") if found["row_nlls"] else None
            records.append(
                {
                    **run["point"],
                    "index": found["index"],
                    "step": found["step"],
                    "epoch": found["epoch"],
                    "eval_loss": found["eval_loss"],
                    "train_loss": found["train_loss"],
                    "learning_rate_now": found["learning_rate"],
                    "grad_norm": found["grad_norm"],
                    "tokens_per_second": found["tokens_per_second"],
                    "seconds": found["seconds"],
                    "row_nlls": nlls,
                }
            )
    types = {
        "scheduler": pa.dictionary(pa.int8(), pa.string()),
        **dict.fromkeys(("rank", "epochs", "batch", "seed", "index"), pa.int8()),
        "step": pa.int32(),
        "learning_rate": pa.float64(),
        "eval_loss": pa.float64(),
        **dict.fromkeys(("epoch", "train_loss", "learning_rate_now"), pa.float32()),
        **dict.fromkeys(("grad_norm", "tokens_per_second", "seconds"), pa.float32()),
        "row_nlls": pa.list_(pa.float16()),
    }
    schema = pa.schema(types)
    table = pa.Table.from_pylist(records, schema=schema)
    pq.write_table(table, file, compression="zstd", compression_level=19)
    print(f"{file}: {len(records)} evaluations, {file.stat().st_size:,} bytes")


def in_processes(module: str, n: int) -> None:
    """Run this command as so many processes, each with its `--index` and its share of the cores."""
    threads = str(max(1, (os.cpu_count() or 1) // n))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", module, *sys.argv[1:]]
    workers = [
        subprocess.Popen([*command, "--index", str(index)], env=environment) for index in range(n)
    ]
    for worker in workers:
        worker.wait()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="a folder with train.jsonl")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--model", choices=sorted(LEARNING_RATES), default="small")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", type=Path, help="a Parquet file; nothing is trained")
    parser.add_argument("--index", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write is not None:
        write(asked.work, asked.write)
    elif asked.index is not None:
        work_off(asked.model, asked.rows, asked.work, asked.index, asked.processes)
    else:
        (asked.work / "runs").mkdir(parents=True, exist_ok=True)
        prepared(asked.model, asked.rows, asked.work)
        in_processes("tests.benchmarks.landscape", asked.processes)


if __name__ == "__main__":
    main()
