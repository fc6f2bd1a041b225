"""`sweep submit --manifest`: a sweep as a RayJob of KubeRay, to be given to kubectl."""

import base64
import io
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sweep.errors import SpaceError
from sweep.folder import layout
from sweep.space.space import Space
from sweep.text.numbers import megabytes
from trials.parent import job_command

MOST_BYTES = 700_000
"""Of files: a ConfigMap holds 1 MiB, and base64 adds a third."""
SECRET = "sweep-secrets"
CLAIM = "sweep-output"
FILES_DIR, OUTPUT_DIR = "/sweep-files", "/sweeps"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machines:
    """What a cluster of its own is made of."""

    n: int
    gpus_each: int


def manifest(space: Space, packed: Path, options: Sequence[str], machines: Machines,
             image: str | None) -> str:  # fmt: skip
    """Return two documents of YAML: a ConfigMap with the space and its files, and the RayJob.

    Args:
        packed: The folder of `pack_space`.
        options: Of `sweep run`.
        image: With this program in it; None: `sweep:VERSION`.

    Raises:
        SpaceError: The files are too large for a ConfigMap.
    """
    files = _files(packed)
    image = image or f"sweep:{version('sweep')}"
    name = f"sweep-{kubernetes_name(space.name)}"
    stream = io.StringIO()
    stream.write(_heading(space.name, name, image))
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 1000
    yaml.dump(_config_map(name, files), stream)
    stream.write("---\n")
    yaml.dump(_ray_job(space, name, list(files), options, machines, image), stream)
    return stream.getvalue()


def kubernetes_name(name: str) -> str:
    """The nearest name to a sweep's that Kubernetes takes; KubeRay adds to it, so it is short."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:35].strip("-") or "sweep"


def _heading(name: str, resource: str, image: str) -> str:
    return f"""\
# {name} as a RayJob of KubeRay (1.5 or later, for the token). Before `kubectl apply -f`:
#   the image {image}, with Ray and this program in it;
#   a PersistentVolumeClaim {CLAIM}, for the sweep's folder;
#   where they are wanted, a Secret {SECRET} with HF_TOKEN, MLFLOW_TRACKING_PASSWORD, AWS_… .
# Follow it: kubectl logs -f job/{resource}
"""


def _files(packed: Path) -> dict[str, bytes]:
    """The space and its data, by their paths in the package; the program is in the image."""
    paths = [packed / layout.SPACE, *sorted((packed / "data").rglob("*"))]
    if (packed / "base_model").exists():
        raise SpaceError(
            "base_model: a manifest carries no model. Name a hub id, or file:///folder for one in "
            "the image or on a volume."
        )
    files = {p.relative_to(packed).as_posix(): p.read_bytes() for p in paths if p.is_file()}
    total = sum(map(len, files.values()))
    if total > MOST_BYTES:
        raise SpaceError(
            f"data: a manifest carries at most {MOST_BYTES:,} bytes, but these files have "
            f"{megabytes(total)}. Name data that the cluster reads: s3://bucket/rows.jsonl, "
            f"gs://bucket/rows.jsonl, a hub data set, or file:///folder on a volume."
        )
    return files


def _config_map(name: str, files: dict[str, bytes]) -> dict[str, Any]:
    data = {
        _key(path): base64.b64encode(content).decode("ascii") for path, content in files.items()
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-files"},
        "binaryData": data,
    }


def _key(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", path)


def _ray_job(
    space: Space,
    name: str,
    paths: Sequence[str],
    options: Sequence[str],
    machines: Machines,
    image: str,
) -> dict[str, Any]:
    space_file = f"{FILES_DIR}/{layout.SPACE}"
    words = job_command("sweep", "run", space_file, *options)
    items = [{"key": _key(path), "path": path} for path in paths]
    volumes = {
        "files": {"configMap": {"name": f"{name}-files", "items": items}},
        "output": {"persistentVolumeClaim": {"claimName": CLAIM}},
        # PyTorch's processes share memory there; the default of 64 MB is too little.
        "shm": {"emptyDir": {"medium": "Memory"}},
    }
    gpus = machines.gpus_each
    on_head = {"files": FILES_DIR, "output": OUTPUT_DIR}
    head = _pod("ray-head", image, {"cpu": "2", "memory": "8Gi"}, on_head, volumes)
    taken = {"cpu": str(4 * gpus), "memory": f"{32 * gpus}Gi", "nvidia.com/gpu": str(gpus)}
    worker = _pod("ray-worker", image, taken, {"shm": "/dev/shm"}, volumes)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name},
        "spec": {
            "entrypoint": f"{shlex.join(words)} --output {OUTPUT_DIR}",
            "metadata": {"sweep": space.name, "sweep_output": OUTPUT_DIR},
            "runtimeEnvYAML": "env_vars:\n  PYTHONUNBUFFERED: '1'\n",
            # A head that is lost takes the job with it; on a new cluster the sweep goes on.
            "backoffLimit": 2,
            "shutdownAfterJobFinishes": True,
            # Time to fetch from; the folder stays on its volume.
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token"},
                "headGroupSpec": {
                    # Trials run on the workers.
                    "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
                    "template": head,
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "gpus",
                        "replicas": machines.n,
                        "minReplicas": machines.n,
                        "maxReplicas": machines.n,
                        "rayStartParams": {},
                        "template": worker,
                    }
                ],
            },
        },
    }


def _pod(
    name: str,
    image: str,
    resources: dict[str, str],
    mounts: dict[str, str],
    volumes: dict[str, Any],
) -> dict[str, Any]:
    container = {
        "name": name,
        "image": image,
        "envFrom": [{"secretRef": {"name": SECRET, "optional": True}}],
        "resources": {"limits": dict(resources), "requests": dict(resources)},
        "volumeMounts": [{"name": volume, "mountPath": path} for volume, path in mounts.items()],
    }
    mounted = [{"name": volume, **volumes[volume]} for volume in mounts]
    return {"spec": {"containers": [container], "volumes": mounted}}
