"""Each process but the first of a trial on several GPUs: `python -m trials.peer`."""

import json
import sys
from collections.abc import Iterator
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from trials.config import ModelConfig
from trials.distributed.group import Group
from trials.distributed.processes import Processes, stay_on_this_machine
from trials.parent import end_with_parent


def run_peer() -> None:
    """Load the base model, then take part in the worker's trials until the worker ends."""
    spec = json.loads(sys.stdin.readline())
    end_with_parent()
    stay_on_this_machine()
    from trials.backends.loading import load

    base = load(ModelConfig(**spec["model"]))  # Unsloth comes before everything else
    from trials.memory.micro_batches import MicroBatchMemory
    from trials.training.train import run_trial

    store = TCPStore("127.0.0.1", spec["port"], spec["size"], is_master=False)
    group = Processes(spec["rank"], spec["size"], store)
    memory = MicroBatchMemory()
    for config in _configs(group):
        run_trial(config, base, memory, lambda _: None, group)


def _configs(group: Group) -> Iterator[Any]:
    while True:
        yield group.broadcast(None)


if __name__ == "__main__":
    run_peer()
