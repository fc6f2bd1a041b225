"""Quantised base models on disk: a node quantises a model once, every later worker reads it."""

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from trials.backends.proof import content_hash
from trials.config import ModelConfig
from trials.machine.cache import cache_dir
from trials.memory.device import give_back_memory, is_out_of_memory
from trials.models.checkpoint import form_of
from trials.models.sources import local_or_hub
from trials.whole_file import give_usual_mode, new_folder

FORMAT = 3
"""Of an entry; entries of another format are not found."""

SHARD = "2GB"
"""Of a saved model: a shard is put together in the host's memory, and transformers' own have 50 GB
(modeling_utils.py, save_pretrained)."""

SMALLEST_BYTES = 100 * 2**20
"""A smaller checkpoint is quantised in a second or two, and not worth a place on the disk."""


def load_quantised(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    quantise: Callable[[], Any],
    read: Callable[[Path], Any],
    write: Callable[[Any, Path], None],
) -> Any:
    """Return the base model of `config`, from the user's cache where it lies there.

    An entry appears whole or not at all. What is read must have the content that was quantised,
    else it is thrown away and made anew. Of workers that start at once, the first quantises, the
    others wait, and then read all at once. Without room on the disk there is no entry.

    Args:
        quantise: Loads the model from its own checkpoint and quantises it.
        read: Loads the folder that `write` has filled.
        write: Saves the model in a folder.
    """
    key = _key(config, device, dtype)
    if key is None:
        return quantise()
    entry = _Entry(cache_dir() / "quantised" / key, local_or_hub(config.name))
    while True:
        try:
            entry.folder.parent.mkdir(parents=True, exist_ok=True)
            with entry.locked(fcntl.LOCK_SH):
                seen = entry.state()
                if (model := entry.read(read)) is not None:
                    return model
            lock = contextlib.ExitStack()
            lock.enter_context(entry.locked(fcntl.LOCK_EX))
        except OSError as error:
            print(f"the quantised base model is not kept: {error}", flush=True)
            return quantise()
        with lock:
            if entry.state() != seen:  # another worker was first
                continue
            entry.remove()
            model = quantise()
            entry.write(model, write)
            entry.remove_other_versions()
            return model


class _Entry:
    """A folder of the cache: the saved model, and the hash of its content.

    Args:
        source: What the model is called, and was made from.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.folder, self._source = folder, source
        self._content_path = folder / "content.json"

    @contextlib.contextmanager
    def locked(self, how: int) -> Iterator[None]:
        """Hold the entry's lock; the system releases it when the process dies."""
        with self.folder.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, how)
            yield

    def state(self) -> tuple[int, int] | None:
        """What changes when the entry is made anew; None: there is none."""
        try:
            stat = self.folder.stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def read(self, read: Callable[[Path], Any]) -> Any | None:
        """Return the model, or None where there is no entry or a spoilt one, which is said."""
        if not self.folder.is_dir():
            return None
        try:
            content = json.loads(self._content_path.read_text())["content"]
            model = read(self.folder)
        except Exception as error:  # truncated, missing, of another version: all are made anew
            if is_out_of_memory(error):
                raise
            why = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            if content_hash(model) == content:
                model.name_or_path = self._source  # peft writes it into adapter_config.json
                return model
            why = "its content is not what was written"
            del model
        print(
            f"the quantised base model in {self.folder} is unusable and is rebuilt: {why}",
            flush=True,
        )
        give_back_memory()
        return None

    def remove(self) -> None:
        """Delete the entry, and what processes that died have left of it. Needs the lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for left_over in self.folder.parent.glob(f"{self.folder.name}.*.tmp"):
            shutil.rmtree(left_over, ignore_errors=True)

    def remove_other_versions(self) -> None:
        """Delete what other versions of the libraries have made of the same model.

        Not while a worker, of another environment perhaps, reads it.
        """
        source, _ = self.folder.name.split("-")
        for other in self.folder.parent.glob(f"{source}-*"):
            if other == self.folder or other.suffix:  # a lock, or what a process writes just now
                continue
            entry = _Entry(other, self._source)
            with contextlib.suppress(OSError), entry.locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
                entry.remove()

    def write(self, model: Any, write: Callable[[Any, Path], None]) -> None:
        """Save the model; say why it cannot be. Needs the lock."""
        try:
            self._check_room(model.get_memory_footprint())
            with new_folder(self.folder) as folder:
                write(model, folder)
                give_usual_mode(folder.glob("*.safetensors"))
                content = json.dumps({"content": content_hash(model)})
                (folder / self._content_path.name).write_text(content)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            print(f"the quantised base model is not kept: {error}", flush=True)

    def _check_room(self, n_bytes: int) -> None:
        free = shutil.disk_usage(self.folder.parent).free
        if free < 1.5 * n_bytes:
            raise OSError(
                f"{self.folder.parent} has {free / 2**30:.1f} GiB free, but needs 1.5 times its "
                f"{n_bytes / 2**30:.1f} GiB"
            )


def _key(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> str | None:
    """Digest of the model and of what is made of it, and of the versions that make it; None for
    models that are not kept.

    Code that comes with a model could do anything when it is saved and read again. A checkpoint
    that is quantised already is as good as an entry.
    """
    if config.quantization == "none" or config.trust_remote_code:
        return None
    if form_of(config.name, config.revision) is not None:
        return None
    source = _source(config)
    if source is None:
        return None
    # A backend has the name of its package.
    packages = sorted({config.backend, "transformers", "bitsandbytes", "torch"})
    model = [source, config.quantization, config.backend, str(dtype), device.type]
    made_by = [FORMAT, *(version(name) for name in packages)]
    return f"{_digest(model)}-{_digest(made_by)}"


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _source(config: ModelConfig) -> Any:
    """What tells one checkpoint from another; None where it is small or its commit not known."""
    folder = Path(local_or_hub(config.name))
    if not folder.is_dir():
        commit = AutoConfig.from_pretrained(
            config.name, revision=config.revision, trust_remote_code=False
        )._commit_hash
        return [config.name, commit] if commit else None
    stats = {
        path.name: path.stat()
        for kind in ("config.json", "*.safetensors")
        for path in sorted(folder.glob(kind))
    }
    if sum(stat.st_size for stat in stats.values()) < SMALLEST_BYTES:
        return None
    return [
        str(folder.resolve()),
        [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()],
    ]
