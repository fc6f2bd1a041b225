"""What a file may not do: run code, ask questions, write elsewhere, give secrets away."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sweep.cli.app import main
from sweep.errors import SpaceError
from sweep.space.loading import load_space
from tests import tiny
from trials.backends.loading import load
from trials.config import ConfigError, DataError, ModelConfig
from trials.data.examples import Example, Message
from trials.data.formats import Reading, converted
from trials.data.table import Row, Table
from trials.models.shapes import on_meta
from trials.preparation.model_checks import check_weights, reachable
from trials.rendering.renderer import Renderer

ROOT = Path(__file__).parents[1]
MARK = "code-was-run"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own folder with good data; whatever would run leaves a mark there."""
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    yield tmp_path
    assert not Path(MARK).exists()


def write_space(base: str = "smollm2-135m", more: str = "") -> Path:
    path = Path("mine.yaml")
    data = "data: {train: train.jsonl, eval: 0.5}"
    path.write_text(f"base_model: {base}\n{data}\nsearch: {{rank: 8}}\n{more}\n")
    return path


@pytest.mark.parametrize(
    "tag",
    [
        f"!!python/object/apply:os.system ['touch {MARK}']",
        f"!!python/object/new:subprocess.Popen [['touch', '{MARK}']]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!mine {a: 1}",
        "!!binary aGk=",
    ],
)
@pytest.mark.parametrize("where", ["file", "flag"])
def test_a_tag_of_yaml_is_refused(tag: str, where: str) -> None:
    path = write_space(more=f"seed: {tag}" if where == "file" else "")
    with pytest.raises(SpaceError, match=r"a tag \(.*\) is not allowed, since tags can name code"):
        load_space(path, {} if where == "file" else {"seed": tag})


@pytest.mark.parametrize(
    "template",
    ["{title.__class__}", "{title[0]}", "{title.__init__.__globals__}", "{title!r}", "{title:{x}}"],
)
def test_a_template_reaches_nothing_but_columns(template: str) -> None:
    table = Table("train.jsonl", "train.jsonl", [Row("line 1", {"title": "a"})])
    _, problems = converted(table, Reading(template=template))
    assert "data.template may hold only {column} fields with columns of" in problems[0]


def test_rows_are_no_templates() -> None:
    title = "{{ 7 * 7 }} {title} {title.__class__}"
    table = Table("train.jsonl", "train.jsonl", [Row("line 1", {"title": title})])
    [example] = converted(table, Reading(template="<{title}>"))[0].examples
    assert example.text == f"<{title}>"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch code-was-run') }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('roles must alternate') }}",
    ],
)
def test_a_chat_template_is_boxed_in(template: str) -> None:
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = template
    example = Example((Message("assistant", "rain"),), None, None, None, "train.jsonl line 1")
    renderer = Renderer(tokenizer, chat=True, loss_on="completion")
    with pytest.raises(DataError, match="the chat template rejects the conversation"):
        renderer.render(example)


def sources() -> str:
    files = [path for part in ("sweep", "trials") for path in (ROOT / part).rglob("*.py")]
    return "\n".join(path.read_text() for path in files)


def test_nothing_reads_a_pickle() -> None:
    code = sources()
    assert not re.search(r"torch\.load\(|pickle\.load|joblib|cloudpickle", code)
    loads = re.findall(r"np\.load\((?:[^()]|\([^()]*\))*\)", code)
    assert loads
    assert all("allow_pickle=False" in call for call in loads)


MODULES = ("torch", "regex", "json", "html", "dataclasses", "numpy", "psutil", "rich", "yaml")


@pytest.mark.parametrize("command", ["check mine.yaml", "doctor"])
def test_the_current_folder_holds_no_modules(folder: Path, base: Path, command: str) -> None:
    for module in MODULES:
        Path(f"{module}.py").write_text(f"open({MARK!r}, 'w')\nraise SystemExit('mine')\n")
    write_space("base")
    done = subprocess.run(
        [sys.executable, "-m", "sweep", *command.split(), "--workers", "1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "mine" not in done.stderr


def pickled_base(base: Path) -> Path:
    """The same model with its weights as a pickle that leaves a mark when it is read."""

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path(MARK).touch, ()

    (base / "model.safetensors").unlink()
    torch.save({"weights": Code()}, base / "pytorch_model.bin")
    return base


@pytest.fixture
def base(folder: Path) -> Path:
    """A model of a few weights."""
    from tests.faults.data_mutants import make_base

    return make_base(folder / "base")


def config(name: str, **changes: Any) -> ModelConfig:
    return replace(tiny.model_config(Path(name)), quantization="none", name=name, **changes)


def test_a_folder_with_pickles_alone_is_refused_by_the_space(base: Path) -> None:
    path = write_space(str(pickled_base(base)))
    with pytest.raises(SpaceError, match="pytorch_model.bin is a pickle, which can run code, so"):
        load_space(path)


def test_a_pickle_is_not_loaded_by_a_worker_either(base: Path) -> None:
    name = str(pickled_base(base))
    with pytest.raises(OSError, match="no file named model.safetensors"):
        load(config(name))


def test_a_model_of_the_hub_with_pickles_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["config.json", "pytorch_model.bin"]
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name, revision: names)
    with pytest.raises(
        ConfigError,
        match="org/name must have safetensors weights, but has none; pytorch_model.bin is a",
    ):
        check_weights(config("org/name"))


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_model_of_the_hub_with_safetensors_is_taken(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked: list[str] = []

    def files(repository: str, revision: str | None) -> list[str]:
        asked.append(repository)
        return ["config.json", "pytorch_model.bin", name]

    monkeypatch.setattr("huggingface_hub.list_repo_files", files)
    check_weights(config("org/name"))
    assert asked == ["org/name"]


def bring_code(base: Path) -> Path:
    """Let the model come with Python code of its own."""
    (base / "code.py").write_text(f"from pathlib import Path\nPath({MARK!r}).touch()\n")
    settings = json.loads((base / "config.json").read_text())
    names = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    settings |= {"model_type": "of-its-own", "auto_map": names}
    (base / "config.json").write_text(json.dumps(settings))
    return base


def test_a_model_with_code_of_its_own_is_put_in_words(base: Path) -> None:
    name = str(bring_code(base))
    with pytest.raises(ConfigError, match="which runs only with `trust_remote_code: t"):
        reachable(config(name), lambda: on_meta(config(name)))


def test_nobody_is_asked_whether_to_run_code(base: Path) -> None:
    path = write_space(str(bring_code(base)))
    silent, kept_open = os.pipe()
    done = subprocess.run(
        [sys.executable, "-m", "sweep", "check", str(path), "--workers", "1"],
        stdin=silent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(silent)
    os.close(kept_open)
    assert done.returncode == 2, done.stderr
    assert "has its own Python code" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", ".hidden", "a\\nb", "x" * 101, ""])
def test_a_name_stays_in_the_output_folder(name: str) -> None:
    with pytest.raises(SpaceError, match="must be a valid folder name"):
        load_space(write_space(), {"name": json.dumps(name)})


@pytest.mark.parametrize("revision", ["../x", "a/../b", "/etc", "a//b", "", "x" * 101, "a b"])
def test_a_revision_stays_in_the_cache_of_the_hub(revision: str) -> None:
    with pytest.raises(SpaceError, match="must be a branch, a tag or a commit of the hub"):
        load_space(write_space(), {"revision": json.dumps(revision)})


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", "0" * 39 + "a", "a-b_c"])
def test_a_branch_a_tag_or_a_commit_is_taken(revision: str) -> None:
    assert load_space(write_space(), {"revision": revision}).settings.revision == revision


TOKEN = "hf_" + "aB3" * 11


@pytest.mark.parametrize(
    "given",
    [
        "base_model: https://me:hunter2@example.org/m",
        "data: {train: 'https://me:hunter2@example.org/rows.jsonl?key=hunter2', eval: 0.1}",
        "revision: https://me:hunter2@example.org",
        f"backend: {TOKEN}",
    ],
)
def test_secrets_do_not_stand_in_messages(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = given.split(":")[0]
    lines = [line for line in write_space().read_text().splitlines() if not line.startswith(key)]
    Path("mine.yaml").write_text("\n".join([*lines, given]))
    monkeypatch.setattr(sys, "argv", ["sweep", "check", "mine.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert (ended.value.code, "1 problem" in said) == (2, True)
    assert "hunter2" not in said
    assert TOKEN not in said


def test_a_message_does_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_space(more='"\\e[31m": 1')
    monkeypatch.setattr(sys, "argv", ["sweep", "check", str(path)])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert "\ufffd[31m: no such setting" in said
    assert "\x1b" not in said


def test_a_row_does_not_steer_the_terminal(base: Path) -> None:
    steers = "\x1b]0;mine\x07\x1b[2J\x1b]8;;http://x\x1b\\"
    rows = [json.dumps({"text": f"{steers} {n}", steers: n}) for n in range(4)]
    Path("train.jsonl").write_text("\n".join(rows))
    done = subprocess.run(
        [sys.executable, "-m", "sweep", "check", str(write_space("base")), "--workers", "1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not {"\x1b", "\x07"} & set(done.stdout + done.stderr)
    assert "\ufffd]0;mine" in done.stdout
