"""The state of a running trial on disk, so that one that was cut off goes on where it was.

What a step trains on and what noise it draws follow from the seed and the step's number, so
neither a data position nor the state of a generator is kept.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trials.config import TrialConfig
from trials.trial_folder import CHECKPOINT, read_report
from trials.whole_file import give_usual_mode

FORMAT = 1
NOT_OF_THE_RESULT = (
    "number data_dir output_dir micro_batch_size most_rows evaluate_base checkpoint_minutes "
    "stall_minutes row_nlls_at measured_rows measured_adapter confirms"
).split()
"""Settings that may differ between a trial's two parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A trial between two optimizer steps."""

    tensors: dict[str, torch.Tensor]
    """On the host, each with storage of its own."""
    numbers: dict[str, Any]
    """All the rest, as JSON has it."""

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """Return the tensors whose names begin with `name` and a point, without these."""
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(prefix)
        }


class Checkpoints:
    """The checkpoint file of one trial; training does not wait until it is written."""

    def __init__(self, config: TrialConfig) -> None:
        self._path = Path(config.output_dir) / CHECKPOINT
        self._identity = _identity(config)
        self._seconds = config.checkpoint_minutes * 60
        self._latest = time.monotonic()
        self._writing: threading.Thread | None = None

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next one, and the one before is written."""
        is_busy = self._writing is not None and self._writing.is_alive()
        return not is_busy and time.monotonic() - self._latest >= self._seconds

    def write(self, state: State) -> None:
        """Write a state whole or not at all, in the background."""
        self.close()
        self._latest = time.monotonic()
        about = {"identity": self._identity, "numbers": json.dumps(state.numbers)}
        self._writing = threading.Thread(
            target=self._write, args=(state.tensors, about), name="checkpoint"
        )
        self._writing.start()

    def _write(self, tensors: dict[str, torch.Tensor], about: dict[str, str]) -> None:
        unfinished = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            save_file(tensors, unfinished, metadata=about)
            give_usual_mode([unfinished])
            unfinished.replace(self._path)
        except (OSError, SafetensorError) as error:  # a full disk must not end the training
            print(f"cannot write a checkpoint: {error}", flush=True)
            unfinished.unlink(missing_ok=True)

    def read(self) -> State | None:
        """Return the state that an earlier process left; None: there is none that can be used."""
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("identity") != self._identity:
                    print("the checkpoint belongs to another trial: starting over", flush=True)
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return State(tensors=tensors, numbers=json.loads(about["numbers"]))
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            print(f"cannot read the checkpoint, starting over: {error}", flush=True)
            return None

    def close(self) -> None:
        """Wait for what is being written."""
        if self._writing is not None:
            self._writing.join()

    def delete(self) -> None:
        """The trial has ended: nothing is left to continue."""
        self.close()
        self._path.unlink(missing_ok=True)


def _identity(config: TrialConfig) -> str:
    """A digest of all that decides a trial's numbers, the data's content included."""
    settings = {k: v for k, v in asdict(config).items() if k not in NOT_OF_THE_RESULT}
    report = read_report(Path(config.data_dir)) or {}
    parts = [FORMAT, torch.__version__, report.get("content"), settings]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], Any]:
    """Return an optimizer's state: its tensors as `INDEX.NAME`, and its other values likewise."""
    tensors, others = {}, {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # Not `state_dict`: bitsandbytes' own puts some of the tensors one level deeper.
    for index, parameter in enumerate(parameters):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = on_host(value)
            else:
                others[f"{index}.{name}"] = value
    return tensors, others


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], others: Mapping[str, Any]
) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **others}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy in the host's memory that later steps do not change."""
    return tensor.detach().to("cpu", copy=True).contiguous()
