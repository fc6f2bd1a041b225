"""The GPU script's runner keeps limits and loses no row; its parts import where little is."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.gpu.script.bench import Bench
from tests.gpu.script.found import Found, said
from tests.gpu.script.parts import GROUPS, longest_seconds
from tests.gpu.script.runner import ROOT, Part, Row, Runner, as_table
from tests.gpu.script.speed import Kernel, busy_seconds
from tests.gpu.script.stand_ins import SOURCE

HERE = "tests.gpu.test_script"
PARTS = [part for group in GROUPS for part in group]
WITHOUT = ("optuna", "ray", "mlflow", "trl", "datasets", "pyarrow", "pandas", "pydantic", "rich")


def sleeps(bench: Bench) -> None:
    bench.found.figure("known before", 1)
    time.sleep(60)


def dies(bench: Bench) -> None:
    raise SystemExit("gone")


def is_well(bench: Bench) -> None:
    bench.found.figure("loss", 2.5)


def errs(bench: Bench) -> None:
    bench.found.expect_equal([2.0, float("nan")], [2.0, 2.0], within=0.1, of="losses")


def lacks(bench: Bench) -> None:
    importlib.import_module("no_such_package")


def reads_rows(bench: Bench) -> None:
    bench.found.figure("rows", len((bench.folder / "rows.jsonl").read_text().splitlines()))


def leaves_a_process(bench: Bench) -> None:
    left = subprocess.Popen(["sleep", "600"])
    bench.found.figure("pid", left.pid)
    os._exit(1)


def rows_of(folder: Path, *parts: Part, seconds: float = 60) -> list[Row]:
    return Runner(folder, folder / "scratch", seconds=seconds, at_once=1).run([parts])


def part(name: str, seconds: float = 30) -> Part:
    return Part(name, f"{HERE}:{name}", seconds)


def test_a_part_is_killed_at_its_limit_and_keeps_what_it_found(tmp_path: Path) -> None:
    [row] = rows_of(tmp_path, part("sleeps", 8))
    assert row.outcome == "wrong" and row.words == ["killed at its limit of 8 s"]
    assert row.figures == {"known before": 1}
    assert row.seconds < 10


def test_after_a_part_that_dies_the_rest_runs_and_each_row_is_on_disk(tmp_path: Path) -> None:
    rows_of(tmp_path, part("dies"), part("lacks"), part("is_well"), part("errs"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["part"]: row["outcome"] for row in rows} == {
        "dies": "wrong",
        "lacks": "missing",
        "is_well": "right",
        "errs": "wrong",
    }
    assert rows[0]["words"] == ["ended with 1: gone"]
    assert rows[1]["words"] == ["No module named 'no_such_package'"]
    assert rows[3]["words"] == ["losses: 2, nan in place of 2, 2 (within 0.1)"]
    assert "| is_well | right |" in (tmp_path / "table.md").read_text()


def test_a_row_is_on_disk_before_the_next_part_begins(tmp_path: Path) -> None:
    _, row = rows_of(tmp_path, part("is_well"), part("reads_rows"))
    assert row.figures == {"rows": 1}


def test_what_a_part_has_started_ends_with_it(tmp_path: Path) -> None:
    [row] = rows_of(tmp_path, part("leaves_a_process"))
    deadline = time.monotonic() + 5
    while is_alive(row.figures["pid"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(row.figures["pid"])


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_part_for_which_no_time_is_left_is_not_begun(tmp_path: Path) -> None:
    first, second = rows_of(tmp_path, part("sleeps"), part("is_well"), seconds=6)
    assert first.words == ["killed at its limit of 6 s"]
    assert (second.outcome, second.words) == ("not run", ["no time was left"])


def test_all_parts_fit_into_six_minutes_where_those_of_a_group_run_at_once() -> None:
    assert longest_seconds() <= 360
    assert len({part.name for part in PARTS}) == len(PARTS)


def test_every_part_is_there_without_the_packages_of_the_sweep() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {WITHOUT}: sys.modules[name] = None\n"
        f"for function in {[part.function for part in PARTS]}:\n"
        "    module, name = function.split(':')\n"
        "    getattr(importlib.import_module(module), name)\n"
        "import trials.training.train, trials.backends.transformers_qlora, tests.zoo.build\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stand_in_has_every_name_and_every_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large_one").mkdir()
    (tmp_path / "large_one/__init__.py").write_text(SOURCE)
    code = "from large_one.deep.down import Thing; import large_one as o; class_ = o.Other; Thing()"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_runs_beside_each_other_keeps_a_device_busy_once() -> None:
    spans = [Kernel(0, 4e6), Kernel(1e6, 2e6), Kernel(3e6, 5e6), Kernel(7e6, 8e6)]
    assert busy_seconds(spans) == pytest.approx(6.0)


def test_what_was_said_before_a_process_died_is_read(tmp_path: Path) -> None:
    found = Found(tmp_path, "one")
    found.figure("loss", 2.5)
    found.figure("loss", 2.25)
    found.note("so")
    assert said(tmp_path, "one").figures == {"loss": 2.25}
    assert said(tmp_path, "other").figures == {}


def test_a_cell_of_the_table_holds_any_words() -> None:
    table = as_table([Row("one", "wrong", 1.4, {"losses": [2.123456789, 2.0]}, ["a | b\nc"])])
    assert table.splitlines()[-1] == "| one | wrong | 1 | losses 2.1235, 2 | a \\| b c |"


@pytest.mark.long
def test_what_can_run_on_processors_is_right(tmp_path: Path) -> None:
    command = ["-m", "tests.gpu.script", "--small", "--minutes", "60", "--out", str(tmp_path)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *command], env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, (tmp_path / "table.md").read_text()
