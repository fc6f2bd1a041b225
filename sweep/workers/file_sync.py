"""Files of trials on machines that do not see the sweep's folder.

Such a machine gets the prepared data once, and what a trial goes on from before each trial. What a
trial writes comes to the sweep's folder as it is made: log and checkpoint while it runs, all the
rest at its end. A file is moved to its place when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweep.folder import layout
from sweep.workers.connection import nodes
from trials.config import TrialConfig
from trials.trial_folder import ADAPTER, CHECKPOINT, CONFIG, LOG, RESULT, write_config
from trials.whole_file import write_whole

CHUNK_BYTES = 16 * 2**20
SYNC_SECONDS = 10.0
"""Between two looks at what a running trial has written."""
ANSWER_SECONDS = 60.0
"""For a machine to answer; after that it is taken for lost."""
CLEAN_SECONDS = 10.0
"""For the machines to delete a sweep's files at its end."""
GOES_ON_FROM = (CHECKPOINT, LOG)
"""Files that a trial which goes on needs; they are brought while it runs."""
ATTEMPTS = 3
"""To bring a file that changes meanwhile."""

Packed = Sequence[tuple[str, Sequence[Any]]]
"""Names of files, each with the references of its chunks."""


@dataclass(frozen=True, slots=True)
class FolderProbe:
    """A file in the sweep's folder by which a process knows whether it sees that folder."""

    path: Path
    content: str
    sweep: str
    """Tells sweeps apart in a machine's temporary folder."""

    @classmethod
    def write(cls, folder: Path) -> FolderProbe:
        """Write it; the content is another one each time."""
        path = (folder / layout.SEEN).resolve()
        content = secrets.token_hex(16)
        write_whole(path, content)
        name = f"{socket.gethostname()}:{path}"
        return cls(path, content, hashlib.sha256(name.encode()).hexdigest()[:12])

    def is_from_here(self) -> bool:
        """Whether this process sees the folder."""
        try:
            return self.path.read_text() == self.content
        except OSError:
            return False


def scratch_dir(probe: FolderProbe, node_id: str) -> Path:
    """Return where a machine keeps a sweep's files: the same for all of its processes."""
    return Path(tempfile.gettempdir()) / f"sweep-{probe.sweep}-{node_id[:8]}"


def pack(folder: Path, names: Sequence[str]) -> Packed:
    """Put files into Ray's object store, which brings them to any machine."""
    return [(name, [ray.put(chunk) for chunk in _chunks(folder / name)]) for name in names]


def _pack_adapter(folder: str) -> Packed:
    """Pack an adapter that is to be measured, as lying in a trial's own folder; none: nothing."""
    if not folder:
        return []
    names = sorted(path.name for path in Path(folder).iterdir() if path.is_file())
    return [(f"{ADAPTER}/{name}", chunks) for name, chunks in pack(Path(folder), names)]


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _unpack(packed: Packed, folder: Path) -> None:
    for name, chunks in packed:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(ray.get(chunk))


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file as it was at some moment: equal stamps, equal content."""

    name: str
    """Relative to the trial's folder."""
    n_bytes: int
    mtime_ns: int
    inode: int


class NodeFiles:
    """An actor that reads and writes a machine's files; it outlives the processes of trials."""

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(mode=0o700, exist_ok=True)
        if scratch.is_symlink() or scratch.stat().st_uid != os.getuid():
            raise PermissionError(f"{scratch}: must be ours, but belongs to another user.")
        self._scratch = scratch

    def write_data(self, packed: Packed) -> None:
        """Write the prepared data, unless Ray asks for it again."""
        data = self._scratch / layout.DATA
        if not data.exists():
            unfinished = data.with_name(f"{layout.DATA}.{os.getpid()}.tmp")
            _unpack(packed, unfinished)
            unfinished.rename(data)

    def write(self, number: int, packed: Packed, data: None) -> None:
        """Begin a trial's folder anew, with the files that it goes on from.

        Args:
            data: The answer that the prepared data is there.
        """
        folder = layout.trial_dir(self._scratch, number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _unpack(packed, folder)

    def stamps(self, number: int) -> list[Stamp]:
        folder = layout.trial_dir(self._scratch, number)
        found = []
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if not any(part.endswith(".tmp") for part in name.parts):
                with suppress(FileNotFoundError):
                    found += [_stamp(path, str(name))] if path.is_file() else []
        return found

    def read(self, number: int, stamp: Stamp, offset: int) -> bytes | None:
        """Return a chunk of a file; None: it is another one by now.

        A log that has only become longer is the same.
        """
        path = layout.trial_dir(self._scratch, number) / stamp.name
        try:
            with path.open("rb") as file:
                now = os.fstat(file.fileno())
                if now.st_ino != stamp.inode or now.st_size < stamp.n_bytes:
                    return None
                if now.st_mtime_ns != stamp.mtime_ns and stamp.name != LOG:
                    return None
                file.seek(offset)
                return file.read(min(CHUNK_BYTES, stamp.n_bytes - offset))
        except FileNotFoundError:
            return None

    def forget(self, number: int) -> None:
        shutil.rmtree(layout.trial_dir(self._scratch, number), ignore_errors=True)

    def clean(self) -> None:
        """Delete all that the sweep has here."""
        shutil.rmtree(self._scratch, ignore_errors=True)


def forget_lost(scratch: Path, node_ids: Sequence[str]) -> None:
    """Delete what a sweep has left on this machine when Ray took it for lost.

    Args:
        scratch: Of the sweep, on any machine.
        node_ids: Of the machines that are alive: this one is a new one to Ray.
    """
    sweep, _ = scratch.name.rsplit("-", 1)
    names = {f"{sweep}-{node_id[:8]}" for node_id in node_ids}
    for folder in scratch.parent.glob(f"{sweep}-*"):
        is_mine = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
        if folder.name not in names and is_mine:
            shutil.rmtree(folder, ignore_errors=True)


def _stamp(path: Path, name: str) -> Stamp:
    found = path.stat()
    return Stamp(name, found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass
class _Away:
    """A trial whose files are on another machine."""

    config: TrialConfig
    """With the folders of this machine."""
    files: Any
    """The actor of the other machine."""
    n_log_bytes: int
    """Of its log, which only ever becomes longer, that are here."""
    here: dict[str, Stamp] = field(default_factory=dict)
    """What else has been brought, as it was then."""
    looked_at: float = field(default_factory=time.monotonic)
    download: Future[bool] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)


class Courier:
    """Brings files to other machines and back, in threads of its own. Lives in the driver."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[Any, Any]] = {}
        """The actor of each machine, and its answer that the data is there."""
        self._scratch = Path()
        """Of some machine."""
        self._data: dict[str, Packed] = {}
        self._away: dict[int, _Away] = {}
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="courier")

    def upload(self, config: TrialConfig, node_id: str, scratch: Path) -> tuple[TrialConfig, Any]:
        """Bring what a trial needs to the machine that will run it.

        Returns:
            The trial's configuration there, and a reference to the answer that all of it is there.
        """
        files, data = self._files_of(node_id, scratch, Path(config.data_dir))
        write_config(config)
        folder = Path(config.output_dir)
        goes_on_from = [name for name in GOES_ON_FROM if (folder / name).exists()]
        packed = [*pack(folder, goes_on_from), *_pack_adapter(config.measured_adapter)]
        uploaded = files.write.remote(config.number, packed, data)
        log = folder / LOG
        self._away[config.number] = _Away(config, files, log.stat().st_size if log.exists() else 0)
        folder_there = layout.trial_dir(scratch, config.number)
        there = replace(
            config,
            data_dir=str(scratch / layout.DATA),
            output_dir=str(folder_there),
            measured_adapter=str(folder_there / ADAPTER) if config.measured_adapter else "",
        )
        return there, uploaded

    def is_away(self, number: int) -> bool:
        """Whether a trial's files are on another machine."""
        return number in self._away

    def look(self) -> None:
        """Begin to bring what running trials have written; waits for nothing."""
        now = time.monotonic()
        for away in self._away.values():
            is_busy = away.download is not None and not away.download.done()
            if not is_busy and now - away.looked_at >= SYNC_SECONDS:
                away.looked_at = now
                away.download = self._threads.submit(_download, away, is_over=False)

    def download_rest(self, number: int) -> Future[bool]:
        """Begin to bring all the rest of a trial that has ended; the answer: whether it is here."""
        return self._threads.submit(_download, self._away.pop(number), is_over=True)

    def close(self) -> None:
        """Have the other machines forget the sweep."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        cleaned = [files.clean.remote() for files, _ in self._nodes.values()]
        alive = [node.node_id for node in nodes()]
        if not set(self._nodes) <= set(alive):
            for node_id in alive:
                task = ray.remote(num_cpus=0, max_retries=0)(forget_lost)
                task = task.options(scheduling_strategy=_on(node_id))
                cleaned.append(task.remote(self._scratch, alive))
        if cleaned:
            ray.wait(cleaned, num_returns=len(cleaned), timeout=CLEAN_SECONDS)
        for files, _ in self._nodes.values():
            ray.kill(files)
        self._nodes.clear()

    def _files_of(self, node_id: str, scratch: Path, data_dir: Path) -> tuple[Any, Any]:
        if node_id not in self._nodes:
            if str(data_dir) not in self._data:
                names = [str(p.relative_to(data_dir)) for p in data_dir.rglob("*") if p.is_file()]
                self._data[str(data_dir)] = pack(data_dir, sorted(names))
            options: dict[str, Any] = {
                "num_cpus": 0,
                "max_concurrency": 8,
                "max_restarts": -1,  # while its machine is there
                "max_task_retries": 2,
                "scheduling_strategy": _on(node_id),
            }
            files = ray.remote(**options)(NodeFiles).remote(scratch)
            self._nodes[node_id] = files, files.write_data.remote(self._data[str(data_dir)])
            self._scratch = scratch
        return self._nodes[node_id]


def _on(node_id: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def _download(away: _Away, *, is_over: bool) -> bool:
    """Bring what is new; whether everything that was there is here."""
    with away.lock:
        try:
            for _ in range(ATTEMPTS if is_over else 1):
                stamps = _answer(away.files.stamps.remote(away.config.number))
                if _download_files(away, stamps, is_over=is_over):
                    if is_over:
                        away.files.forget.remote(away.config.number)
                    return True
        except (RayError, GetTimeoutError, OSError):
            pass  # the machine is lost, or the disk here is full: it is there at the next look
        return False


def _download_files(away: _Away, stamps: Sequence[Stamp], *, is_over: bool) -> bool:
    wanted = [
        stamp
        # The result says that the trial has ended, so it comes last.
        for stamp in sorted(stamps, key=lambda stamp: stamp.name == RESULT)
        if (is_over or stamp.name in GOES_ON_FROM)
        and stamp.name != CONFIG  # it names folders of that machine
        and not (away.config.measured_adapter and stamp.name.startswith(f"{ADAPTER}/"))
        and away.here.get(stamp.name) != stamp
    ]
    incoming = away.folder / "incoming.tmp"
    for stamp in wanted:
        if not _fetch(away, stamp, incoming):
            return False
    adapter = incoming / ADAPTER
    if adapter.exists():
        shutil.rmtree(away.folder / ADAPTER, ignore_errors=True)
        adapter.rename(away.folder / ADAPTER)
    for stamp in wanted:
        if (incoming / stamp.name).exists():
            (incoming / stamp.name).replace(away.folder / stamp.name)
        away.here[stamp.name] = stamp
    if RESULT in {stamp.name for stamp in stamps}:  # nothing is left to go on with
        (away.folder / CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(incoming, ignore_errors=True)
    return True


def _fetch(away: _Away, stamp: Stamp, incoming: Path) -> bool:
    """Write a file, whole, into `incoming`; a log is only made longer, where it stands."""
    if stamp.name == LOG:
        with (away.folder / LOG).open("ab") as log:
            for chunk in _read(away, stamp, away.n_log_bytes):
                log.write(chunk)
                log.flush()
                away.n_log_bytes += len(chunk)
        return away.n_log_bytes >= stamp.n_bytes
    path = incoming / stamp.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for chunk in _read(away, stamp, 0):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        return file.tell() == stamp.n_bytes


def _read(away: _Away, stamp: Stamp, offset: int) -> Iterator[bytes]:
    """Yield a file's chunks; ends early where it has become another one."""
    while offset < stamp.n_bytes:
        chunk = _answer(away.files.read.remote(away.config.number, stamp, offset))
        if not chunk:
            return
        yield chunk
        offset += len(chunk)


def _answer(reference: Any) -> Any:
    return ray.get(reference, timeout=ANSWER_SECONDS)
