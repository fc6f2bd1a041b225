"""`sweep init`: the file it writes, and when it writes none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sweep.cli.commands import app
from sweep.driver.new_space import in_flow, usual_path
from sweep.errors import SpaceError
from sweep.space.loading import load_space
from sweep.space.yaml_file import of_text
from tests import tiny


def run(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def test_the_file_that_is_written_passes_the_check(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my notes"
    folder.mkdir()
    train = tiny.write_rows(folder / "train.jsonl", 48, seed=2)
    tiny.write_rows(folder / "eval.jsonl", 40, seed=3)
    assert "sweep check" in run("init", train, "--model", tiny_base).stdout
    data = load_space(folder / "my-notes.yaml").settings.data
    assert (data.train, data.eval) == ("train.jsonl", "eval.jsonl")
    assert data.model_fields_set == {"train", "eval", "max_length"}
    assert run("check", folder / "my-notes.yaml").exit_code == 0


def test_a_dash_prints_the_file_alone(tiny_base: Path, tmp_path: Path) -> None:
    train = tiny.write_rows(tmp_path / "weather.jsonl", 48, seed=2)
    printed = run("init", train, "-", "--model", tiny_base).stdout
    assert sorted(tmp_path.iterdir()) == [train]
    assert printed.startswith("base_model: ")
    run("init", train, tmp_path / "mine.yaml", "--model", tiny_base)
    assert (tmp_path / "mine.yaml").read_text() == printed


@pytest.mark.long
def test_a_template_that_renders_tool_calls_can_be_named(tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    turn = "{% for turn in messages %}{{ turn.role + ' ' + (turn.content or '') }}{% endfor %}"
    (base / "chat_template.jinja").write_text(turn)
    call = {"function": {"name": "look", "arguments": {"at": "x"}}}
    rows = [
        [
            {"role": "user", "content": f"question {n}"},
            {"role": "assistant", "content": "I look", "tool_calls": [call]},
        ]
        for n in range(40)
    ]
    train = tmp_path / "calls.jsonl"
    train.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    refused = run("init", train, "-", "--model", base)
    assert "option --chat-template" in str(refused.exception)
    done = run("init", train, "-", "--model", base, "--chat-template", "chatml")
    assert "chat_template: chatml " in done.stdout
    assert "as --chat-template said" in done.stdout


def test_an_unknown_template_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    train = tiny.write_rows(tmp_path / "weather.jsonl", 4, seed=2)
    done = run("init", train, "--model", tiny_base, "--chat-template", "chatlm")
    assert "--chat-template: must be" in str(done.exception)


def test_rows_that_are_left_out_are_told(tiny_base: Path, tmp_path: Path) -> None:
    train = tiny.write_rows(tmp_path / "weather.jsonl", 48, seed=2)
    with train.open("a") as file:
        file.write('{"prompt": "a", "completion": 5}\n')
    done = run("init", train, "-", "--model", tiny_base)
    assert "skip_bad_rows: true" in done.stdout
    assert "1 of 49 rows cannot be used, so data.skip_bad_rows leaves" in done.stderr
    assert "1 row, " in done.stderr


def test_few_rows_are_evaluated_less_often(tiny_base: Path, tmp_path: Path) -> None:
    train = tiny.write_rows(tmp_path / "weather.jsonl", 64, seed=2)
    run("init", train, "--model", tiny_base)
    text = (tmp_path / "weather.yaml").read_text()
    # No fewer than let a trial be stopped as overfit.
    assert "evaluate: {times: 6}" in text and "to the shortest trial's training time" in text


@pytest.mark.parametrize("name", ["true", "naïve 🙂: #1.jsonl", "a\x85b'\"\n", "5e-5", "", "- a"])
def test_any_name_is_written_so_that_it_is_read(name: str) -> None:
    read = of_text(f"key: {in_flow({name: [name, 0.3, True]})}", Path("a.yaml")).plain
    assert read == {"key": {name: [name, 0.3, True]}}


def test_no_file_is_written_over(tmp_path: Path) -> None:
    train = tiny.write_rows(tmp_path / "weather.jsonl", 4, seed=2)
    (tmp_path / "weather.yaml").write_text("mine")
    done = run("init", train)
    assert (done.exit_code, (tmp_path / "weather.yaml").read_text()) == (2, "mine")
    assert "never written over" in done.stderr


@pytest.mark.parametrize(
    ("name", "words", "mend"),
    [
        ("gone.jsonl", (), "gone.jsonl: no such file"),
        ("bad.jsonl", (), "bad.jsonl"),
        ("bad.jsonl", ("--model", "./nowhere"), "--model: no such folder"),
    ],
)
def test_what_cannot_be_read_is_refused_and_nothing_written(
    tmp_path: Path, name: str, words: tuple[str, ...], mend: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n')
    done = run("init", tmp_path / name, *words)
    assert isinstance(done.exception, SpaceError)
    assert mend in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


@pytest.mark.parametrize(
    ("data", "space"),
    [
        ("orders/train.jsonl", "orders/orders.yaml"),
        ("orders/Data.csv.gz", "orders/orders.yaml"),
        ("orders/my mails.JSON", "orders/my-mails.yaml"),
        ("orders/_x_.parquet", "orders/x_.yaml"),
    ],
)
def test_a_space_is_called_as_its_data_or_their_folder(data: str, space: str) -> None:
    assert usual_path(Path(data)) == Path(space)
