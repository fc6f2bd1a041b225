"""Machines of our own inside this one: each with its own network, processes, name and files.

Linux namespaces, which take root and the commands `ip`, `unshare` and `nsenter`. Whatever lives in
them hangs from one process that reads from a pipe which the caller holds open: when the caller
ends, however it does, the kernel ends all of it, interfaces included.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

REPOSITORY = Path(__file__).parents[2]
NETWORKS = "10.77.{}"
"""Of 254 addresses each; the machine outside has the last one."""
OUTSIDE = 254
TEMPORARY = Path("/tmp")
HOME = TEMPORARY / "home"
SLICE_SECONDS = 0.25
"""A slow machine runs and stands still in turn; both together take so long."""

# /proc is still that of the caller: a process reads there under which id the caller knows it.
SAY_WHO = "read -r pid _ < /proc/self/stat; echo $pid;"
UNTIL_THE_CALLER_ENDS = SAY_WHO + "read -r"
# PRIVATE folders are empty and the machine's own, but for what lies in them of SHARED ones.
MACHINE = f"""
set -e
{SAY_WHO}
hostname "$NAME"
mount -o remount,bind,ro /
mount -t tmpfs machine /mnt
for folder in $PRIVATE; do mkdir -p -m 1777 /mnt/$folder; done
for folder in $SHARED $DISK; do
  for private in $PRIVATE; do
    case $folder in $private/*) mkdir -p /mnt$folder; mount --bind $folder /mnt$folder;; esac
  done
done
[ -z "$DISK" ] || mount -o remount,bind,rw /mnt$DISK
for folder in $PRIVATE; do mount --rbind /mnt/$folder $folder; done
umount --recursive --lazy /mnt
mkdir {HOME}
printf '127.0.0.1 localhost\\n%s %s\\n' "$ADDRESS" "$NAME" > {TEMPORARY}/hosts
mount --bind {TEMPORARY}/hosts /etc/hosts
mount -t proc proc /proc
ip link set lo up
echo ready
read -r  # bash buries whatever is orphaned here
"""


def why_not() -> str | None:
    """Say why there can be no machines here, or None."""
    missing = [name for name in ("ip", "unshare", "nsenter", "bash") if not shutil.which(name)]
    if missing:
        return f"no command {missing[0]} here"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"],
        capture_output=True,
        text=True,
    )
    if os.geteuid() != 0 or tried.returncode:
        return f"namespaces take root: {tried.stderr.strip() or 'this is another user'}"
    return None


class Machine:
    """One machine of a network.

    Attributes:
        name: As its own programs see it.
        address: In the network.
    """

    def __init__(
        self, network: Network, name: str, number: int, *, shared: Sequence[Path], disk: Path | None
    ) -> None:
        self.name = name
        self.address = f"{network.prefix}.{number}"
        self._network = network
        self._port = f"port{number}"
        self._slowed: threading.Event | None = None
        self._runs: list[subprocess.Popen[bytes]] = []
        private = [TEMPORARY, Path("/var/tmp"), Path("/dev/shm"), Path.home()]
        self._process = subprocess.Popen(
            [
                *("nsenter", "--target", str(network.pid), "--pid", "--"),
                *("unshare", "--net", "--mount", "--uts", "--pid", "--fork"),
                *("bash", "-c", MACHINE),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # unshare complains there of how it was ended
            start_new_session=True,
            env={
                **os.environ,
                "NAME": name,
                "ADDRESS": self.address,
                "PRIVATE": " ".join(map(str, private)),
                "SHARED": " ".join(map(str, shared)),
                "DISK": str(disk or ""),
            },
        )
        self.pid = _said_pid(self._process)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", f"{name} has not come up"
        network.plug(self._port, self.pid)
        inside = ("nsenter", "--target", str(self.pid), "--net", "--", "ip")
        _run(*inside, "address", "add", f"{self.address}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")

    @property
    def files(self) -> Path:
        """Its root folder, as seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def is_up(self) -> bool:
        """Whether it has not been killed."""
        return psutil.pid_exists(self.pid)

    def command(self, *words: str, environment: Mapping[str, str] | None = None) -> list[str]:
        """The command that runs `words` on this machine, in its user's home."""
        return [
            *("nsenter", "--target", str(self.pid), "--net", "--mount", "--uts", "--pid", "--"),
            # Ray's settings of the caller are for a Ray of its own, such as to listen on localhost.
            *("env", *(f"--unset={key}" for key in os.environ if key.startswith("RAY_"))),
            *("--unset=XDG_CACHE_HOME", f"--chdir={HOME}", f"HOME={HOME}"),
            f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}",
            f"PYTHONPATH={REPOSITORY}",
            *(f"{key}={value}" for key, value in (environment or {}).items()),
            *words,
        ]

    def start(self, *words: str, environment: Mapping[str, str], log: Path) -> None:
        """Run `words` in the background until they end or the machine does."""
        child = ("bash", "-c", '"$@"; exit', "bash", *words)  # of a process that lives here too
        with log.open("ab") as output:
            self._runs.append(
                subprocess.Popen(
                    self.command(*child, environment=environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def kill(self) -> None:
        """End every process on it at once; it does not come back."""
        if self._slowed is not None:
            self.hurry()
        if self.is_up:
            os.kill(self.pid, signal.SIGKILL)  # the first process of its own: the kernel ends all
        for process in (self._process, *self._runs):
            process.communicate()  # it closes the pipes, too

    def unplug(self) -> None:
        """Take its network away: nothing is refused, nothing arrives."""
        self._network.switch(self._port, "down")

    def plug(self) -> None:
        """Give its network back."""
        self._network.switch(self._port, "up")

    def disconnect(self, seconds: float) -> None:
        """Take its network away for so long, and wait."""
        self.unplug()
        time.sleep(seconds)
        self.plug()

    def slow(self, factor: float) -> None:
        """Let its processes run for one `factor`-th of the time only, until `hurry`."""
        assert self._slowed is None, f"{self.name} is slow already"
        self._slowed = threading.Event()
        threading.Thread(target=self._brake, args=(self._slowed, factor), daemon=True).start()

    def hurry(self) -> None:
        """Let its processes run at full speed again."""
        assert self._slowed is not None, f"{self.name} is not slow"
        self._slowed.set()
        self._slowed = None

    def _brake(self, is_over: threading.Event, factor: float) -> None:
        while not is_over.wait(SLICE_SECONDS / factor):
            # nsenter stops with its child, and does not go on with it: its children are spared.
            processes = [process for process in self.processes() if self._has_parent(process)]
            _send(processes, signal.SIGSTOP)
            is_over.wait(SLICE_SECONDS * (1 - 1 / factor))
            _send(processes, signal.SIGCONT)

    def _has_parent(self, process: psutil.Process) -> bool:
        try:
            return _process_namespace(process.ppid()) == _process_namespace(self.pid)
        except psutil.NoSuchProcess:
            return False

    def processes(self) -> list[psutil.Process]:
        """Those that run on it."""
        mine, found = _process_namespace(self.pid), []
        for process in psutil.process_iter():
            if process.pid != self.pid and _process_namespace(process.pid) == mine:
                found.append(process)
        return found


class Network:
    """A switch with machines on it, and with this machine.

    Args:
        shared: Folders that all machines can read, though they lie in a private place.
    """

    def __init__(self, shared: Sequence[Path] = ()) -> None:
        self._shared = [REPOSITORY, *map(Path, {sys.prefix, sys.base_prefix}), *shared]
        self.machines: list[Machine] = []
        self._process = subprocess.Popen(
            ["unshare", "--net", "--pid", "--fork", "bash", "-c", UNTIL_THE_CALLER_ENDS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # unshare complains there of how it was ended
            start_new_session=True,
        )
        self.pid = _said_pid(self._process)
        self._inside = ("nsenter", "--target", str(self.pid), "--net", "--", "ip")
        _run(*self._inside, "link", "add", "name", "switch", "type", "bridge")
        _run(*self._inside, "link", "set", "switch", "up")
        self.name, self.prefix = self._come_in()

    def _come_in(self) -> tuple[str, str]:
        """Put this machine on the switch.

        Returns:
            Its interface there, and the three numbers that all addresses begin with.
        """
        for number in itertools.count(1):
            name, prefix = f"sweep{number}", NETWORKS.format(number)
            made = subprocess.run(
                [
                    *("ip", "link", "add", "name", name, "type", "veth"),
                    *("peer", "name", "outside", "netns", str(self.pid)),
                ],
                capture_output=True,
                text=True,
            )
            if made.returncode and "File exists" in made.stderr:
                continue  # another network's
            assert made.returncode == 0, made.stderr
            _run("ip", "address", "add", f"{prefix}.{OUTSIDE}/24", "dev", name)
            _run("ip", "link", "set", name, "up")
            _run(*self._inside, "link", "set", "outside", "master", "switch", "up")
            return name, prefix
        raise AssertionError

    def add(self, name: str, *, disk: Path | None = None) -> Machine:
        """Switch a new machine on.

        Args:
            disk: A folder below a private place that it has at the same path, to write to.
        """
        number = len(self.machines) + 1
        machine = Machine(self, name, number, shared=self._shared, disk=disk)
        self.machines.append(machine)
        return machine

    def plug(self, port: str, pid: int) -> None:
        """Lay a cable from a port of the switch to `eth0` of a process's network."""
        kind = ("type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _run(*self._inside, "link", "add", "name", port, *kind)
        _run(*self._inside, "link", "set", port, "master", "switch", "up")

    def switch(self, port: str, state: str) -> None:
        """Set a port `up` or `down`."""
        _run(*self._inside, "link", "set", port, state)

    def close(self) -> None:
        """End all machines, and the network with them."""
        for machine in self.machines:
            machine.kill()
        self._process.communicate()  # it closes the pipe that keeps the switch alive

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _said_pid(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


def _process_namespace(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink()
    except OSError:
        return None


def _send(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
