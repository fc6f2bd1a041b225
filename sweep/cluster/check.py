"""See that a cluster has what a sweep needs, before anything trains there."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sweep.cluster.jobs import Cluster
from sweep.errors import ClusterError
from sweep.folder import layout
from sweep.space.loading import load_space
from sweep.text.numbers import counted
from trials.data.addresses import local_path
from trials.parent import job_command

PORTS = {"http": 80, "https": 443, "postgresql": 5432}


def needs(
    packed: Path, *, workers: int | None, gpus: int | None, servers: Mapping[str, str | None]
) -> dict[str, Any]:
    """What `sweep.cluster.on_head.check` is asked.

    Args:
        packed: The folder of the job: there the base model has the name that it has on the cluster.
        servers: Flags and the addresses given with them.
    """
    settings = load_space(packed / layout.SPACE).settings
    return {
        "model": local_path(settings.base_model),
        "revision": settings.revision,
        "gpus_per_trial": settings.gpus_per_trial,
        "gpus": gpus,
        "workers": workers,
        "servers": {flag: _door(address) for flag, address in servers.items() if address},
    }


def _door(address: str) -> tuple[str, int]:
    """Host and port of a server; the password that an address may hold stays here."""
    parts = urlsplit(address)
    return parts.hostname or "", parts.port or PORTS.get(parts.scheme, 80)


def request_text(request: dict[str, Any]) -> str:
    """What a cluster needs, in a line."""
    if request["workers"] is not None:
        place = counted(request["workers"], "CPU")
    else:
        place = f"{counted(request['gpus_per_trial'], 'GPU')} for each trial"
    return (
        f"Needs {place}, Python 3.11 or later with this program's packages, the base model "
        f"{request['model']} and 2 GB of disk on every machine."
    )


def check(
    cluster: Cluster,
    request: dict[str, Any],
    folder: Path,
    output: str,
    say: Callable[[str], object],
) -> None:
    """Look at every machine of the cluster.

    Args:
        folder: The packed one.
        output: Folder of all sweeps there.

    Raises:
        ClusterError: With everything that is missing.
    """
    say(request_text(request))
    words = job_command("sweep.cluster.on_head.check", json.dumps(request))
    answer = cluster.ask(words, output, folder)
    say(f"The cluster: {answer['found']}.")
    for note in answer["notes"]:
        say(note)
    problems = answer["problems"]
    if problems:
        lines = [f"  {problem}" for problem in problems]
        heading = f"{cluster.address}: {counted(len(problems), 'problem')}; nothing started"
        raise ClusterError("\n".join([heading, *lines]))
