"""Ray itself: one of our own on this machine, or a cluster that is there; and what it has."""

import contextlib
import logging
import os
import queue
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from trials.foreign_text import in_a_line
from trials.parent import PROGRAM, module_command, module_environment

# Before Ray starts: it reads them once.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's default is 15: whatever else runs on the box would come before the trials.
os.environ.setdefault("RAY_worker_niceness", "0")
# Its library's own handler of signals: SIGTERM would abort the process while Ray connects, and when
# Ray ends the handler goes and takes ours with it, so that SIGTERM kills.
os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
if "RAY_ADDRESS" not in os.environ:
    # A Ray of our own is for this machine: its servers listen on localhost only. By its name the
    # switch is for other systems; what it does is to make localhost the node's address.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import psutil
import ray
from ray.job_config import JobConfig

from sweep.errors import ClusterError, SweepFailed
from sweep.workers import ray_folder
from sweep.workers.devices import gpus_for_ray, places_on
from sweep.workers.leftovers import processes_of
from sweep.workers.signals import heard_by, unheard_by_children


def is_joined() -> bool:
    """Whether trials run on a cluster that others have started."""
    return "RAY_ADDRESS" in os.environ


ANSWERS_WITHIN_SECONDS = 9
MEND = "Start the cluster, mend the address, or unset it to train on this machine."


def check_address() -> None:
    """See that the cluster that is named answers; `ray.init` would wait for ever, deaf to Ctrl-C.

    Raises:
        ClusterError: It does not.
    """
    answers: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ask(address: str) -> None:
        with contextlib.suppress(Exception):  # somebody answers: ray.init says it better
            ray._raylet.GcsClient(address=address)
        answers.put(None)

    named = os.environ["RAY_ADDRESS"]
    try:
        if address := ray._private.services.canonicalize_bootstrap_address(named):
            # Ray takes what follows the last colon for a port, whatever it is.
            if not address.rpartition(":")[2].isdecimal():
                raise ValueError(f"Invalid address format: {named}")
            threading.Thread(target=ask, args=(address,), daemon=True).start()
            answers.get(timeout=ANSWERS_WITHIN_SECONDS)
    except (queue.Empty, ConnectionError, ValueError) as error:
        why = str(error) or f"no cluster answers within {ANSWERS_WITHIN_SECONDS} seconds"
        raise ClusterError(
            f"RAY_ADDRESS must be where a Ray cluster runs, such as head:6379, but is {named!r}: "
            f"{why}. {MEND}"
        ) from None


def connect(*, n_cpu_workers: int | None) -> int:
    """Start Ray on this machine, or join the cluster that is named; return how many GPUs it has.

    Args:
        n_cpu_workers: Workers that will run on processors; None: trials run on GPUs.

    Raises:
        ClusterError: Ray does not start, or the cluster does not take us.
    """
    if not ray.is_initialized():
        if is_joined():
            check_address()
        own: dict[str, Any] = {} if is_joined() else {
            "_temp_dir": f"{_closed_to_others()}/ray",  # which Ray opens to everybody
            "address": "local",
            "num_cpus": max(n_cpu_workers or 0, os.cpu_count() or 1),
            "include_dashboard": False,
            "object_store_memory": ray_folder.STORE_BYTES,
            **({} if n_cpu_workers else gpus_for_ray()),
        }  # fmt: skip
        _replace_rays_own()
        with _undisturbed(), _in_words():
            ray.init(
                job_config=_ProgramAlone(), log_to_driver=False, logging_level=logging.ERROR, **own
            )
    return int(ray.cluster_resources().get("GPU", 0))


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Ray raises all there is, down to Exception itself: of a start that took above 30 s, say."""
    try:
        yield
    except Exception as error:
        does = "join the cluster" if is_joined() else "start on this machine"
        raise ClusterError(
            f"Ray does not {does}: {in_a_line(error)} On a machine that is very busy give the same "
            "command again: what there is goes on. Else look at it with: sweep doctor"
        ) from error


class _ProgramAlone(JobConfig):  # type: ignore[misc]
    """Of the folders that workers shall import from, the program's alone.

    Ray adds the current one, whose `torch.py` a worker would run. A job on a cluster has another
    configuration, with its own folder.
    """

    def _serialize(self) -> Any:
        folders: list[str] = self._py_driver_sys_path  # type: ignore[has-type]
        self._py_driver_sys_path = [folder for folder in folders if Path(folder) == PROGRAM]
        return super()._serialize()


TOKEN = "RAY_AUTH_TOKEN"


@dataclass(frozen=True, slots=True)
class _Own:
    """What belongs to a Ray of our own."""

    folder: str
    """Of its sockets and logs. In Ray's own, /tmp/ray, others may put theirs in place of them."""
    watcher: subprocess.Popen[bytes]
    """Ends what is left of Ray if this process is killed, and deletes the folder."""
    token_before: str | None
    """What the environment had for another Ray."""


_own: list[_Own] = []


def _closed_to_others() -> str:
    """Begin a Ray of our own, which nobody else may speak to; return its folder."""
    folder = tempfile.mkdtemp(prefix=ray_folder.PREFIX, dir=ray_folder.parent())
    _own.append(_Own(folder, _watch_for_leftovers(folder), os.environ.get(TOKEN)))
    _use_token(secrets.token_hex(32))
    return folder


def _use_token(token: str | None) -> None:
    """Let Ray take this token; by itself it writes one into ~/.ray, which others may read."""
    if token is None:
        os.environ.pop(TOKEN, None)
    else:
        os.environ[TOKEN] = token
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _replace_rays_own() -> None:
    """Replace functions of Ray for which it has no switch."""
    # Beside the logs, Ray prints its own long words into the table when a worker dies; ours say
    # which trial it was.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    ray._private.utils.set_sigterm_handler = lambda _: None  # it would exit at once
    ray._private.services.ConsolePopen = _RayProcess


class _RayProcess(subprocess.Popen[bytes]):
    """A process of Ray, which we need to end in order: signals that ask for an end are for us.

    A terminal, or `timeout`, sends them to our group, systemd to whatever we have started.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        with unheard_by_children():
            super().__init__(command, start_new_session=True, **options)

    def terminate(self) -> None:
        self.kill()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hear Ctrl-C and others when what stands below is done: Ray cannot end half connected."""
    heard: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    with heard_by(note):
        yield
    if heard:
        raise KeyboardInterrupt


def disconnect() -> None:
    """Leave Ray; the processes that `connect` started end."""
    ray.shutdown()
    while _own:
        own = _own.pop()
        _use_token(own.token_before)
        own.watcher.kill()
        own.watcher.communicate()
        # Its agents, which would take a minute; our own log of Ray lies there, too.
        for process in set(processes_of(Path(own.folder))) - {psutil.Process()}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(own.folder, ignore_errors=True)


def _watch_for_leftovers(folder: str) -> subprocess.Popen[bytes]:
    with unheard_by_children():  # a Ctrl-C at the terminal is not meant for it
        return subprocess.Popen(
            module_command("sweep.workers.leftovers", str(os.getpid()), folder),
            stdin=subprocess.PIPE,  # open as long as this process lives, however it ends
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env=module_environment(),
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster that is alive."""

    node_id: str
    n_cpus: float
    """That Ray may use: fewer than the machine's where it was told so, or in a container."""
    n_gpus: float
    gpu_type: str | None
    """As Ray names it; None where it does not know."""


def nodes() -> list[Node]:
    return [
        Node(
            node["NodeID"],
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
            _gpu_type(node["Resources"]),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def check_alive() -> None:
    """See that a Ray of our own still runs; machines of a cluster may come back.

    Raises:
        SweepFailed: It does not.
    """
    if not is_joined() and not nodes():
        raise SweepFailed(
            "Ray's own process (raylet) was killed: by the kernel, if memory was short (see "
            "`dmesg`). Free some, or lower --workers; the same command resumes the sweep."
        )


def here() -> Node:
    node_id = ray.get_runtime_context().get_node_id()
    return next(node for node in nodes() if node.node_id == node_id)


def gpu_places(gpus_per_trial: float) -> int:
    """Return how many trials the GPUs of the cluster hold at once; none spans two machines."""
    return sum(places_on(node.n_gpus, gpus_per_trial) for node in nodes())


def _gpu_type(resources: dict[str, float]) -> str | None:
    prefix = "accelerator_type:"
    return next((key.removeprefix(prefix) for key in resources if key.startswith(prefix)), None)
