"""Simulated workers: a `Runner` whose trials only report curves, in real time or without waiting.

What is simulated is the training alone. An evaluation, the end of a trial and a GPU's next trial
come when a GPU would give them, and a trial waits for each verdict, as real ones do.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sweep.events import Ended, Place, Reported, RunnerEvent, Started
from trials.config import EvalPoint, Outcome, Stop, TrialConfig, TrialResult

GPUS_OF_A_NODE = 8
SECONDS = (20 * 60.0, 60 * 60.0)
"""Of a trial that runs to its end; each takes some time in between."""
WIND_DOWN_SECONDS = 2.0
"""From the verdict, or the last evaluation, to the end: the adapter is written, the GPU cleaned."""
LOST_SHARE = 0.003
"""Of evaluations after which the trial's machine is lost."""
ADAPTER_BYTES = 20_000


@dataclass
class Measured:
    """What happened in real time, in seconds."""

    began: float
    verdicts: list[float] = field(default_factory=list)
    """From an evaluation to its verdict."""
    free: list[float] = field(default_factory=list)
    """From a trial's end to the next one's beginning on its GPU."""

    def idle_share(self, n_gpus: int, now: float) -> float:
        """Of all GPU time, the part in which GPUs waited for the driver."""
        return (sum(self.verdicts) + sum(self.free)) / (n_gpus * (now - self.began))


@dataclass
class _Running:
    config: TrialConfig
    place: Place
    gpu: int
    seconds: float
    """Of a whole run."""
    losses: list[float]
    chance: random.Random
    points: list[EvalPoint] = field(default_factory=list)
    end: TrialResult | None = None


class SimulatedRunner:
    """So many GPUs, each busy with one trial.

    Args:
        in_real_time: From the beginning; else `in_real_time` is called later.
    """

    def __init__(self, n_gpus: int, *, in_real_time: bool = False) -> None:
        self._n_gpus = n_gpus
        self._begun: deque[Started] = deque()
        self._free = [(0.0, gpu) for gpu in range(n_gpus)]
        """When a GPU became free, and which."""
        self._events: list[tuple[float, int, int]] = []
        """When, a number that makes the order total, of which trial."""
        self._count = itertools.count()
        self._ended: deque[tuple[float, int]] = deque()
        """When a trial ended that the loop does not know of yet, and which."""
        self.running: dict[int, _Running] = {}
        self._now = 0.0
        self._real_since: float | None = None
        self.measured: Measured | None = None
        if in_real_time:
            self.in_real_time()

    def in_real_time(self) -> None:
        """From now on an event waits for its time, and delays are measured."""
        self._real_since = time.monotonic() - self._now
        self.measured = Measured(began=self._now)

    def without_waiting(self) -> None:
        """From now on events follow each other as fast as the driver takes them."""
        self._now, self._real_since, self.measured = self.now, None, None

    @property
    def now(self) -> float:
        """Seconds since the simulation began."""
        if self._real_since is None:
            return self._now
        return time.monotonic() - self._real_since

    @property
    def n_free(self) -> int:
        """GPUs without a trial."""
        return len(self._free)

    def start(self, number: int, config: TrialConfig) -> None:
        """Begin a trial on the GPU that has been free longest."""
        since, gpu = heapq.heappop(self._free)
        if self.measured is not None:
            self.measured.free.append(self.now - max(since, self.measured.began))
        chance = random.Random(f"{number} {config.seed}")
        place = Place(f"node-{gpu // GPUS_OF_A_NODE:04d}", f"GPU {gpu % GPUS_OF_A_NODE}")
        seconds = chance.uniform(*SECONDS)
        losses = curve(config, chance)
        trial = _Running(config, place, gpu, seconds, losses, chance)
        self.running[number] = trial
        self._begun.append(Started(config, place))
        first = seconds / config.n_evaluations
        if self._real_since is None:  # as if those that run had not begun all at once
            first *= chance.random()
        self._at(self.now + first, number)

    def wait(self, until: Callable[[], bool]) -> Iterator[RunnerEvent]:
        """Let time pass until a trial ends. All evaluations that are due have their verdicts first,
        as with real workers.
        """
        while self._begun:
            yield self._begun.popleft()
        while True:
            yield from self._let_happen()
            if self._ended:
                due, number = self._ended.popleft()
                trial = self.running.pop(number)
                heapq.heappush(self._free, (due, trial.gpu))
                assert trial.end is not None
                yield Ended(number, trial.end)
                return
            if until():
                return
            if self._real_since is not None:
                time.sleep(min(0.05, max(0.0, self._events[0][0] - self.now)))

    def _let_happen(self) -> Iterator[Reported]:
        """Take all that is due; without waiting, the next thing."""
        while self._events:
            due, _, number = self._events[0]
            if self._real_since is not None and due > self.now:
                return
            heapq.heappop(self._events)
            self._now = max(self._now, due)
            trial = self.running[number]
            if trial.end is None:
                yield from self._evaluate(number, trial, due)
            else:
                self._ended.append((due, number))
            if self._real_since is None:
                return

    def _at(self, when: float, number: int) -> None:
        heapq.heappush(self._events, (when, next(self._count), number))

    def _evaluate(self, number: int, trial: _Running, due: float) -> Iterator[Reported]:
        n_evaluations = trial.config.n_evaluations
        if trial.config.evaluate_base and not trial.points:
            base = point_of(trial.config, 0, 3.0, trial.seconds, trial.chance)
            yield Reported(number, base, lambda verdict: None)
        index = len(trial.points) + 1
        loss = trial.losses[index - 1]
        point = point_of(trial.config, index, loss, trial.seconds, trial.chance)
        trial.points.append(point)
        said: list[Stop | None] = []
        yield Reported(number, point, said.append)
        [verdict] = said
        if self.measured is not None:
            self.measured.verdicts.append(self.now - due)
        if verdict is not None:
            self._end(number, trial, verdict.outcome, verdict.reason)
        elif trial.chance.random() < LOST_SHARE:
            trial.end = TrialResult(
                outcome="failed",
                reason="The machine of the trial was lost.",
                cause="lost",
                fault="machine_lost",
            )
            self._at(self.now, number)
        elif index == n_evaluations:
            self._end(number, trial, "completed", "Ran to its end.")
        else:
            self._at(self.now + trial.seconds / n_evaluations, number)

    def _end(self, number: int, trial: _Running, outcome: Outcome, reason: str) -> None:
        finite = [point for point in trial.points if point.is_finite]
        trial.end = TrialResult(
            outcome=outcome,
            reason=reason,
            best=min(finite, key=lambda point: point.eval_loss, default=None),
            micro_batch_size=trial.config.micro_batch_size,
            gradient_checkpointing=False,
            training_seconds=0.9 * trial.points[-1].seconds,
            evaluation_seconds=0.1 * trial.points[-1].seconds,
        )
        _write(trial)
        self._at(self.now + WIND_DOWN_SECONDS, number)


def curve(config: TrialConfig, chance: random.Random) -> list[float]:
    """Eval losses as of a LoRA run: they fall, some rise again, some are lost."""
    off = math.log10(config.learning_rate / 3e-4) + 0.15 * math.log2(
        config.effective_batch_size / 16
    )
    floor = 1.6 + 0.25 * off**2 - 0.01 * math.log2(config.rank) + 0.3 * config.dropout
    floor += chance.gauss(0.0, 0.01)
    pace = 4.0 / (1.0 + max(0.0, off))
    losses = []
    for index in range(1, config.n_evaluations + 1):
        share = index / config.n_evaluations
        loss = floor + 0.9 * math.exp(-index / pace) + chance.gauss(0.0, 0.004)
        if config.epochs > 1:  # the second pass learns rows by heart
            loss += 0.15 * (config.epochs - 1) * max(0.0, share - 0.6) * max(0.0, 1.0 + off)
        losses.append(loss)
    if config.learning_rate > 6e-3:
        losses[chance.randrange(2, 6) :] = [math.nan] * config.n_evaluations
    return losses[: config.n_evaluations]


def point_of(
    config: TrialConfig, index: int, eval_loss: float, seconds: float, chance: random.Random
) -> EvalPoint:
    """An evaluation of a trial whose whole run takes so many seconds."""
    share = index / config.n_evaluations
    return EvalPoint(
        index=index,
        step=50 * index,
        epoch=share * config.epochs,
        eval_loss=eval_loss,
        train_loss=None if index == 0 else eval_loss - 0.1 - 0.3 * share,
        learning_rate=None if index == 0 else config.learning_rate * (1.0 - share),
        grad_norm=None if index == 0 else 1.0 + chance.random(),
        tokens_per_second=None if index == 0 else 9000.0 + 500.0 * chance.random(),
        gpu_memory_gib=21.5,
        seconds=share * seconds,
    )


def _write(trial: _Running) -> None:
    """What a worker leaves in a trial's folder."""
    folder = Path(trial.config.output_dir)
    (folder / "adapter").mkdir(parents=True, exist_ok=True)
    lines = [f"step {point.step} eval {point.eval_loss}" for point in trial.points]
    (folder / "log.txt").write_text("\n".join(lines))
    (folder / "config.json").write_text(json.dumps(asdict(trial.config)))
    (folder / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": trial.config.model.name, "r": trial.config.rank})
    )
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"w" * ADAPTER_BYTES)
