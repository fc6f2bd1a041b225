"""Shells, cron and containers start commands oddly: each still ends with its result, or words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ROOT = Path(__file__).parents[3]


def given(
    *words: str,
    environment: Mapping[str, str] = MappingProxyType({}),
    shell: str = "{}",
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Give a command to a shell, without the switches of the tests' own Python."""
    command = " ".join([sys.executable, "-P", "-m", "sweep", *words])
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["/bin/sh", "-c", shell.replace("{}", command)],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        cwd=cwd,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("environment", [ASCII, {"PYTHONIOENCODING": "ascii:strict"}])
def test_help_is_ascii_where_the_locale_is(environment: dict[str, str]) -> None:
    done = given("confirm", "--help", environment=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"mean +- standard error" in done.stdout


@pytest.mark.parametrize("name", ["PYTHONWARNINGS=error", "PYTHONOPTIMIZE=2"])
def test_switches_of_python_change_nothing(name: str) -> None:
    variable, _, value = name.partition("=")
    done = given("confirm", "--help", environment={variable: value})
    assert (done.returncode, done.stderr) == (0, b"")
    assert "mean ± standard error" in done.stdout.decode()


def test_a_relative_cache_is_no_folder_beside_the_user(tmp_path: Path) -> None:
    """The XDG specification has it ignored; matplotlib, for one, would make it."""
    code = "import os; from sweep.cli.process import begin; begin(); print(dict(os.environ))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "XDG_CACHE_HOME": "cache"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "XDG_CACHE_HOME" not in done.stdout


def test_json_is_ascii_where_the_locale_is_and_says_the_same(tmp_path: Path) -> None:
    plain, ascii_ = given("schema"), given("schema", environment=ASCII)
    assert ascii_.stdout.isascii()
    assert not plain.stdout.isascii()
    assert json.loads(ascii_.stdout) == json.loads(plain.stdout)


def test_what_becomes_a_file_is_utf8_in_every_locale() -> None:
    plain = given("schema", "--markdown")
    assert given("schema", "--markdown", environment=ASCII).stdout == plain.stdout


def test_a_name_that_is_not_ascii_is_found_in_an_ascii_locale(tmp_path: Path) -> None:
    done = given("list", "--output", "größe", cwd=tmp_path, environment=ASCII)
    assert done.returncode == 0, done.stderr
    assert b"grosse" in done.stdout


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", ">/dev/full"])
def test_a_result_that_cannot_be_written_is_told(closed: str) -> None:
    done = given("schema", shell=f"{{}} {closed}")
    assert done.returncode == 2
    assert done.stderr.startswith(b"Output: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "2>/dev/full"])
def test_a_result_needs_no_other_file(closed: str) -> None:
    assert given("schema", shell=f"{{}} {closed}").returncode == 0


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_words_that_cannot_be_written_leave_the_exit_code(closed: str) -> None:
    assert given("status", "none", shell=f"{{}} {closed}").returncode == 2


CLOSED_FILES = """
import os
from pathlib import Path
from sweep.cli import process
os.close(1)
assert process._hold_standard_files()
assert Path("database").open("w").fileno() > 2
"""


def test_no_file_gets_the_number_of_a_closed_one(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", CLOSED_FILES],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )


def test_a_current_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    shell = "mkdir gone; cd gone; rmdir ../gone; {}"
    done = given("list", shell=shell, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"The current folder must be there")


@pytest.mark.parametrize("error", ["2>&-", "2>/dev/full"])
def test_words_beside_a_result_do_not_cost_it(error: str, tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"row {number} of some"}) for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    done = given("init", "rows.jsonl", "-", shell=f"{{}} {error}", cwd=tmp_path)
    assert done.returncode == 0
    assert b"base_model:" in done.stdout
