"""What several commands say of their options."""

from __future__ import annotations

import io
import sys

import pytest

from sweep.cli.options import console, print_yaml, tell_of_passwords
from sweep.screen.in_ascii import write_forms


def test_a_password_on_the_command_line_is_told_with_the_variable_in_its_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell_of_passwords(mlflow="http://me:hunter2@host", study="postgresql://host/d?password=hunter2")
    said = capsys.readouterr().err
    assert "--mlflow: everybody on this machine can read its password, with `ps`. Set " in said
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and leave it out" in said
    assert "--study: everybody" in said and "Set PGPASSWORD, and" in said
    assert "hunter2" not in said


def test_an_address_without_one_is_not_spoken_of(capsys: pytest.CaptureFixture[str]) -> None:
    tell_of_passwords(mlflow="http://me@host:5000", study="postgresql://me@host/d?sslmode=require")
    tell_of_passwords(mlflow=None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rank: 8  # α 16 → ×\n", b"rank: 8  # alpha 16 -> x\n"),
        ("train: größe.jsonl  # α\n", "train: größe.jsonl  # α\n".encode()),
    ],
)
def test_yaml_changes_in_its_comments_alone_where_only_ascii_is_shown(
    text: str, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    write_forms(stream)
    monkeypatch.setattr(sys, "stdout", stream)
    print_yaml(text)
    stream.flush()
    assert raw.getvalue() == expected


@pytest.mark.parametrize(
    ("columns", "width"), [("60", 60), ("200", 200), ("", 120), ("0", 120), ("wide", 120)]
)
def test_a_pipe_is_as_wide_as_columns_says(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert console().width == width
