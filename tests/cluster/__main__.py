"""A cluster to try things on: `python -m tests.cluster`. Needs root, on Linux."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
from pathlib import Path

from tests.cluster.machines import why_not
from tests.cluster.nodes import GPUS, Cluster


def main() -> int:
    """Start it, say how it is reached, and end it at Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="nodes beside the head")
    parser.add_argument(
        "--shared", type=Path, nargs="+", default=[], help="folders under /tmp that nodes can read"
    )
    asked = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell has its background ignore Ctrl-C
        signal.signal(number, signal.default_int_handler)
    reason = why_not()
    if reason is not None:
        print(f"No cluster: {reason}.")
        return 2
    with Cluster(asked.workers, shared=[folder.resolve() for folder in asked.shared]) as cluster:
        print("From outside:")
        for key, value in {**cluster.access, "RAY_API_SERVER_ADDRESS": cluster.dashboard}.items():
            print(f"  export {key}={value}")
        print(f"Nodes, with {GPUS} GPUs in name each, their files, and a shell on them:")
        for machine in (cluster.head, *cluster.workers):
            shell = shlex.join(machine.command("bash", environment=cluster.environment))
            print(f"  {machine.name}  {machine.address}  {machine.files}  ray says {cluster.logs}")
            print(f"    {shell}")
        print("Ctrl-C ends it.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
