"""Machines made of namespaces: what the tests of a cluster rest on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.machines import Machine, Network, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"no machines: {why_not()}")

ANSWERS = "import socket; socket.create_server(('0.0.0.0', 5000)).accept(); print('called')"
CALLS = "import socket, sys; socket.create_connection((sys.argv[1], 5000), timeout=float(5))"


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


def says(machine: Machine, *words: str) -> str:
    done = subprocess.run(machine.command(*words), capture_output=True, text=True, timeout=60)
    return done.stdout.strip() or done.stderr.strip()


def answers(machine: Machine) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        machine.command(sys.executable, "-c", ANSWERS), stdout=subprocess.PIPE, text=True
    )
    while "5000" not in says(machine, "ss", "--listening", "--tcp", "--numeric"):
        time.sleep(0.1)
    return server


def test_each_machine_has_its_own_name_processes_and_files(network: Network) -> None:
    one, two = network.add("one"), network.add("two")
    Path(one.files / "tmp/mine").write_text("of one")
    assert [says(machine, "hostname") for machine in (one, two)] == ["one", "two"]
    assert says(one, "cat", "/tmp/mine") == "of one"
    assert "No such file" in says(two, "cat", "/tmp/mine")
    assert not Path("/tmp/mine").exists()
    assert len(says(one, "ps", "-e", "--no-headers").splitlines()) == 2  # its first one, and ps


def test_what_lies_outside_of_the_private_folders_cannot_be_written(network: Network) -> None:
    assert "Read-only" in says(network.add("one"), "touch", "/opt/mine")


def test_the_head_alone_has_its_disk(network: Network, tmp_path: Path) -> None:
    head, node = network.add("head", disk=tmp_path), network.add("node")
    assert says(head, "touch", str(tmp_path / "written")) == ""
    assert (tmp_path / "written").exists()
    assert "No such file" in says(node, "ls", str(tmp_path))


def test_machines_reach_each_other_and_are_reached_from_outside(network: Network) -> None:
    one, two = network.add("one"), network.add("two")
    server = answers(one)
    assert says(two, sys.executable, "-c", CALLS, one.address) == ""
    assert server.communicate(timeout=30)[0] == "called\n"
    server = answers(one)
    subprocess.run([sys.executable, "-c", CALLS, one.address], check=True)
    assert server.communicate(timeout=30)[0] == "called\n"


def test_nothing_arrives_while_a_cable_is_out(network: Network) -> None:
    one, two = network.add("one"), network.add("two")
    server = answers(one)
    one.unplug()
    words = says(two, sys.executable, "-c", CALLS, one.address)
    assert "timed out" in words or "No route to host" in words
    one.plug()
    assert says(two, sys.executable, "-c", CALLS, one.address) == ""
    assert server.communicate(timeout=30)[0] == "called\n"


def test_a_killed_machine_leaves_no_process(network: Network, tmp_path: Path) -> None:
    machine = network.add("one")
    machine.start("sleep", "1000", environment={}, log=tmp_path / "log.txt")
    while not machine.processes():
        time.sleep(0.1)
    processes = machine.processes()
    machine.kill()
    assert not any(process.is_running() for process in processes)
    assert not machine.is_up


def test_a_slow_machine_stands_still_most_of_the_time(network: Network, tmp_path: Path) -> None:
    machine = network.add("one")
    machine.start(
        *(sys.executable, "-c", "while True: pass"), environment={}, log=tmp_path / "log.txt"
    )
    while not (busy := [p for p in machine.processes() if p.cmdline()[:1] == [sys.executable]]):
        time.sleep(0.1)
    machine.slow(10.0)
    seen = []
    for _ in range(40):
        time.sleep(0.05)
        seen.append(busy[-1].status())
    assert seen.count(psutil.STATUS_STOPPED) > 20
    machine.hurry()
    time.sleep(1.0)
    assert busy[-1].status() != psutil.STATUS_STOPPED


def test_all_of_it_ends_when_its_maker_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from tests.cluster.machines import Network\n"
        "network = Network(); machine = network.add('one')\n"
        f"machine.start('sleep', '1000', environment={{}}, log=Path('{tmp_path}/log.txt'))\n"
        "print(network.name, machine.pid, flush=True); time.sleep(1000)"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert maker.stdout is not None
    name, pid = maker.stdout.readline().split()
    assert Path(f"/sys/class/net/{name}").exists()
    os.kill(maker.pid, signal.SIGKILL)
    maker.communicate()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(int(pid)) or Path(f"/sys/class/net/{name}").exists():
        assert time.monotonic() < deadline, "something is left"
        time.sleep(0.1)
