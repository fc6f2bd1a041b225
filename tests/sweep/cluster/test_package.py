"""What travels with a job, and what comes back."""

from __future__ import annotations

import io
import re
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sweep.cluster import package
from sweep.cluster.fetch import unpack
from sweep.cluster.jobs import default_address, shell_path
from sweep.cluster.on_head.archive import archive
from sweep.cluster.package import pack_space
from sweep.errors import ClusterError, SpaceError
from sweep.space.loading import load_space
from sweep.space.space import Space

SPACE = """\
base_model: {model}
data: {{train: ../rows/train.jsonl, eval: {eval}}}
search: {{rank: [4, 8]}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with more in it than a job needs."""
    for name in ("rows", "spaces", ".git", "spaces/model"):
        (tmp_path / name).mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "training.log", ".secret"):
        (tmp_path / "spaces" / "model" / name).write_text("{}")
    for name in (".env", "id_rsa", "spaces/notes.md", ".git/config"):
        (tmp_path / name).write_text("secret")
    for name in ("train", "eval"):
        (tmp_path / "rows" / f"{name}.jsonl").write_text('{"text": "a"}\n')
    return tmp_path


def write_space(folder: Path, *, model: str = "smollm2-135m", eval: str = "0.5") -> Path:
    path = folder / "spaces" / "mine.yaml"
    path.write_text(SPACE.format(model=model, eval=eval))
    return path


def packed(path: Path, target: Path, **overrides: str) -> Space:
    target.mkdir()
    pack_space(path, load_space(path, overrides), overrides, target)
    return load_space(target / "space.yaml")


def brought(target: Path) -> list[str]:
    """The files in a package, this program apart."""
    names = (path.relative_to(target) for path in target.rglob("*") if path.is_file())
    ours = ("sweep", "trials", f"sweep-{version('sweep')}.dist-info")
    return sorted(name.as_posix() for name in names if name.parts[0] not in ours)


def test_the_files_that_a_space_names_travel_and_no_others(folder: Path) -> None:
    path = write_space(folder, model="model", eval="../rows/eval.jsonl")
    space = packed(path, folder / "packed")
    assert brought(folder / "packed") == [
        "base_model/model/config.json",
        "base_model/model/model.safetensors",
        "base_model/model/tokenizer.json",
        "data/eval/eval.jsonl",
        "data/train/train.jsonl",
        "space.yaml",
    ]
    assert space.name == "mine"
    assert space.source("train") == str((folder / "packed/data/train/train.jsonl").resolve())


def test_a_chat_template_travels_and_a_known_name_stays_one(folder: Path) -> None:
    (folder / "rows" / "mine.jinja").write_text("{{ messages }}")
    path = write_space(folder)
    space = packed(path, folder / "packed", **{"data.chat_template": "../rows/mine.jinja"})
    assert "data/chat_template/mine.jinja" in brought(folder / "packed")
    assert space.chat_template == "{{ messages }}"
    known = packed(path, folder / "known", **{"data.chat_template": "chatml"})
    assert known.settings.data.chat_template == "chatml"


def test_several_files_travel_and_those_of_one_name_stay_apart(folder: Path) -> None:
    (folder / "spaces" / "train.jsonl").write_text('{"text": "b"}\n')
    path = write_space(folder, eval="[../rows/eval.jsonl, 's3://bucket/eval.jsonl']")
    files = "[../rows/train.jsonl, train.jsonl, org/name]"
    path.write_text(path.read_text().replace("../rows/train.jsonl", files))
    space = packed(path, folder / "packed")
    assert brought(folder / "packed") == [
        "data/eval/eval.jsonl",
        "data/train/0/train.jsonl",
        "data/train/1/train.jsonl",
        "space.yaml",
    ]
    train = space.sources("train")
    assert [Path(one).read_text()[-4] for one in train[:2]] == ["a", "b"]
    assert (train[2], space.sources("eval")[1]) == ("org/name", "s3://bucket/eval.jsonl")


def test_what_is_set_on_the_command_line_travels(folder: Path) -> None:
    space = packed(write_space(folder), folder / "packed", **{"search.rank": "[2]", "name": '"x"'})
    assert (space.name, str(space.domains["rank"])) == ("x", "2")


def test_data_with_an_address_stays_where_it_is(folder: Path) -> None:
    overrides = {"data.train": "s3://bucket/rows.jsonl", "base_model": "file:///shared/llama"}
    space = packed(write_space(folder), folder / "packed", **overrides)
    assert brought(folder / "packed") == ["space.yaml"]
    assert space.settings.data.train == "s3://bucket/rows.jsonl"


def test_the_program_travels_with_its_version_and_no_caches(folder: Path) -> None:
    packed(write_space(folder), folder / "packed")
    about = folder / "packed" / f"sweep-{version('sweep')}.dist-info" / "METADATA"
    assert "Requires-Dist: optuna" in about.read_text()
    assert (folder / "packed" / "trials" / "backends").is_dir()
    assert list((folder / "packed").rglob("__pycache__")) == []


def test_too_much_is_refused_with_the_largest_files_and_a_way_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "MOST_BYTES", 10)
    with pytest.raises(SpaceError) as raised:
        packed(write_space(folder), folder / "packed")
    assert "data.train: " in str(raised.value)
    assert "s3://bucket/rows.jsonl, gs://bucket/rows.jsonl, or file:///shared/rows.jsonl" in str(
        raised.value
    )
    assert brought(folder / "packed") == []


def test_an_archive_holds_what_a_user_wants_and_no_links(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "best" / "adapter").mkdir(parents=True)
    (folder / "best" / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "best" / "README.md").symlink_to(folder / "best/adapter/adapter_model.safetensors")
    (folder / "trials" / "000" / "adapter").mkdir(parents=True)
    (folder / "trials" / "000" / "log.txt").write_text("log")
    (folder / "trials" / "000" / "adapter" / "adapter_model.safetensors").write_bytes(b"other")
    archive(folder, tmp_path / "a.tar")
    unpack(tmp_path / "a.tar", tmp_path / "there")
    found = sorted(p.relative_to(tmp_path / "there").as_posix()
                   for p in (tmp_path / "there").rglob("*") if p.is_file())  # fmt: skip
    assert found == [
        "best/README.md",
        "best/adapter/adapter_model.safetensors",
        "trials/000/log.txt",
    ]
    assert (tmp_path / "there" / "best" / "README.md").read_bytes() == b"weights"


@pytest.mark.parametrize("kind", ["above", "absolute", "link"])
def test_an_archive_writes_nowhere_else(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        name = {"above": "../out.txt", "absolute": str(tmp_path / "out.txt"), "link": "l"}[kind]
        member = tarfile.TarInfo(name)
        if kind == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        else:
            member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(ClusterError):
        unpack(tmp_path / "a.tar", tmp_path / "in" / "folder")
    assert not (tmp_path / "out.txt").exists()
    assert not (tmp_path / "in" / "out.txt").exists()


@pytest.mark.parametrize(
    ("path", "shell"),
    [("~/sweeps", '"$HOME"/sweeps'), ("/shared/my sweeps", "'/shared/my sweeps'"),
     ("~/$(reboot)", "\"$HOME\"/'$(reboot)'")],
)  # fmt: skip
def test_a_path_of_the_cluster_is_quoted_for_its_shell(path: str, shell: str) -> None:
    assert shell_path(path) == shell


def test_an_address_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(ClusterError, match="--address: .* set RAY_API_SERVER_ADDRESS"):
        default_address(None)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    assert default_address(None) == "http://head:8265"
    assert default_address("http://other:8265") == "http://other:8265"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--cluster-output", "sweeps"],
            "--cluster-output sweeps: must be an absolute path, such as",
        ),
        (["--env", "NO_SUCH_VARIABLE"], "--env NO_SUCH_VARIABLE: no such variable is set here"),
        (["--gpus", "1", "--workers", "1"], "--workers and --gpus"),
        (["--address", "ray://head:10001"], "Write http://head:8265."),
    ],
)
def test_options_that_cannot_be_are_said(
    folder: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from sweep.cli.app import main

    path = write_space(folder)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", ["sweep", "submit", str(path), *options])
        main()
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def manifest_of(path: Path, target: Path) -> list[dict[str, object]]:
    from sweep.cluster.kuberay import Machines, manifest

    target.mkdir()
    space = load_space(path)
    pack_space(path, space, {}, target)
    text = manifest(space, target, ["--trials", "9"], Machines(n=3, gpus_each=8), None)
    return list(YAML(typ="safe").load_all(text))


def test_a_manifest_starts_the_sweep_on_so_many_machines(folder: Path) -> None:
    files, job = manifest_of(write_space(folder), folder / "packed")
    assert (files["apiVersion"], files["kind"]) == ("v1", "ConfigMap")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert isinstance(spec, dict)
    assert spec["entrypoint"] == (
        "python -m sweep run /sweep-files/space.yaml --trials 9 --output /sweeps"
    )
    [group] = spec["rayClusterSpec"]["workerGroupSpecs"]
    [container] = group["template"]["spec"]["containers"]
    assert group["replicas"] == 3
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    [items] = [v["configMap"]["items"] for v in head["volumes"] if "configMap" in v]
    binary = files["binaryData"]
    assert isinstance(binary, dict)
    assert {item["key"] for item in items} == set(binary)
    assert {item["path"] for item in items} == {"space.yaml", "data/train/train.jsonl"}


# The fields of KubeRay's types, ray-operator/apis/ray/v1, that a manifest may use.
FIELDS = {
    "RayJobSpec": {
        *("entrypoint", "metadata", "runtimeEnvYAML", "backoffLimit", "shutdownAfterJobFinishes"),
        *("ttlSecondsAfterFinished", "rayClusterSpec"),
    },
    "RayClusterSpec": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
    "WorkerGroupSpec": {
        *("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template")
    },
}


def test_a_manifest_has_fields_that_kuberay_knows(folder: Path) -> None:
    path = write_space(folder)
    path = path.rename(path.with_name(f"{'A_very.long-name' * 4}.yaml"))
    _, job = manifest_of(path, folder / "packed")
    spec = job["spec"]
    assert isinstance(spec, dict)
    cluster = spec["rayClusterSpec"]
    assert set(spec) == FIELDS["RayJobSpec"]
    assert set(cluster) == FIELDS["RayClusterSpec"]
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    assert set(cluster["workerGroupSpecs"][0]) == FIELDS["WorkerGroupSpec"]
    parameters = cluster["headGroupSpec"]["rayStartParams"]
    assert all(isinstance(value, str) for value in parameters.values())
    metadata = job["metadata"]
    assert isinstance(metadata, dict)
    # The operator refuses other names: 47 characters at most, a label of DNS (RFC 1035).
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", metadata["name"])
    assert len(metadata["name"]) <= 47


def test_a_manifest_carries_no_model(folder: Path) -> None:
    with pytest.raises(SpaceError, match="a manifest carries no model"):
        manifest_of(write_space(folder, model="model"), folder / "packed")


def test_names_of_kubernetes_are_its_own() -> None:
    from sweep.cluster.kuberay import kubernetes_name

    assert kubernetes_name("Llama3.1_8B-Chat") == "llama3-1-8b-chat"
    assert len(kubernetes_name("a" * 100)) == 35
