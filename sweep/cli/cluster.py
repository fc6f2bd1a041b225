"""The commands for a Ray cluster: submit, attach, fetch; and `stop` with an address."""

from __future__ import annotations

import math
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep.cli.options import (
    Gpus,
    Hours,
    Name,
    Seed,
    Sets,
    SpaceFile,
    Trials,
    Workers,
    echo,
    fail,
    overrides_of,
    print_file,
)
from trials.foreign_text import cleaned, has_secret
from trials.unfinished import scratch_dir

if TYPE_CHECKING:
    from sweep.cluster.jobs import Cluster, Job


Address = Annotated[
    str | None,
    typer.Option(
        metavar="http://HEAD:8265", help="The Ray cluster's dashboard.", show_default=False
    ),
]
JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's id, or a sweep's name for its latest job.")
]
To = Annotated[Path, typer.Option(metavar="DIR", help="Folder to fetch into.")]


def submit(
    space: SpaceFile,
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Show its output; Ctrl-C leaves it running.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it ends, fetch it, exit with its code.")
    ] = False,
    trials: Trials = None,
    hours: Hours = None,
    workers: Workers = None,
    gpus: Gpus = None,
    name: Name = None,
    seed: Seed = None,
    mlflow: Annotated[
        str | None, typer.Option(help="An MLflow server the cluster can reach.", show_default=False)
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A PostgreSQL database the head can reach, for the study.",
            show_default=False,
        ),
    ] = None,
    sets: Sets = None,
    cluster_output: Annotated[
        str, typer.Option(metavar="DIR", help="Folder of sweeps, on the cluster's head.")
    ] = "~/sweeps",
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Pass this environment variable, e.g. HF_TOKEN; repeatable.",
            show_default=False,
        ),
    ] = None,
    to: To = Path("fetched"),
    check: Annotated[bool, typer.Option(help="Check the cluster first.")] = True,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Print a RayJob for KubeRay; submit nothing.")
    ] = False,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Print a script for sbatch; submit nothing.")
    ] = False,
    machines: Annotated[int, typer.Option(min=1, help="Machines of the manifest or script.")] = 1,
    gpus_per_machine: Annotated[
        int | None,
        typer.Option(min=0, help="GPUs per machine; default: a trial's.", show_default=False),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(help="Image of the manifest, with Ray and this program.", show_default=False),
    ] = None,
    on_end: Annotated[str | None, typer.Option(help="Of sweep run alone.", hidden=True)] = None,
) -> None:
    """Run or resume a sweep as a job on a Ray cluster.

    Example: sweep submit my.yaml --address http://head:8265 --follow. Exit codes: 0 submitted, 2
    bad input or an unfit cluster. With --wait or --follow: those of sweep run.
    """
    overrides = overrides_of(sets, name, seed)
    if not cluster_output.startswith(("/", "~/")):
        # Beside the job's files it would go with them.
        fail(f"--cluster-output {cluster_output}: must be an absolute path, such as ~/sweeps.")
    if workers is not None and gpus is not None:
        fail("--workers and --gpus: trials run on CPUs or on GPUs; give one of the two.")
    if on_end is not None:
        fail(
            "--on-end: a command does not go to a cluster, where nobody has said that it may run. "
            "Wait here, and run it then: sweep submit … --wait; COMMAND"
        )
    _refuse_password("--mlflow", mlflow, "MLFLOW_TRACKING_PASSWORD")
    _refuse_password("--study", study, "PGPASSWORD")
    of_mlflow = _mlflow_variables(mlflow)
    environment = {**of_mlflow, **_environment(env or [])}
    address_there = environment.get("MLFLOW_TRACKING_URI")
    _refuse_password("MLFLOW_TRACKING_URI", address_there, "MLFLOW_TRACKING_PASSWORD")
    given = {"trials": trials, "hours": hours, "workers": workers, "gpus": gpus,
             "mlflow": mlflow, "study": study}  # fmt: skip
    options = [word for key, value in given.items() if value is not None
               for word in (f"--{key}", str(value))]  # fmt: skip

    from sweep.cluster.jobs import Cluster, default_address
    from sweep.cluster.kuberay import Machines
    from sweep.cluster.package import pack_space
    from sweep.space.loading import load_space
    from sweep.text.numbers import megabytes

    # The budget's flags go to the job: they are checked with the rest of the file.
    limits = {"budget.trials": trials, "budget.hours": hours}
    budget = {key: str(value) for key, value in limits.items() if value is not None}
    checked = load_space(space, {**overrides, **budget})
    usual = 0 if workers is not None else math.ceil(checked.settings.gpus_per_trial)
    asked = Machines(n=machines, gpus_each=usual if gpus_per_machine is None else gpus_per_machine)
    if slurm:
        from sweep.cluster.slurm import script

        changed = {"--name": name, "--seed": seed}
        options += [w for k, v in changed.items() if v is not None for w in (k, str(v))]
        options += [word for given_set in sets or [] for word in ("--set", given_set)]
        print_file(script(space, checked, options, cluster_output, asked))
        return
    with scratch_dir() as folder:
        packed = Path(folder)
        n_bytes = pack_space(space, checked, overrides, packed)
        if manifest:
            from sweep.cluster.kuberay import manifest as as_manifest

            for key in environment:
                echo(f"{key} does not go into the manifest: set it there, if it shall.", err=True)
            print_file(as_manifest(checked, packed, options, asked, image))
            return
        cluster = Cluster(default_address(address))
        cluster.refuse_second(checked.name, cluster_output)
        echo(f"{checked.name}: {megabytes(n_bytes)} of data go with the job.")
        if check:
            from sweep.cluster.check import check as check_cluster
            from sweep.cluster.check import needs

            servers = {"--mlflow": mlflow, "MLFLOW_TRACKING_URI": address_there, "--study": study}
            request = needs(packed, workers=workers, gpus=gpus, servers=servers)
            check_cluster(cluster, request, packed, cluster_output, echo)
        for key, value in of_mlflow.items():
            echo(f"{key} goes with the job: {value}")
        job = cluster.submit(checked.name, cluster_output, options, packed, environment)
    echo(f"Submitted as {job.id}.")
    if follow or wait:
        raise typer.Exit(_stay(cluster, job, show=follow, fetch_to=to if wait else None))
    _say_how_to_go_on(cluster, job)


def attach(job: JobName, address: Address = None) -> None:
    """Follow a sweep on a cluster; Ctrl-C leaves it running.

    Example: sweep attach my. Exits with the sweep's exit code, or with 0 after Ctrl-C.
    """
    cluster, found = _find(job, address)
    raise typer.Exit(_stay(cluster, found, show=True, fetch_to=None))


def fetch(job: JobName, address: Address = None, to: To = Path("fetched")) -> None:
    """Fetch the best adapter, report and study from a cluster.

    Works while the sweep runs. Example: sweep fetch my --address http://head:8265
    """
    cluster, found = _find(job, address)

    from sweep.cluster.fetch import fetch

    fetch(cluster, found, to, echo)


def stop(given: str, address: str, *, wait: bool) -> int:
    """Stop a sweep on a cluster cleanly; returns the exit code."""
    cluster, job = _find(given, address)

    from sweep.cluster.steering import stop_job

    return stop_job(cluster, job, wait=wait, say=echo)


def prune(given: str, number: int, address: str) -> int:
    """End one trial of a sweep on a cluster; returns the exit code."""
    cluster, job = _find(given, address)

    from sweep.cluster.steering import prune_job

    return prune_job(cluster, job, number, say=echo)


def _find(given: str, address: str | None) -> tuple[Cluster, Job]:
    from sweep.cluster.jobs import Cluster, default_address

    cluster = Cluster(default_address(address))
    return cluster, cluster.find(given)


def _stay(cluster: Cluster, job: Job, *, show: bool, fetch_to: Path | None) -> int:
    from sweep.cluster.follow import Follower

    try:
        job = Follower(cluster, _write if show else _hide, echo).follow(job)
    except KeyboardInterrupt:
        echo(f"\nDetached; {job.id} keeps running.")
        _say_how_to_go_on(cluster, job)
        return 130 if fetch_to else 0
    if job.exit_code is None:
        echo(f"{job.id} ended without an exit code ({job.status}): {job.message}", err=True)
        echo("Submit the sweep again to resume it.", err=True)
    if fetch_to:
        from sweep.cluster.fetch import fetch

        fetch(cluster, job, fetch_to, echo)
    elif job.exit_code == 0:
        echo(f"Fetch it: {_command('fetch', cluster, job)}")
    return 1 if job.exit_code is None else job.exit_code


def _say_how_to_go_on(cluster: Cluster, job: Job) -> None:
    echo(f"  follow   {_command('attach', cluster, job)}")
    echo(f"  stop     {_command('stop', cluster, job)}")
    echo(f"  fetch    {_command('fetch', cluster, job)}")


def _command(verb: str, cluster: Cluster, job: Job) -> str:
    return f"sweep {verb} {job.id} --address {shlex.quote(cluster.address)}"


def _write(text: str) -> None:
    sys.stdout.write(cleaned(text))
    sys.stdout.flush()


def _hide(text: str) -> None:
    pass


def _refuse_password(flag: str, address: str | None, variable: str) -> None:
    """See that none stands in the job's command, which the dashboard shows."""
    if address is not None and has_secret(address):
        fail(
            f"{flag}: must hold no password, since the cluster's dashboard would show it. "
            f"Set {variable} and pass it: --env {variable}"
        )


def _mlflow_variables(flag: str | None) -> dict[str, str]:
    """Return those of MLflow's variables that go with a job: a sweep there reads them as here.

    Args:
        flag: What `--mlflow` says in place of the address.
    """
    from sweep.storage.sqlite import file_of
    from sweep.tracking.destination import EXPERIMENT, URI, checked_variable, variable

    found = {URI: None if flag else checked_variable(), EXPERIMENT: variable(EXPERIMENT)}
    if (address := found[URI]) is not None and file_of(address) is not None:
        echo(f"{URI} is {address}, on this machine, and does not go with the job.", err=True)
        del found[URI]
    return {key: value for key, value in found.items() if value}


def _environment(names: list[str]) -> dict[str, str]:
    missing = [name for name in names if name not in os.environ]
    if missing:
        fail(f"--env {missing[0]}: no such variable is set here. Set it, or name another.")
    return {name: os.environ[name] for name in names}
