"""How many GPUs one driver keeps busy: `python -m tests.benchmarks.scale --gpus 1000`.

The driver is the real one: study, pruners, loop, adapters, screen, MLflow tracker, on a real
PostgreSQL and a real MLflow server. Only the training is simulated. The study grows as fast as the
driver can to the sizes of `--at`, without MLflow; at each size the pace becomes that of real GPUs
for some minutes and is measured, at the last size with MLflow. At the end the study is opened once
more.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from sqlalchemy import event
from sqlalchemy.engine import Engine

from sweep.driver.adapters import Adapters
from sweep.driver.interrupt import StopSignals
from sweep.driver.loop import run
from sweep.screen.live import LiveScreen
from sweep.screen.progress import Progress
from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.storage.patient import Patience, PatientStorage
from sweep.study.budget import Budget
from sweep.study.opening import open_study
from sweep.study.sweep import Sweep
from sweep.study.trial_config import resolver
from sweep.tracking.mlflow_tracker import MlflowTracker
from tests.benchmarks.seeded import seed
from tests.benchmarks.servers import MlflowOnPostgresql, mlflow_server, postgresql
from tests.benchmarks.simulated import SimulatedRunner
from trials.config import EvalPoint, Stop, TrialConfig, TrialResult

SPACE = """\
name: scale
base_model: none
data: {{train: rows.jsonl, eval: 0.1}}
search:
  rank: [8, 16, 32, 64]
  alpha: {{times_rank: [1, 2]}}
  learning_rate: {{min: 1e-5, max: 1e-2, log: true}}
  epochs: [1, 2, 3]
  effective_batch_size: [8, 16, 32, 64]
  dropout: {{min: 0, max: 0.1}}
sampler: {sampler}
pruning: {{outclassed: {{pruner: {pruner}}}}}
"""


@dataclass
class Costs:
    """Seconds of the driver's main thread, call by call: on the clock, and of a processor."""

    ask: list[tuple[float, float]] = field(default_factory=list)
    report: list[tuple[float, float]] = field(default_factory=list)
    tell: list[tuple[float, float]] = field(default_factory=list)


@contextmanager
def timed(costs: list[tuple[float, float]]) -> Iterator[None]:
    """Note what a block takes."""
    clock, processor = time.perf_counter(), time.thread_time()
    yield
    costs.append((time.perf_counter() - clock, time.thread_time() - processor))


class Timed(Sweep):
    """The study, with a watch in its hand."""

    costs = Costs()

    def ask(self, paused: int | None = None) -> tuple[int, TrialConfig]:
        """Timed."""
        with timed(self.costs.ask):
            return super().ask(paused)

    def report(self, number: int, point: EvalPoint) -> Stop | None:
        """Timed."""
        with timed(self.costs.report):
            return super().report(number, point)

    def tell(self, number: int, result: TrialResult) -> bool:
        """Timed."""
        with timed(self.costs.tell):
            return super().tell(number, result)


class Commits:
    """Transactions that this process has written."""

    def __init__(self) -> None:
        self.n = 0
        event.listen(Engine, "commit", self._count)

    def _count(self, connection: object) -> None:
        self.n += 1


class Benchmark:
    """One study, grown and measured at several sizes."""

    def __init__(
        self,
        options: argparse.Namespace,
        folder: Path,
        study_url: str,
        server: MlflowOnPostgresql | None,
    ) -> None:
        self._options, self._folder, self._url, self._server = options, folder, study_url, server
        self._space = _space(folder, options)
        self._resolve = resolver(
            self._space, backend="transformers", on_gpus=True, output_dir=folder, data_dir=folder
        )
        self._commits = Commits()
        self._process = psutil.Process()
        self._budget = Budget(None, None)
        self._stop = StopSignals(is_asked=self._is_over)
        self._stages: Iterator[None] = iter(())
        self._next_look = 0.0
        self._queue: list[tuple[float, int]] = []
        self._tracker: MlflowTracker | None = None

    def run(self) -> None:
        """Grow, measure, open anew."""
        if self._options.seeded:
            began = time.monotonic()
            storage = PatientStorage(self._url, Patience())
            seed(storage, self._space, self._resolve, self._options.seeded)
            _say(f"seeded with {self._options.seeded} trials in {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        self._sweep = self._open()
        _say("opened", f"{self._sweep.n_ended()} trials in {time.monotonic() - began:.1f} s")
        self._runner = SimulatedRunner(self._options.gpus)
        self._stages = self._all_stages()
        self._screen = self._make_screen()
        self._adapters = Adapters(self._sweep, self._folder, keep=5, drop=lambda number, path: None)
        self._sweep.trackers = [self._screen]
        with self._screen:
            run(self._sweep, self._runner, self._budget, self._stop.is_given)
        self._sweep.interrupt()
        if self._tracker is not None:
            began = time.monotonic()
            self._tracker.close_sweep("FINISHED", None, "")
            _say(
                "MLflow is closed after", f"{time.monotonic() - began:.1f} s", self._tracker.unsent
            )
        began = time.monotonic()
        sweep = self._open()
        seconds = time.monotonic() - began
        _say("opened anew", f"{sweep.n_ended()} ended trials in {seconds:.1f} s")

    def _open(self) -> Timed:
        study = open_study(self._space, PatientStorage(self._url, Patience()))
        return Timed(self._space, study, self._resolve)

    def _make_screen(self) -> LiveScreen:
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115
        console = Console(file=nowhere, force_terminal=True, width=140, height=50)
        return LiveScreen(console, Progress(self._budget), "scale")

    def _is_over(self) -> bool:
        """Called by the loop between two events: the place to look at the clock."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + 0.2
            return next(self._stages, "over") == "over"
        return False

    def _all_stages(self) -> Iterator[None]:
        for n_trials in self._options.at:
            yield from self._grow(n_trials)
            yield from self._measure(n_trials)

    def _grow(self, n_trials: int) -> Iterator[None]:
        self._runner.without_waiting()
        self._sweep.trackers = [self._screen]
        Timed.costs = Costs()
        began, n_before = time.monotonic(), self._sweep.n_ended()
        if self._options.real_start:
            return
        while self._sweep.n_ended() < n_trials:
            yield
        n = self._sweep.n_ended() - n_before
        if n:
            _say("grown by", f"{n} trials in {time.monotonic() - began:.0f} s")
        if Timed.costs.ask:
            asks = [processor for _, processor in Timed.costs.ask]
            _say("  ask, of a processor", _percentiles(asks))

    def _measure(self, n_trials: int) -> Iterator[None]:
        Timed.costs = Costs()
        if self._server is not None and n_trials == self._options.at[-1]:
            self._attach_mlflow()
        self._queue.clear()
        n_commits, n_ended = self._commits.n, self._sweep.n_ended()
        n_requests = self._server.n_requests() if self._server else 0
        cpu, began = time.process_time(), time.monotonic()
        self._runner.in_real_time()
        while (elapsed := time.monotonic() - began) < 60 * self._options.minutes:
            if self._tracker is not None:
                self._queue.append((elapsed, self._tracker.unsent))
            yield
        measured = self._runner.measured
        assert measured is not None
        cores = (time.process_time() - cpu) / elapsed
        costs = Timed.costs
        _say(f"--- {self._sweep.n_ended()} trials have ended, {len(self._runner.running)} run")
        _say("load of the machine", " ".join(f"{load:.1f}" for load in os.getloadavg()))
        _say("reports, ends a second", f"{len(costs.report) / elapsed:.1f}",
             f"{(self._sweep.n_ended() - n_ended) / elapsed:.2f}")  # fmt: skip
        _say(
            "idle share of GPUs", f"{measured.idle_share(self._options.gpus, self._runner.now):.3%}"
        )
        _say("report to verdict", _percentiles(measured.verdicts))
        _say("GPU free to next trial", _percentiles(measured.free))
        for name in ("ask", "report", "tell"):
            both = getattr(costs, name)
            _say(f"  {name}", _percentiles([clock for clock, _ in both]))
            _say(f"  {name}, of a processor", _percentiles([processor for _, processor in both]))
        _say("driver", f"{cores:.2f} cores, {self._process.memory_info().rss / 2**30:.2f} GiB")
        _say("transactions a second", f"{(self._commits.n - n_commits) / elapsed:.1f}")
        if self._server is not None:
            n = self._server.n_requests() - n_requests
            _say("MLflow requests a second", f"{n / elapsed:.1f}")
            every = max(1, len(self._queue) // 6)
            _say("MLflow queue", ", ".join(f"{n} at {t:.0f} s" for t, n in self._queue[::every]))

    def _attach_mlflow(self) -> None:
        if self._tracker is None:
            assert self._server is not None
            self._tracker = MlflowTracker(
                uri=self._server.address, name="scale", artifacts_dir=None, output_dir=self._folder
            )
            space_path = self._folder / "space.yaml"
            self._tracker.open_sweep({"gpus": self._options.gpus}, {}, space_path)
            self._adapters = Adapters(
                self._sweep, self._folder, keep=5, drop=self._tracker.drop_adapter
            )
            self._adapters.put_right()
        for trial in self._runner.running.values():  # they began while the study only grew
            self._tracker.trial_started(trial.config, trial.place)
        self._sweep.trackers = [self._screen, self._tracker, self._adapters]


def _space(folder: Path, options: argparse.Namespace) -> Space:
    (folder / "rows.jsonl").write_text("{}")
    path = folder / "space.yaml"
    text = SPACE.format(sampler=options.sampler, pruner=options.pruner)
    path.write_text(text)
    return load_space(path)


def _percentiles(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    places = {
        name: min(len(ordered) - 1, int(share * len(ordered))) for name, share in shares.items()
    }
    words = ", ".join(f"{name} {1000 * ordered[place]:.1f}" for name, place in places.items())
    return f"{words} ms (of {len(ordered)})"


def _say(*words: object) -> None:
    # Not sys.stdout: while the live screen is on, that is a line above its table.
    print(time.strftime("%H:%M:%S"), *words, file=sys.__stdout__, flush=True)


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument("--at", type=int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--seeded", type=int, default=0, help="ended trials that are there already")
    parser.add_argument("--minutes", type=float, default=3.0, help="measured at each size")
    parser.add_argument("--storage", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument("--no-mlflow", action="store_true")
    parser.add_argument("--mlflow-workers", type=int, default=2)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--pruner", default="successive_halving")
    parser.add_argument("--real-start", action="store_true", help="begin at a real pace at once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        folder.chmod(0o755)  # PostgreSQL may run as another user
        (folder / "sweep").mkdir()
        study_url, server = f"sqlite:///{folder / 'sweep' / 'study.db'}", None
        if options.storage == "postgresql" or not options.no_mlflow:
            address = stack.enter_context(postgresql(folder / "postgresql"))
            if options.storage == "postgresql":
                study_url = f"{address}/study"
            if not options.no_mlflow:
                server = stack.enter_context(
                    mlflow_server(folder / "mlflow", f"{address}/mlflow", options.mlflow_workers)
                )
        Benchmark(options, folder / "sweep", study_url, server).run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        _say("driver at most", f"{peak:.2f} GiB")


if __name__ == "__main__":
    main()
