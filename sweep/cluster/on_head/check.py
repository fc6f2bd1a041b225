"""Look at a whole cluster before a sweep: `python -m sweep.cluster.on_head.check REQUEST OUTPUT`.

The answer is one line of JSON: what is wrong, all of it, and what is there. It must start where
nothing but Ray is installed yet.
"""

import json
import logging
import os
import socket
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweep.cluster.on_head.answer import give_answer
from trials.machine.disk import room
from trials.parent import run_module

PATIENCE_SECONDS = 300.0
"""For a machine: the first import of torch from a network's disk takes its time."""
CONNECT_SECONDS = 10.0
MOST_NAMES = 5


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, as Ray counts it."""

    id: str
    name: str
    gpus: float
    cpus: float


def main(request: dict[str, Any], output: Path) -> dict[str, Any]:
    """Return `problems` and `notes`, in words, and `found`: what the cluster is.

    Args:
        request: `trials.node_check`'s, and `gpus_per_trial`, `gpus` (to use; None: all) and
            `workers` (on processors; None: on GPUs); `servers`: flag → host and port that the head
            must reach.
        output: Folder of all sweeps, on this machine.
    """
    nodes = [
        Node(node["NodeID"], node["NodeManagerHostname"], *_counts(node["Resources"]))
        for node in ray.nodes()
        if node["Alive"]
    ]
    problems = _too_few(nodes, request)
    if request["workers"] is None:
        here = ray.get_runtime_context().get_node_id()
        nodes = [node for node in nodes if node.gpus or node.id == here]
    answers = _ask(nodes, request)
    problems += [*_by_node(answers, "problems"), *_versions(answers)]
    problems += _away(request["servers"])
    space = room(output.expanduser(), "the output folder")
    problems += [space.words] if space.grade == "cannot" else []
    found = _found_text(nodes, answers, request["gpus"])
    return {"problems": problems, "notes": _by_node(answers, "notes"), "found": found}


def _away(servers: dict[str, list[Any]]) -> list[str]:
    problems = []
    for flag, (host, port) in servers.items():
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            problems.append(
                f"{flag}: the cluster's head cannot reach {host}:{port} "
                f"({error.strerror or error}). Name an address it can reach."
            )
    return problems


def _counts(resources: dict[str, float]) -> tuple[float, float]:
    return resources.get("GPU", 0.0), resources.get("CPU", 0.0)


def _too_few(nodes: list[Node], request: dict[str, Any]) -> list[str]:
    if request["workers"] is not None:
        cpus = sum(node.cpus for node in nodes)
        if request["workers"] <= cpus:
            return []
        return [f"--workers: must be at most {cpus:g}, the CPUs of Ray, not {request['workers']}."]
    if request["gpus"] is not None:
        return []  # those that are not there yet are waited for: an autoscaler may bring them
    most = max(node.gpus for node in nodes)
    if not most:
        return [
            "The cluster has no GPU. Add machines with some, let an autoscaler bring N with "
            "--gpus N, or train on CPUs with --workers N."
        ]
    if request["gpus_per_trial"] > most:
        return [
            f"gpus_per_trial: must be at most {most:g}, the most GPUs of one machine, not "
            f"{request['gpus_per_trial']}."
        ]
    return []


@ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
def _look(request: dict[str, Any]) -> dict[str, Any]:
    done = run_module("trials.node_check", json.dumps(request), capture_output=True)
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"problems": [f"cannot be checked: {last[:300]}"]}
    return answer


def _ask(nodes: list[Node], request: dict[str, Any]) -> dict[Node, dict[str, Any]]:
    """Look at all machines at once."""
    running = {
        _look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)
        ).remote({**request, "has_gpus": node.gpus > 0}): node
        for node in nodes
    }
    ready, late = ray.wait(list(running), num_returns=len(running), timeout=PATIENCE_SECONDS)
    silent = f"did not answer within {PATIENCE_SECONDS:g} s."
    answers = {running[reference]: {"problems": [silent]} for reference in late}
    for reference in ready:
        try:
            answers[running[reference]] = ray.get(reference)
        except ray.exceptions.RayError as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            answers[running[reference]] = {"problems": [f"cannot be checked: {line[:300]}"]}
    return answers


def _by_node(answers: dict[Node, dict[str, Any]], key: str) -> list[str]:
    """Say each problem or note once, with the machines that have it."""
    names: dict[str, list[str]] = {}
    for node, answer in answers.items():
        for words in answer.get(key, ()):
            names.setdefault(words, []).append(node.name)
    return [f"{_named(found, len(answers))}: {words}" for words, found in names.items()]


def _versions(answers: dict[Node, dict[str, Any]]) -> list[str]:
    """Say what is not the same on all machines."""
    problems = []
    for what in ("ray", "torch", "transformers", "python"):
        there: dict[str, list[str]] = {}
        for node, answer in answers.items():
            version = answer.get("python") or ""
            if what == "python":
                version = ".".join(version.split(".")[:2])
            else:
                version = answer.get("versions", {}).get(what, "")
            if version:
                there.setdefault(version, []).append(node.name)
        if len(there) > 1:
            listed = "; ".join(f"{v} on {_named(n, len(answers))}" for v, n in there.items())
            problems.append(f"{what} must be the same on all machines, but is {listed}.")
    return problems


def _named(names: list[str], of: int) -> str:
    if len(names) == of and of > 1:
        return f"all {of} machines"
    shown = ", ".join(sorted(names)[:MOST_NAMES])
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{shown}{more}"


def _found_text(nodes: list[Node], answers: dict[Node, dict[str, Any]], asked: int | None) -> str:
    gpus, cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    free = ray.available_resources()
    versions: dict[str, str] = next(
        (a["versions"] for a in answers.values() if "versions" in a), {}
    )
    machines = "1 machine" if len(nodes) == 1 else f"{len(nodes)} machines"
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    counts = f"{gpus:g} GPUs ({free.get('GPU', 0):g} free), {cpus:g} CPUs"
    if asked is not None and asked > gpus:
        counts += f", waiting for {asked - gpus:g} more GPUs"
    return f"{machines}, {counts}; Python {sys.version.split()[0]}, {listed}"


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    asked = json.loads(sys.argv[1])
    asked["requirements"] = metadata.requires("sweep") or []
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    give_answer(main(asked, Path(sys.argv[2])))
    ray.shutdown()
