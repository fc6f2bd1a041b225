"""A sweep under test: its folder, its command, and every process that the command starts."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil
from optuna.storages import BaseStorage

from sweep.storage.postgresql import Address
from tests import tiny

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

NAME = "tiny"
REPOSITORY = Path(__file__).parents[2]

SPACE = """\
base_model: {base}
data: {{train: train.jsonl, eval: eval.jsonl, max_length: 64}}
search:
  rank: [4, 8, 16]
  learning_rate: {{min: 1e-4, max: 1e-2, log: true}}
  effective_batch_size: 8
  epochs: {epochs}
evaluate: {{times: 10}}
budget: {{trials: {n_trials}}}
keep_adapters: 3
checkpoint_minutes: 0.02
"""

DRAWN_ALONE = "sampler: random\n"
"""No draw looks at other trials, so that whatever the timing each trial has one right curve."""
ALONE = DRAWN_ALONE + "pruning: {outclassed: false}\n"
"""No verdict looks at other trials either: each trial has one right result."""


def write_space(
    folder: Path, base: Path, *, n_trials: int, epochs: str = "[20, 30]", more: str = ALONE
) -> Path:
    """Write a search space with its rows; returns the YAML file.

    Args:
        more: Further lines; with none all is as it is by default.
    """
    folder.mkdir(parents=True)
    tiny.write_rows(folder / "train.jsonl", 48, seed=2)
    tiny.write_rows(folder / "eval.jsonl", 64, seed=3)
    space = folder / f"{NAME}.yaml"
    space.write_text(SPACE.format(base=base, n_trials=n_trials, epochs=epochs) + more)
    return space


WHOM = COMMAND, GROUP, ALL = "the command", "the command's group", "all its processes"
"""Who gets a signal: of `kill`; of `timeout` or a closing terminal; of systemd."""


class Processes:
    """Every process that a command starts: by descent, and, for orphans, by a mark.

    The mark is a variable of the environment, which children inherit. Ray's workers write their
    title over it, so they are known by descent, from looks at the tree while it stands.
    """

    def __init__(self, root: int, mark: str) -> None:
        self._root = psutil.Process(root)
        self._mark = mark.encode()
        self._seen = {self._root}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._is_over.wait(0.2):
            try:
                self._seen |= set(self._root.children(recursive=True))
            except psutil.NoSuchProcess:
                return

    @property
    def alive(self) -> list[psutil.Process]:
        """Those that run now."""
        return [process for process in {*self._seen, *self._marked()} if _runs(process)]

    def _marked(self) -> set[psutil.Process]:
        found = set()
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark in environment.read_bytes():
                    found.add(psutil.Process(int(environment.parent.name)))
            except (OSError, psutil.NoSuchProcess):
                continue
        return found

    def left(self, seconds: float) -> list[str]:
        """Wait for all to be gone; end and return those that are not."""
        deadline = time.monotonic() + seconds
        while (alive := self.alive) and time.monotonic() < deadline:
            time.sleep(0.2)
        self._is_over.set()
        words = [f"{process.pid} {title(process)}" for process in alive]
        for process in alive:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        return words


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def title(process: psutil.Process) -> str:
    """The command line of a process, or what it has made of it."""
    try:
        return " ".join(process.cmdline())[:100]
    except psutil.NoSuchProcess:
        return "(gone meanwhile)"


class SweepUnderTest:
    """One sweep, whose command is started, disturbed and started again until it has ended.

    Args:
        space: The YAML file, in a folder of its own.
        output: Where sweeps are written; None: beside the file.
        mlflow: A server's address; None: the sweep's own database.
        mlflow_db: The database of that server, if it is a file.
        study: The address of the study's database; None: a file in the sweep's folder.
        environment: What the command's environment has beside ours.
        workers: Trials that run at once.
    """

    def __init__(
        self,
        space: Path,
        *,
        output: Path | None = None,
        mlflow: str | None = None,
        mlflow_db: Path | None = None,
        study: str | None = None,
        environment: Mapping[str, str] | None = None,
        workers: int = 2,
    ) -> None:
        self.space = space
        self.workers = workers
        self.output = output or space.parent / "out"
        self.dir = self.output / NAME
        self.mlflow = mlflow or f"sqlite:///{self.dir}/mlflow.db"
        self.mlflow_db = self.dir / "mlflow.db" if mlflow is None else mlflow_db
        self._study = study
        self._options = ["--mlflow", mlflow] if mlflow else []
        self._options += ["--study", study] if study else []
        self._environment = dict(environment or {})
        self._log = space.parent / "output.txt"
        self._log_begins = 0

    @property
    def study_db(self) -> Path | None:
        """The study's database, if it is a file."""
        return None if self._study else self.dir / "study.db"

    def storage(self) -> str | BaseStorage:
        """The storage of the study, as Optuna takes it."""
        return Address.parse(self._study).reader() if self._study else f"sqlite:///{self.study_db}"

    def start(self) -> None:
        """Start `sweep run`, or go on with it: it is the same command."""
        self._start("run", str(self.space), "--workers", f"{self.workers}", *self._options)

    def sync(self) -> None:
        """Start `sweep sync`, which sends what did not reach MLflow."""
        self._start("sync", NAME)

    def _start(self, *words: str) -> None:
        mark = f"SWEEP_FAULTS_ID={uuid.uuid4()}"
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "XDG_CACHE_HOME": str(self.space.parent / "cache"),
            **self._environment,
            **dict([mark.split("=")]),
        }
        with self._log.open("a") as log:
            self._log_begins = log.tell()
            self._command = subprocess.Popen(
                self._command_line(*words),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a Ctrl-C at the campaign is none at the sweep
            )
        self.started_at = time.monotonic()
        self.processes = Processes(self._command.pid, mark)
        atexit.register(self.processes.left, 0.0)  # however the campaign itself ends

    def _command_line(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "sweep", *words, "--output", str(self.output)]

    @property
    def words(self) -> str:
        """What the command has said since it was last started."""
        with self._log.open(errors="replace") as log:
            log.seek(self._log_begins)
            return log.read()

    @property
    def has_begun(self) -> bool:
        """Whether a trial has begun since the command was last started."""
        return re.search(r"^\S+  trial .*  starts on ", self.words, re.MULTILINE) is not None

    @property
    def pid(self) -> int:
        """Of the command."""
        return self._command.pid

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, negative for a signal; None: it still runs after so long."""
        try:
            return self._command.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def wait_until_begun(self, seconds: float = 180) -> bool:
        """Wait for the first trial; false if the command ends or hangs before."""
        deadline = time.monotonic() + seconds
        while not self.has_begun and time.monotonic() < deadline:
            if self.wait(0.1) is not None:
                return self.has_begun
        return self.has_begun

    def send(self, number: int, to: str = COMMAND) -> None:
        """Send a signal to one of `WHOM`."""
        if self.wait(0) is not None:
            return
        if to == COMMAND:
            self._command.send_signal(number)
        elif to == GROUP:
            os.killpg(self._command.pid, number)
        else:
            for process in self.processes.alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def at_work(self) -> dict[int, psutil.Process]:
        """The worker process of each running trial: the one whose output is the trial's log."""
        found = {}
        for process in self.processes.alive:
            try:
                log = Path(f"/proc/{process.pid}/fd/1").readlink()
            except OSError:
                continue
            if log.name == "log.txt" and log.parent.parent == (self.dir / "trials").resolve():
                found[int(log.parent.name)] = process
        return found

    def gone(self, seconds: float = 30) -> list[str]:
        """Wait for every process to be gone, end those left, and return what they were."""
        left = self.processes.left(seconds)
        self._command.wait()
        return left
