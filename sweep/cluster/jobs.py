"""A sweep as a Ray job on someone's cluster: submitted, found again, asked, stopped."""

import json
import logging
import os
import re
import shlex
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sweep.cluster.on_head.answer import ANSWER
from sweep.cluster.package import pack_program
from sweep.errors import ClusterError
from sweep.folder import layout
from sweep.text.numbers import counted
from trials.parent import job_command
from trials.unfinished import scratch_dir

POLL_SECONDS = 0.5
CONNECT_SECONDS = 10.0
ASK_SECONDS = 600.0
"""For a small job: where Ray unpacks the files of a job for the first time, minutes may pass."""
OVER = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    sweep: str
    output: str
    """Folder of all sweeps on the cluster, as a shell there reads it."""
    status: str
    """Ray's word."""
    message: str
    exit_code: int | None
    """Of the sweep; None while it runs, and where it was broken off."""
    started_at: float

    @property
    def is_over(self) -> bool:
        return self.status in OVER


class Cluster:
    """The jobs of a Ray cluster, over its dashboard's HTTP.

    Args:
        address: Of the dashboard, such as `http://head:8265`.

    Raises:
        ClusterError: Nothing answers there, or it wants another token.
    """

    def __init__(self, address: str) -> None:
        self.address = _checked(address)
        _take_token_along()
        with _told_in_words(self.address), _only_this_address(self.address):
            from ray.job_submission import JobSubmissionClient

            for noisy in ("dashboard_sdk", "job.sdk"):
                logging.getLogger(f"ray.dashboard.modules.{noisy}").setLevel(logging.WARNING)
            logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
            _check_door(self.address)
            verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
            self.client = JobSubmissionClient(self.address, verify=verify)

    def jobs(self) -> list[Job]:
        """The jobs of sweeps that the cluster remembers, the oldest first."""
        with _told_in_words(self.address):
            found = [_job(details) for details in self.client.list_jobs()]
        return sorted((job for job in found if job), key=lambda job: job.started_at)

    def find(self, given: str) -> Job:
        """Return a job by its id, or the latest one of a sweep by its name."""
        jobs = self.jobs()
        matching = [job for job in jobs if given in (job.id, job.sweep)]
        if matching:
            return matching[-1]
        known = ", ".join(job.id for job in jobs[-10:])
        there = f"There are: {known}." if known else "There is none of a sweep."
        raise ClusterError(
            f"{given}: no such job at {self.address}. {there} (A restarted cluster forgets its "
            f"jobs, but the sweep's folder stays: submit it again to resume.)"
        )

    def look(self, job: Job) -> Job:
        """Return a job as it is now."""
        with _told_in_words(self.address):
            return _job(self.client.get_job_info(job.id)) or job

    def submit(
        self, name: str, output: str, options: list[str], folder: Path, env: Mapping[str, str]
    ) -> Job:
        """Start the sweep of a packed folder and return its job.

        Raises:
            ClusterError: A job runs that sweep already.
        """
        self.refuse_second(name, output)
        numbers = [_number(job.id, name) for job in self.jobs()]
        job_id = f"sweep-{name}-{max(numbers, default=0) + 1}"
        words = job_command("sweep", "run", layout.SPACE, *options)
        metadata = {"sweep": name, "sweep_output": output}
        self._start(job_id, f"{shlex.join(words)} --output {shell_path(output)}", folder,
                    metadata=metadata, env=env)  # fmt: skip
        return self.find(job_id)

    def refuse_second(self, name: str, output: str) -> None:
        """See that no job runs this sweep."""
        for job in self.jobs():
            if (job.sweep, job.output) == (name, output) and not job.is_over:
                raise ClusterError(
                    f"{name}: this sweep is already running, as job {job.id}. Follow it with "
                    f"sweep attach {job.id}, stop it with sweep stop {job.id}, or use another "
                    f"--name."
                )

    def ask(self, words: list[str], output: str, folder: Path | None = None) -> Any:
        """Run a small job on the head and return its answer; the job is forgotten afterwards.

        Args:
            words: Of the command.
            output: Folder of all sweeps, appended as a path of that machine.
            folder: What it brings along; None: this program.
        """
        with self.asking(words, output, folder) as answer:
            return answer

    @contextmanager
    def asking(self, words: list[str], output: str, folder: Path | None = None) -> Iterator[Any]:
        """As `ask`, for a job that keeps something until it is told to end."""
        command = f"{shlex.join(words)} {shell_path(output)}"
        job_id = f"sweep-ask-{uuid.uuid4().hex[:8]}"
        with scratch_dir() as packed:
            if folder is None:
                folder = Path(packed)
                pack_program(folder)
            self._start(job_id, command, folder, metadata={}, env={})
        try:
            yield self._answer(job_id)
        finally:
            with suppress(Exception):  # what is left of it is a line in the dashboard
                self._forget(job_id)

    def _answer(self, job_id: str) -> Any:
        deadline = time.monotonic() + ASK_SECONDS
        while time.monotonic() < deadline:
            with _told_in_words(self.address):
                details = self.client.get_job_info(job_id)
                is_running = details.status != "PENDING"
                text = self.client.get_job_logs(job_id) if is_running else ""
            for line in text.splitlines():
                if line.startswith(ANSWER):
                    return json.loads(line.removeprefix(ANSWER))
            if str(details.status) in OVER:
                raise ClusterError(_why_no_answer(self.address, text, details.message or ""))
            time.sleep(POLL_SECONDS)
        raise ClusterError(
            f"{self.address}: the cluster did not run a small job within "
            f"{counted(ASK_SECONDS / 60, 'minute')}. Its dashboard shows why: {job_id}."
        )

    def _forget(self, job_id: str) -> None:
        if str(self.client.get_job_status(job_id)) not in OVER:
            self.client.stop_job(job_id)
        for _ in range(40):
            if str(self.client.get_job_status(job_id)) in OVER:
                self.client.delete_job(job_id)
                return
            time.sleep(0.25)

    def _start(
        self,
        job_id: str,
        entrypoint: str,
        folder: Path,
        *,
        metadata: dict[str, str],
        env: Mapping[str, str],
    ) -> None:
        runtime: dict[str, Any] = {"working_dir": str(folder), "env_vars": dict(env)}
        with _told_in_words(self.address):
            self.client.submit_job(
                entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime, metadata=metadata
            )


def shell_path(path: str) -> str:
    """A path for the shell of a job: `~/` is the home folder of whoever runs the cluster."""
    if path.startswith("~/"):
        return '"$HOME"/' + shlex.quote(path.removeprefix("~/"))
    return shlex.quote(path)


def default_address(given: str | None) -> str:
    """Return the address given, else that of Ray's own variables."""
    address = given or os.environ.get("RAY_API_SERVER_ADDRESS")
    joined = os.environ.get("RAY_ADDRESS", "")
    if not address and joined.startswith("http"):  # else it is where programs join, another port
        address = joined
    if not address:
        raise ClusterError(
            "--address: must be that of the cluster's dashboard, such as http://head:8265. "
            "Give it, or set RAY_API_SERVER_ADDRESS."
        )
    return address


def _checked(address: str) -> str:
    if address.startswith("ray://") or address.endswith(":10001"):
        host = urlsplit(address if "://" in address else f"ray://{address}").hostname or "head"
        raise ClusterError(
            f"--address {address}: must be the dashboard, which takes the jobs, not the port of "
            f"Ray's client. Write http://{host}:8265."
        )
    if "://" not in address:
        address = f"http://{address}"
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise ClusterError(f"--address {address}: must be like http://head:8265.")
    return address.rstrip("/")


def _check_door(address: str) -> None:
    """See that somebody listens: Ray's client would wait for minutes."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"{address}: nothing answers ({error.strerror or error}). Is the cluster up, is that "
            f"its dashboard's port (8265 by default), and does the head listen beyond itself (ray "
            f"start --head --dashboard-host=0.0.0.0)? Through ssh: ssh -L 8265:localhost:8265 head"
        ) from None


def _take_token_along() -> None:
    """Let a token that is there be sent, as Ray's own commands do."""
    has_token = (
        os.environ.get("RAY_AUTH_TOKEN")
        or os.environ.get("RAY_AUTH_TOKEN_PATH")
        or (Path.home() / ".ray" / "auth_token").is_file()
    )
    if has_token:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def _only_this_address(address: str) -> Iterator[None]:
    """Ray's client takes these variables before the address that it is given."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _told_in_words(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into words."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except ClusterError:
        raise
    except AuthenticationError as error:
        raise ClusterError(_token_words(address, is_missing="required" in str(error))) from None
    except (requests.exceptions.SSLError, requests.exceptions.InvalidSchema) as error:
        raise ClusterError(
            f"{address}: no secure connection ({_brief(error)}). Is it http://? Put a certificate "
            f"of your own into REQUESTS_CA_BUNDLE."
        ) from None
    except (requests.exceptions.RequestException, ConnectionError) as error:
        raise ClusterError(
            f"{address}: the cluster does not answer like a Ray dashboard ({_brief(error)}). Is "
            f"that its port (8265 by default), and is it {urlsplit(address).scheme}://?"
        ) from None
    except (RuntimeError, ValueError, KeyError) as error:
        raise ClusterError(f"{address}: {_brief(error)}") from None


def _token_words(address: str, *, is_missing: bool) -> str:
    what = "asks for Ray's token" if is_missing else "does not take this token"
    return (
        f"{address}: the cluster {what}. Ask its owner (`ray get-auth-token` on the head), and "
        f"put it into RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or "
        f"~/.ray/auth_token; RAY_AUTH_MODE must be token or unset."
    )


def _brief(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if cause := re.search(r"\[Errno \d+\] ([\w ]+)|\[SSL[^\]]*\] ([\w ]+)", text):
        text = cause[1] or cause[2]
    return text[:300].rstrip(".")


def _why_no_answer(address: str, text: str, message: str) -> str:
    """Say why a small job ended without an answer."""
    lines = [line for line in text.splitlines() if line.strip()][-8:]
    shown = "\n".join(f"  {line}" for line in lines) or f"  {message[:600]}"
    return (
        f"{address}: a small job that checks the cluster failed:\n{shown}\nOn the head, `python` "
        f"must be Ray's own: activate its environment before ray start."
    )


def _number(job_id: str, name: str) -> int:
    found = re.fullmatch(rf"sweep-{re.escape(name)}-(\d+)", job_id)
    return int(found[1]) if found else 0


def _job(details: Any) -> Job | None:
    metadata = details.metadata or {}
    if "sweep" not in metadata or not details.submission_id:
        return None
    return Job(
        id=details.submission_id,
        sweep=metadata["sweep"],
        output=metadata.get("sweep_output", "~/sweeps"),
        status=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started_at=(details.start_time or 0) / 1000,
    )
