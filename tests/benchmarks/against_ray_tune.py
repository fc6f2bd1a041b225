"""`sweep run` beside Ray Tune on equal terms: `python -m tests.benchmarks.against_ray_tune`.

    python -m tests.benchmarks.against_ray_tune --rows e2e/ --work compared/ --seeds 0 1

Each side searches the same space with the same model, rows, number of trials, seed and two
processes on processors, each with one thread. The sides take turns, each in a process of its own:
Ray Tune with Optuna, ASHA, TRL's SFTTrainer and MLflow (`tests.benchmarks.sft_under_tune`), the
same with `reuse_actors`, and the command `sweep run` with its usual settings, also with four times
as many trials, which is about as long as Ray Tune takes.

All eval losses are the mean nats per completion token of all eval rows. Ray Tune's trials evaluate
all rows in one batch, so that TRL's mean of batch means is that. `sweep run` judges by a sample of
the rows, its rule; what its trials count for here is the loss of their saved adapters on all rows,
measured afterwards, row by row. Those that it stopped count for nothing.

A side has reached a loss when it was first to be had. Times begin with the side's process. In Ray
Tune's favour: a report counts at once, though no adapter is on disk, and none is ever written;
sweep's trials count when they have ended and their adapter is on disk. TRL evaluates at steps of
whole twentieths, rounded up, and so less often than sweep.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

from tests.benchmarks.landscape import LEARNING_RATES, prepared

TICKS = os.sysconf("SC_CLK_TCK")
"""A second in Linux's accounts of processors."""
MARGIN = 0.002
"""Losses this near to each other, relative, count as the same."""
SIDES = {
    "sweep": "`sweep run`",
    "sweep-4": "`sweep run`, four times the trials",
    "tune": "Ray Tune",
    "tune-reuse": "Ray Tune, `reuse_actors=True`",
}
PARTS = ("start", "imports", "set_up", "training", "evaluation")
SPACE = """\
base_model: {base}
quantization: none
compute_dtype: float32
data: {{train: train.jsonl, eval: eval.jsonl, max_length: 256}}
search:
  rank: [2, 8, 32]
  alpha: {{times_rank: 2}}
  learning_rate: {{min: {rates[0]}, max: {rates[1]}, log: true}}
  epochs: [1, 3, 8]
  effective_batch_size: [8, 16, 32]
budget: {{trials: {trials}}}
keep_adapters: {trials}  # to measure them all afterwards
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Searched:
    """What one side did. All times in seconds."""

    side: str
    seed: int
    wall_seconds: float
    """From the start of its process to the end."""
    own_cpu_seconds: float
    """Of processors, by all of its processes, Ray's included."""
    others_cpu_seconds: float
    """Of processors meanwhile, by all others on the machine: it should be near 0."""
    first_trial_seconds: float
    """From there to the start of the first trial."""
    trial_seconds: float
    """In which trials held a worker, summed over trials."""
    parts: dict[str, float]
    """Of a trial, on average: those of `PARTS` that are known."""
    n_trials: int
    n_evaluations: int
    losses: list[tuple[float, float]]
    """When, since the start of its process, and which eval loss could be had from then on."""

    @property
    def best(self) -> float:
        """The lowest eval loss."""
        return min((loss for _, loss in self.losses), default=math.inf)

    def seconds_to(self, loss: float) -> float:
        """When an eval loss as low as that was first to be had; infinite: never."""
        return min((at for at, found in self.losses if found <= loss), default=math.inf)


def main() -> None:
    """Run all sides in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, required=True, help="a folder with train.jsonl")
    parser.add_argument("--work", type=Path, required=True, help="for the model and all output")
    parser.add_argument("--model", choices=sorted(LEARNING_RATES), default="small")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one round for each")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["tune", "sweep"])
    parser.add_argument("--json", type=Path, help="all figures go there too")
    asked = parser.parse_args()
    work = asked.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    prepared(asked.model, asked.rows, work)
    found: list[Searched] = []
    for turn, seed in enumerate(asked.seeds):
        for side in asked.sides[:: -1 if turn % 2 else 1]:
            found.append(searched(side, asked, work, seed))
            if asked.json:
                asked.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    print_table(found)


def searched(side: str, asked: argparse.Namespace, work: Path, seed: int) -> Searched:
    """Run one side in a process of its own and return what it did."""
    output = work / f"{side}-{seed}-{time.strftime('%H%M%S')}"
    output.mkdir()
    base = base_folder(asked.model, work)
    rates = (LEARNING_RATES[asked.model][0], LEARNING_RATES[asked.model][-1])
    if side.startswith("sweep"):
        n_trials = asked.trials * (4 if side == "sweep-4" else 1)
        space = SPACE.format(base=base, rates=rates, trials=n_trials)
        (work / "compared.yaml").write_text(space)
        command = [
            *("-m", "sweep", "run", str(work / "compared.yaml"), "--json"),
            *("--workers", "2", "--seed", str(seed), "--output", str(output)),
        ]
    else:
        command = [
            *("-m", "tests.benchmarks.sft_under_tune", "--work", str(work)),
            *("--output", str(output), "--base-model", base),
            *("--trials", str(asked.trials), "--seed", str(seed)),
            *("--learning-rate", *map(str, rates)),
            *(["--reuse-actors"] if side == "tune-reuse" else []),
        ]
    run = timed([sys.executable, *command], output)
    if side.startswith("sweep"):
        return of_sweep(side, seed, output, base, run)
    return of_tune(side, seed, output, run)


def base_folder(model: str, work: Path) -> str:
    """Return where the base model lies, for both sides."""
    if model == "small":
        return str(work / "base")
    from trials.models.smollm2 import smollm2_dir

    return str(smollm2_dir())


@dataclass(frozen=True, slots=True)
class Run:
    """Of a side's process: when it began and ended, in seconds of the epoch."""

    began: float
    ended: float
    own_cpu_seconds: float
    others_cpu_seconds: float


class Processors:
    """Processor seconds of a side and of everybody else: others at work show in the wall time.

    A side's processes are known by a variable of their environment, which Ray's inherit too. They
    are looked at twice a second; what one does after the last look is missed.
    """

    def __init__(self, marker: str) -> None:
        self._marker = marker.encode()
        self._own: dict[int, float] = {}
        self._is_own: dict[int, bool] = {}
        self._began = _busy_seconds()

    def look(self) -> None:
        """Take the times of all processes there are."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                pid = int(folder.name)
                if not self._is_own.get(pid):
                    self._is_own[pid] = self._marker in (folder / "environ").read_bytes()
                if self._is_own[pid]:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    self._own[pid] = (int(fields[11]) + int(fields[12])) / TICKS

    def seconds(self) -> tuple[float, float]:
        """Return the side's and all others' since the beginning."""
        own = sum(self._own.values())
        return own, _busy_seconds() - self._began - own


def _busy_seconds() -> float:
    """Of all processors since the machine was started: user, nice, system."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / TICKS


def timed(command: list[str], output: Path) -> Run:
    """Run a side."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(output / "datasets"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # as `sweep run` has it: others shall not slow one side more
        "COMPARED_SIDE": str(output),
    }
    processors = Processors(f"COMPARED_SIDE={output}\0")
    began = time.time()
    with (output / "stdout.jsonl").open("w") as out, (output / "log.txt").open("w") as log:
        side = subprocess.Popen(command, env=environment, stdout=out, stderr=log)
        while side.poll() is None:
            processors.look()
            time.sleep(0.5)
    run = Run(began, time.time(), *processors.seconds())
    if side.returncode:
        raise SystemExit(f"{command} failed: see {output}")
    return run


Events = dict[Any, dict[str, list[dict[str, Any]]]]


def read_events(path: Path) -> Events:
    """Return {trial: {event: its occurrences}}."""
    events: Events = defaultdict(lambda: defaultdict(list))
    for line in path.read_text().splitlines():
        event = json.loads(line)
        if "trial" in event:
            events[event["trial"]][event["event"]].append(event)
    return events


def of_tune(side: str, seed: int, output: Path, run: Run) -> Searched:
    """Read what Tune's callbacks wrote."""
    trials = list(read_events(output / "events.jsonl").values())
    reports = [report for trial in trials for report in trial["trial_reported"]]
    return Searched(
        side=side,
        seed=seed,
        losses=[(report["time"] - run.began, report["eval_loss"]) for report in reports],
        parts=mean_parts([tune_parts(trial) for trial in trials]),
        **common(trials, run),
    )


def tune_parts(trial: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Where the time of one trial went."""
    [started], [ended], first = (
        trial["trial_started"],
        trial["trial_ended"],
        trial["trial_reported"][0],
    )
    evaluation = sum(report["eval_runtime"] for report in trial["trial_reported"])
    return {
        "start": first["entered_at"] - started["time"],
        "imports": first["imported_at"] - first["entered_at"],
        "set_up": first["ready_at"] - first["imported_at"],
        "training": ended["time"] - first["ready_at"] - evaluation,
        "evaluation": evaluation,
    }


def of_sweep(side: str, seed: int, output: Path, base: str, run: Run) -> Searched:
    """Read the command's events, and measure its adapters on all eval rows."""
    events = read_events(output / "stdout.jsonl")
    adapters = {
        number: folder
        for number in events
        if (folder := output / f"compared/trials/{number:03d}/adapter").exists()
    }
    losses = losses_of(base, output / "compared/data/eval", adapters)
    (output / "losses.json").write_text(json.dumps(losses))
    at = {number: trial["trial_ended"][-1]["time"] - run.began for number, trial in events.items()}
    trials = list(events.values())
    return Searched(
        side=side,
        seed=seed,
        losses=[(at[number], loss) for number, loss in losses.items()],
        parts=mean_parts([sweep_parts(trial) for trial in trials]),
        **common(trials, run),
    )


def sweep_parts(trial: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Where the time of one trial went; imports and the base model are before the first."""
    ended = trial["trial_ended"][-1]  # one that was paused has several, each with all its seconds
    seconds = sum(end - start for start, end in spans_of(trial))
    training, evaluation = ended["training_seconds"], ended["evaluation_seconds"]
    return {
        "set_up": seconds - training - evaluation,
        "training": training,
        "evaluation": evaluation,
    }


def spans_of(trial: dict[str, list[dict[str, Any]]]) -> list[tuple[float, float]]:
    """Return when each part of a trial began and ended; one that ends while paused has no more."""
    started, ended = trial["trial_started"], trial["trial_ended"]
    return [(one["time"], other["time"]) for one, other in zip(started, ended, strict=False)]


def common(trials: list[dict[str, list[dict[str, Any]]]], run: Run) -> dict[str, Any]:
    """Return the figures that are read in the same way on all sides."""
    spans = [span for trial in trials for span in spans_of(trial)]
    return {
        "own_cpu_seconds": run.own_cpu_seconds,
        "others_cpu_seconds": run.others_cpu_seconds,
        "wall_seconds": run.ended - run.began,
        "first_trial_seconds": min(start for start, _ in spans) - run.began,
        "trial_seconds": sum(end - start for start, end in spans),
        "n_trials": len(trials),
        "n_evaluations": sum(len(trial["trial_reported"]) for trial in trials),
    }


def mean_parts(parts: list[dict[str, float]]) -> dict[str, float]:
    """Return the average trial."""
    return {name: mean(each[name] for each in parts) for name in PARTS if name in parts[0]}


def losses_of(base: str, rows_dir: Path, adapters: dict[int, Path]) -> dict[int, float]:
    """Return each adapter's mean nats per completion token of all rows, with nothing but peft."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - torch's own spelling
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from trials.data.tokens import TokenRows

    torch.set_num_threads(1)  # they wait for each other long where others use the processors
    rows = TokenRows(rows_dir, max_length=256)
    losses = {}
    for number, folder in adapters.items():
        model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
        model = PeftModel.from_pretrained(model, folder).eval()
        nats, n_tokens = 0.0, 0
        for index in range(len(rows)):
            row = {name: torch.as_tensor(values) for name, values in rows[index].items()}
            with torch.no_grad():
                logits = model(input_ids=row["input_ids"][None]).logits[0, :-1]
            nats += float(F.cross_entropy(logits, row["labels"][1:], reduction="sum"))
            n_tokens += int((row["labels"][1:] >= 0).sum())
        losses[number] = nats / n_tokens
    return losses


def print_table(found: list[Searched]) -> None:
    """Print a row for each side of each seed, and where an average trial's time went."""
    print(
        "\n| seed | side | wall time | processor seconds, those of others | trial-seconds "
        f"| evaluations | best eval loss | to within {MARGIN:.1%} of the better best "
        "| to the worse best |\n" + "|---" * 9 + "|"
    )
    for seed, of_seed in groupby(sorted(found, key=lambda one: one.seed), lambda one: one.seed):
        sides = list(of_seed)
        better, worse = min(one.best for one in sides), max(one.best for one in sides)
        for one in sides:
            print(
                f"| {seed} | {SIDES[one.side]} | {one.wall_seconds:.0f} s "
                f"| {one.own_cpu_seconds:.0f}, {one.others_cpu_seconds:.0f} "
                f"| {one.trial_seconds:.0f} | {one.n_evaluations} | {one.best:.4f} "
                f"| {in_words(one.seconds_to(better * (1 + MARGIN)))} "
                f"| {in_words(one.seconds_to(worse))} |"
            )
    print("\n| seed | side | before the first trial | of a trial: " + " | ".join(PARTS) + " |")
    print("|---" * (3 + len(PARTS)) + "|")
    for one in found:
        parts = " | ".join(f"{one.parts[p]:.2f} s" if p in one.parts else "–" for p in PARTS)
        print(f"| {one.seed} | {SIDES[one.side]} | {one.first_trial_seconds:.1f} s | {parts} |")


def in_words(seconds: float) -> str:
    """Return them as the table has them."""
    return f"{seconds:.0f} s" if math.isfinite(seconds) else "never"


if __name__ == "__main__":
    main()
