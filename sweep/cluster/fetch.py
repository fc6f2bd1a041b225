"""`sweep fetch`: the best adapter, the report and the study of a sweep, from a cluster."""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweep.cluster.jobs import Cluster, Job
from sweep.errors import ClusterError
from sweep.folder import layout
from sweep.storage.sqlite import address_of
from sweep.text.numbers import megabytes
from trials.foreign_text import cleaned, without_secrets
from trials.parent import job_command
from trials.unfinished import scratch_dir

MARK = "fetched.json"
"""Tells a folder that was fetched from a sweep's own."""
CHUNK_BYTES = 1 << 20
TRANSFER_SECONDS = 4 * 3600


def fetch(cluster: Cluster, job: Job, parent: Path, say: Callable[[str], object]) -> Path:
    """Bring what a sweep has made into `parent/NAME`, whole or not at all; returns that folder.

    Raises:
        ClusterError: It has nothing yet, the transfer broke off, or the folder is not one that was
            fetched.
    """
    target = parent / job.sweep
    if target.exists() and not (target / MARK).is_file():
        raise ClusterError(
            f"{target}: must be new or fetched from a cluster, but is neither. Name another "
            f"folder with --to."
        )
    words = job_command("sweep.cluster.on_head.archive", job.sweep)
    with cluster.asking(words, job.output) as answer:
        if "problem" in answer:
            raise ClusterError(answer["problem"])
        parent.mkdir(parents=True, exist_ok=True)
        with scratch_dir(parent) as scratch:
            archive = Path(scratch) / "sweep.tar"
            _download(cluster, answer, archive)
            unpacked = Path(scratch) / "sweep"
            unpack(archive, unpacked)
            output = cluster.client.get_job_logs(job.id)
            (unpacked / "output.txt").write_text(cleaned(output), encoding="utf-8")
            about = {
                "address": without_secrets(cluster.address),
                "job": job.id,
                "status": job.status,
            }
            (unpacked / MARK).write_text(json.dumps(about, indent=1))
            _tell_where_mlflow_is(unpacked, target)
            if target.exists():
                shutil.rmtree(target)
            unpacked.rename(target)
    say(f"Fetched {megabytes(answer['n_bytes'])} into {target}")
    if not (target / layout.BEST).is_dir():
        say("No best adapter yet: no trial has ended with an eval loss that counts.")
    return target


def _tell_where_mlflow_is(unpacked: Path, target: Path) -> None:
    """Have `sweep ui` show the database that was fetched, not the one of the cluster."""
    about = unpacked / layout.MLFLOW
    if about.is_file() and (unpacked / layout.MLFLOW_DATABASE).is_file():
        where = json.loads(about.read_text(encoding="utf-8"))
        where["uri"] = address_of(target.resolve() / layout.MLFLOW_DATABASE)
        about.write_text(json.dumps(where), encoding="utf-8")


def _download(cluster: Cluster, answer: dict[str, Any], archive: Path) -> None:
    import requests

    client = cluster.client
    # Not the client's own request: it would hold the whole answer in memory, twice.
    response = requests.get(
        f"{cluster.address}/api/v0/logs/file",
        params={
            "node_id": answer["node_id"],
            "filename": answer["file"],
            "lines": "-1",
            "timeout": str(TRANSFER_SECONDS),
        },
        headers=client._headers,
        verify=client._verify,
        stream=True,
        timeout=60,
    )
    digest = hashlib.sha256()
    try:
        with response, archive.open("wb") as file:
            if response.status_code != 200:
                reason = response.text.strip()[:200]
                raise ClusterError(
                    f"{cluster.address}: the cluster did not hand out the files: {reason}"
                )
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
    except requests.exceptions.RequestException as error:
        raise ClusterError(f"{cluster.address}: the transfer failed: {error}") from None
    if digest.hexdigest() != answer["sha256"]:
        raise ClusterError(
            f"{cluster.address}: the transfer is incomplete ({archive.stat().st_size:,} of "
            f"{answer['n_bytes']:,} bytes). Fetch them again."
        )


def unpack(archive: Path, folder: Path) -> None:
    """Unpack plain files into `folder`.

    Raises:
        ClusterError: The archive holds something else, or would write outside of the folder.
    """
    folder.mkdir()
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if not member.isfile() or Path(member.name).is_absolute():
                    raise ClusterError(f"{member.name}: the archive may hold plain files only.")
                tar.extract(member, folder, filter="data")
    except tarfile.TarError as error:
        raise ClusterError(f"The archive cannot be unpacked: {error}") from None
