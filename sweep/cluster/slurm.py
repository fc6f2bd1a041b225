"""`sweep submit --slurm`: a script for sbatch that starts Ray and runs the sweep on it."""

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from sweep.cluster.jobs import shell_path
from sweep.cluster.kuberay import Machines
from sweep.space.space import Space
from trials.parent import module_command

USUAL_HOURS = 24.0
SPARE_HOURS = 0.25
"""For Ray's start and for the end in order."""

SCRIPT = """\
#!/bin/bash
# sbatch {file_name}     runs the sweep {name}, and resumes after the time limit by itself
#SBATCH --job-name=sweep-{name}
#SBATCH --nodes={n_machines}
#SBATCH --ntasks-per-node=1
{gpus_line}#SBATCH --cpus-per-task={cpus_each}
#SBATCH --time={time}
#SBATCH --output=sweep-{name}-%j.log
#SBATCH --open-mode=append
# At the time limit, trials get 120 s to write checkpoints; then the job is requeued.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail

export PATH={bin_dir}:"$PATH"
export RAY_USAGE_STATS_ENABLED=0 PYTHONUNBUFFERED=1
# Since SLURM 22.05 srun does not inherit this from sbatch: Ray would have one core.
export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-1}}"
# Keeps other users of these machines out of this Ray.
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | base64 | tr -d '+/=\\n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${{hosts[0]}}
read -r head_ip _ < <(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address)
port=$((20000 + SLURM_JOB_ID % 10000))
ray_options=(--block --num-gpus={gpus_each} --disable-usage-stats)

steps=()
trap 'kill "${{steps[@]}}" 2> /dev/null || true' EXIT
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \\
  ray start --head --node-ip-address="$head_ip" --port="$port" --include-dashboard=false \\
  --temp-dir="/tmp/ray-$SLURM_JOB_ID" "${{ray_options[@]}}" > /dev/null &
steps+=($!)
export RAY_ADDRESS=$head_ip:$port
if ((${{#hosts[@]}} > 1)); then
  until ray health-check --address "$RAY_ADDRESS" > /dev/null 2>&1; do
    kill -0 "${{steps[0]}}" || {{ echo "Ray did not start on $head." >&2; exit 1; }}
    sleep 1
  done
  srun --nodes=$((${{#hosts[@]}} - 1)) --ntasks-per-node=1 --exclude="$head" --overlap \\
    ray start --address="$RAY_ADDRESS" "${{ray_options[@]}}" > /dev/null &
  steps+=($!)
fi
{wait} "${{#hosts[@]}}"

is_over=false
{command} &
sweep=$!
trap 'is_over=true; kill -TERM "$sweep"' TERM
code=0
wait "$sweep" || code=$?
while ((code == 143)); do  # TERM has ended the wait, not the sweep
  code=0
  wait "$sweep" || code=$?
done
if $is_over && ((code == 130)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def script(
    path: Path, space: Space, arguments: Sequence[str], output: str, machines: Machines
) -> str:
    """Return the script.

    It is for a file system that all machines share, as a cluster's home folders are: space, data
    and this program's environment are where they are now.

    Args:
        path: Of the space.
        arguments: Of `sweep run`, behind the space.
        output: Folder of all sweeps.
    """
    hours = space.settings.budget.hours
    words = module_command("sweep", "run", str(path.resolve()), *arguments)
    wait = module_command("sweep.cluster.on_head.wait_for_machines")
    return SCRIPT.format(
        wait=shlex.join(wait),
        file_name=f"{space.name}.sh",
        name=space.name,
        n_machines=machines.n,
        gpus_each=machines.gpus_each,
        gpus_line=f"#SBATCH --gpus-per-node={machines.gpus_each}\n" if machines.gpus_each else "",
        cpus_each=4 * max(1, machines.gpus_each),
        time=_time(USUAL_HOURS if hours is None else hours + SPARE_HOURS),
        bin_dir=shlex.quote(str(Path(sys.executable).parent)),
        command=f"{shlex.join(words)} --output {shell_path(output)}",
    )


def _time(hours: float) -> str:
    """`24:00:00`, as SLURM reads it."""
    minutes = math.ceil(hours * 60)
    return f"{minutes // 60}:{minutes % 60:02d}:00"
