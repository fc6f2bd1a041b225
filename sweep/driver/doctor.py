"""`sweep doctor`: what this machine has to train with, each thing with its mend."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweep.errors import ClusterError, TrackingError
from sweep.workers import ray_folder
from sweep.workers.devices import sees_gpus, training_environment
from trials.foreign_text import without_secrets
from trials.machine import disk
from trials.machine.cards import NoAnswer, cards, named_devices, visible
from trials.machine.finding import GRADES, Finding, Grade
from trials.parent import run_module
from trials.unfinished import scratch_dir

LOOKS = {"ready": ("✓", "green"), "slower": ("!", "yellow"), "cannot": ("✗", "red")}
ENDS = {
    "ready": "Ready.",
    "slower": "It runs, but slower than it could.",
    "cannot": "It cannot run: mend what has a ✗.",
}
TOLERANCE = 0.01
"""Of the base loss. Kernels, float16 and Unsloth differ by less; a broken 4-bit kernel by more."""
N_ROWS = {True: 512, False: 32}
"""That a trial of `--train` learns, on GPUs or not: enough for a pace, in less than two minutes."""


def look(
    *, workers: int | None, output: Path, trains: bool, say: Callable[[str], object]
) -> list[Finding]:
    """Look at this machine.

    Args:
        workers: As on the command line; None: on GPUs, where there are any.
        output: Folder of all sweeps.
        trains: Whether two trials are run on each device, too.
    """
    on_gpus = workers is None and sees_gpus()
    request = {
        "model": "smollm2-135m" if trains else None,
        "revision": None,
        "requirements": metadata.requires("sweep") or [],
        "has_gpus": on_gpus,
    }
    say("Looking at this machine …")
    answer = _answer(run_module("trials.node_check", json.dumps(request), capture_output=True))
    is_joined = "RAY_ADDRESS" in os.environ
    findings = [] if on_gpus or workers or is_joined else [_no_gpus()]
    findings += [Finding(**found) for found in answer["findings"]]
    findings.append(disk.room(output.resolve(), "output"))
    findings += _mlflow()
    if not is_joined:
        findings += _places_of_ray()
    elif worst(findings) != "cannot":  # asking the cluster needs a Ray that works
        findings.append(_cluster(os.environ["RAY_ADDRESS"]))
    if trains and worst(findings) != "cannot":
        say("Training two trials on each device …")
        findings += _training(on_gpus=on_gpus)
    return findings


def _no_gpus() -> Finding:
    mend = "Is the driver loaded, and CUDA_VISIBLE_DEVICES not empty? --workers N: none is wanted."
    return Finding("GPUs", "none is visible, so trials run on processors", mend, "slower")


def _mlflow() -> list[Finding]:
    """Whether sweeps can begin where MLflow's variable says."""
    from sweep.tracking.destination import URI, checked_variable
    from sweep.tracking.earlier import names_in_mlflow

    try:
        if (uri := checked_variable()) is None:
            return []
        names_in_mlflow(uri)
    except TrackingError as error:
        return [Finding("MLflow", str(error).rstrip("."), grade="cannot")]
    words = f"{without_secrets(uri)}, as {URI} says: sweeps that begin are recorded there"
    return [Finding("MLflow", words)]


def _places_of_ray() -> list[Finding]:
    """What a Ray of our own lacks here."""
    try:
        ray_folder.check()
    except ClusterError as error:
        return [Finding("Ray's files", str(error).rstrip("."), grade="cannot")]
    return []


def _cluster(address: str) -> Finding:
    from sweep.workers import connection

    try:
        connection.check_address()
    except ClusterError as error:
        words = str(error).removeprefix("RAY_ADDRESS ").removesuffix(f". {connection.MEND}")
        return Finding("RAY_ADDRESS", words, connection.MEND, "cannot")
    words = f"{address}: sweeps run on that cluster, not on this machine"
    return Finding("RAY_ADDRESS", words)


def worst(findings: Sequence[Finding]) -> Grade:
    """The grade of all together."""
    return max((finding.grade for finding in findings), key=GRADES.index, default="ready")


def _answer(done: CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON of a process's last line.

    Raises:
        RuntimeError: It broke; with its last words.
    """
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(lines[-1][:300])
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _devices() -> list[str]:
    """Names of this machine's GPUs, for CUDA_VISIBLE_DEVICES."""
    named = named_devices()
    if named is not None:
        return named
    try:
        return [card.uuid for card in visible(cards() or [])] or ["0"]
    except NoAnswer:
        return ["0"]


def _training(*, on_gpus: bool) -> list[Finding]:
    """Train on all devices at once, each in a process of its own."""
    devices = _devices() if on_gpus else [""]
    has_unsloth = on_gpus and util.find_spec("unsloth") is not None
    request = {
        "backend": "unsloth" if has_unsloth else "transformers",
        "quantization": "nf4",
        "n_rows": N_ROWS[on_gpus],
    }
    threads = training_environment(n_slots=len(devices))

    def train(device: str) -> Finding:
        subject = f"training on {device or 'processors'}"
        with scratch_dir() as folder:
            own = {**os.environ, **threads, "CUDA_VISIBLE_DEVICES": device}
            words = json.dumps(request), folder
            try:
                answer = _answer(
                    run_module("trials.train_check", *words, capture_output=True, env=own)
                )
            except (RuntimeError, ValueError) as error:
                mend = "Repeat it by hand: sweep trial search_spaces/quickstart.yaml --pdb"
                return Finding(subject, f"it fails: {error}", mend, "cannot")
        return judged(subject, request["backend"], answer)

    with ThreadPoolExecutor(len(devices)) as pool:
        return list(pool.map(train, devices))


def judged(subject: str, backend: object, answer: dict[str, Any]) -> Finding:
    """Compare two trials with what is known of them."""
    points = [point for trial in answer["trials"] for point in trial["points"]]
    losses = [point["eval_loss"] for point in points if point["index"] == 0]
    paces = [point["tokens_per_second"] for point in points if point["index"] > 0]
    known = f"base loss {losses[-1]:.4f}, known {answer['known']:.4f}"
    if not all(abs(loss / answer["known"] - 1) <= TOLERANCE for loss in losses):  # NaN: wrong too
        mend = "4 bits are computed wrong here: install torch and bitsandbytes again."
        return Finding(subject, f"{backend}, {known}", mend, "cannot")
    return Finding(
        subject,
        f"{backend}, {known}; {paces[-1]:,.0f} tokens/s; memory back "
        f"({answer['left_mib']:.0f} MiB more)",
    )


def as_table(findings: Sequence[Finding]) -> RenderableType:
    """A line for each thing, and what they come to."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, colour = LOOKS[finding.grade]
        words = Text(finding.found)
        if finding.mend:
            words.append(f". {finding.mend}", style=colour)
        table.add_row(Text(mark, style=colour), finding.subject, words)
    grade = worst(findings)
    return Group(table, Text(f"\n{ENDS[grade]}", style=LOOKS[grade][1]))
