"""The script for sbatch, run with stand-ins for SLURM's commands that start all on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sweep.cluster.kuberay import Machines
from sweep.cluster.slurm import script
from sweep.space.loading import load_space

SRUN = """\
#!/bin/bash
# Takes srun's own options off and runs the rest here: one machine plays all.
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """\
#!/bin/bash
case $1 in
  show) printf 'first\\nsecond\\n' ;;
  requeue) echo "requeued $2" ;;
esac
"""
HOSTNAME = "#!/bin/bash\necho 127.0.0.1\n"
SPACE = """\
base_model: smollm2-135m
data: {train: rows.jsonl, eval: 0.5}
search: {rank: [4, 8]}
budget: {hours: 3.5}
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (tmp_path / "my space.yaml").write_text(SPACE)
    return tmp_path / "my space.yaml"


def written(space: Path, *arguments: str, n: int = 2, gpus: int = 8) -> str:
    machines = Machines(n=n, gpus_each=gpus)
    return script(space, load_space(space), arguments, "~/sweeps", machines)


@pytest.mark.parametrize("gpus", [0, 8])
def test_the_script_is_clean_bash(space: Path, tmp_path: Path, gpus: int) -> None:
    (tmp_path / "job.sh").write_text(written(space, "--set", "search.rank=[1, 2]", gpus=gpus))
    subprocess.run(["bash", "-n", tmp_path / "job.sh"], check=True)
    checker = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert checker is not None
    subprocess.run([checker, tmp_path / "job.sh"], check=True)


def test_the_script_asks_for_what_the_sweep_needs(space: Path) -> None:
    text = written(space)
    for line in ("--nodes=2", "--gpus-per-node=8", "--time=3:45:00", "--requeue"):
        assert f"#SBATCH {line}\n" in text
    assert "#SBATCH --gpus" not in written(space, gpus=0)


def in_slurms_place(folder: Path) -> dict[str, str]:
    """An environment whose srun, scontrol and hostname are the ones above."""
    (folder / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "hostname": HOSTNAME}.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    home = folder / "home"
    home.mkdir()
    return {
        # Ray's settings of a sweep in this process would keep its machines apart.
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "HOME": str(home),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "SLURM_JOB_ID": str(number),
        "SLURM_JOB_NODELIST": "first,second",
    }


# In place of the sweep: counts the machines of its Ray, then waits to be told.
STAND_IN = """\
import ray, signal, sys, time
ray.init(log_to_driver=False)
print("machines", sum(n["Alive"] for n in ray.nodes()), flush=True)
def told(*_):
    print("told", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, told)
time.sleep(120)
"""


@pytest.mark.long
def test_ray_starts_on_all_machines_and_the_time_limit_queues_the_job_anew(
    space: Path, tmp_path: Path
) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    text = written(space, gpus=0)
    run = next(line for line in text.splitlines() if " -m sweep run " in line)
    text = text.replace(run, f"{sys.executable} {tmp_path / 'stand_in.py'} &")
    # Its own folder of commands comes last here, so that those of SLURM are found first.
    text = text.replace("export PATH=", "# ")
    (tmp_path / "job.sh").write_text(text)
    output = tmp_path / "output.txt"
    environment = in_slurms_place(tmp_path)
    with output.open("w") as file:
        job = subprocess.Popen(
            ["bash", tmp_path / "job.sh"],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_for("machines 2", output, job)
            job.send_signal(signal.SIGTERM)
            code = job.wait(timeout=60)
        finally:
            _end(job)
            shutil.rmtree(f"/tmp/ray-{environment['SLURM_JOB_ID']}", ignore_errors=True)
    assert code == 130, output.read_text()
    assert "told" in output.read_text()
    assert "requeued" in output.read_text()


def _wait_for(words: str, output: Path, job: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while words not in output.read_text():
        assert job.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.2)


def _end(job: subprocess.Popen[bytes]) -> None:
    """End what the job has started, all of which is in its session."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == job.pid:
                process.kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
