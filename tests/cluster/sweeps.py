"""A sweep whose command runs on a cluster's head, as a job does."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.cluster.machines import HOME, Machine
from tests.cluster.nodes import Cluster
from tests.faults.campaign import NAME, SweepUnderTest, title

STARTS = re.compile(r"^\S+  trial (\d+) .* starts on \S.* of (\S+)$", re.MULTILINE)
ENDS = re.compile(r"^\S+  trial (\d+)  [a-z_ ]+: ", re.MULTILINE)
REPORTS = re.compile(r"^\S+  trial (\d+) +(\d+)%  step ", re.MULTILINE)
ACTORS = ("ray::Worker", "ray::NodeFiles")
"""Titles of the processes that a sweep has on nodes."""


class SweepOnCluster(SweepUnderTest):
    """One sweep on a cluster.

    Args:
        space: The YAML file, on the head's disk.
        cluster: Where it runs.
    """

    def __init__(self, space: Path, cluster: Cluster) -> None:
        super().__init__(space, environment=cluster.environment)
        self.cluster = cluster

    def start(self) -> None:
        """Start `sweep run`, on all GPUs of the cluster."""
        self._start("run", str(self.space))

    def _command_line(self, *words: str) -> list[str]:
        python = ("python", "-m", "sweep", *words, "--output", str(self.output))
        return self.cluster.head.command(*python, environment=self.cluster.environment)

    def gone(self, seconds: float = 30) -> list[str]:
        """Wait until neither the command nor its workers run, on any node; what is left of it."""
        left = super().gone(seconds)
        deadline = time.monotonic() + seconds
        while (on_nodes := self._left_on_nodes()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return left + on_nodes

    def _left_on_nodes(self) -> list[str]:
        found = []
        for machine in (self.cluster.head, *self.cluster.workers):
            titles = [title(process) for process in machine.processes()]
            found += [f"{machine.name}: {words}" for words in titles if words.startswith(ACTORS)]
            folders = machine.files.glob("tmp/sweep-????????????-????????")
            found += [f"{machine.name}: {folder.name}" for folder in folders]
        return found

    @property
    def starts(self) -> list[tuple[int, str]]:
        """The trials that have begun, each as often as it has, with the node."""
        return [(int(number), node) for number, node in STARTS.findall(self.words)]

    def n_starts(self) -> Counter[int]:
        """How often each trial has begun."""
        return Counter(number for number, _ in self.starts)

    def running(self) -> dict[int, str]:
        """The trials that run now, by their command's words, with the node of each."""
        found: dict[int, str] = {}
        for line in self.words.splitlines():
            if started := STARTS.match(line):
                found[int(started[1])] = started[2]
            elif ended := ENDS.match(line):
                found.pop(int(ended[1]), None)
        return found

    def on(self, machine: Machine) -> set[int]:
        """The trials that run now on a node."""
        return {number for number, node in self.running().items() if node == machine.name}

    @property
    def dir_there(self) -> Path:
        """The sweep's folder where it runs, as seen from here."""
        return self.dir

    def log_of(self, number: int) -> str:
        """What a trial has said, as far as that is in the sweep's folder."""
        path = self.dir_there / "trials" / f"{number:03d}" / "log.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def has_checkpoint(self, number: int) -> bool:
        """Whether the sweep's folder has what a running trial would go on from."""
        return (self.dir_there / "trials" / f"{number:03d}" / "checkpoint.safetensors").exists()

    def wait_until(self, is_so: Callable[[], bool], seconds: float = 240) -> bool:
        """Wait for something; false if the command ends or nothing happens before."""
        deadline = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > deadline or self.wait(0.2) is not None:
                return is_so()
        return True


class SubmittedSweep(SweepOnCluster):
    """One sweep that is submitted from outside, followed and fetched.

    Args:
        space: The YAML file, on this machine.
        cluster: Where it runs.
    """

    def __init__(self, space: Path, cluster: Cluster) -> None:
        super().__init__(space, cluster)
        self._environment = dict(cluster.access)

    def start(self) -> None:
        """Submit it; the command ends when the sweep has."""
        self._start("submit", str(self.space), "--no-check", "--follow", "--wait")

    def _command_line(self, *words: str) -> list[str]:
        at = ("--address", self.cluster.dashboard)
        return [sys.executable, "-m", "sweep", *words, *at, "--to", str(self.output)]

    @property
    def dir_there(self) -> Path:
        """The sweep's folder on the head, as seen from here."""
        return self.cluster.head.files / HOME.relative_to("/") / "sweeps" / NAME
