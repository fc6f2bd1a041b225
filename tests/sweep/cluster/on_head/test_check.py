"""What is said of a cluster's machines."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from sweep.cluster.check import _door
from sweep.cluster.on_head.check import Node, _away, _by_node, _too_few, _versions
from trials.machine.disk import LEAST_FREE_BYTES, room
from trials.machine.packages import missing
from trials.node_check import look

HEAD, FIRST, SECOND = (Node(name, name, gpus, 8.0) for name, gpus in
                       (("head", 0.0), ("a", 8.0), ("b", 8.0)))  # fmt: skip


def request(**changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "gpus": None,
        "workers": None,
        "gpus_per_trial": 1,
        "revision": None,
        "servers": {},
    }
    return {**usual, "requirements": [], "has_gpus": False, **changes}


@pytest.mark.parametrize(
    ("nodes", "changes", "words"),
    [
        ([HEAD], {}, "The cluster has no GPU"),
        (
            [HEAD, FIRST],
            {"gpus_per_trial": 16},
            "must be at most 8, the most GPUs of one machine, not 16",
        ),
        ([HEAD, FIRST], {"workers": 99}, "--workers: must be at most 16, the CPUs of Ray, not 99"),
    ],
)
def test_too_little_of_something_is_said(
    nodes: list[Node], changes: dict[str, Any], words: str
) -> None:
    [problem] = _too_few(nodes, request(**changes))
    assert re.search(words, problem)


@pytest.mark.parametrize("changes", [{}, {"gpus_per_trial": 0.5}, {"gpus": 99}, {"workers": 24}])
def test_enough_is_enough(changes: dict[str, Any]) -> None:
    assert _too_few([HEAD, FIRST, SECOND], request(**changes)) == []


def test_a_server_that_the_head_does_not_reach_is_said_without_its_password() -> None:
    address = "postgresql://me:secret@127.0.0.1:9/studies"
    assert _door(address) == ("127.0.0.1", 9)
    [problem] = _away({"--study": list(_door(address))})
    assert problem.startswith("--study: the cluster's head cannot reach 127.0.0.1:9 (Conn")


def test_a_problem_of_many_machines_is_said_once() -> None:
    answers: dict[Node, dict[str, Any]] = {
        HEAD: {"problems": []},
        FIRST: {"problems": ["x"]},
        SECOND: {"problems": ["x", "y"]},
    }
    assert _by_node(answers, "problems") == ["a, b: x", "b: y"]
    everywhere: dict[Node, dict[str, Any]] = {node: {"problems": ["x"]} for node in (FIRST, SECOND)}
    assert _by_node(everywhere, "problems") == ["all 2 machines: x"]


def test_machines_must_have_the_same_versions() -> None:
    answers: dict[Node, dict[str, Any]] = {
        FIRST: {"problems": [], "python": "3.11.7", "versions": {"torch": "2.13.0"}},
        SECOND: {"problems": [], "python": "3.12.1", "versions": {"torch": "2.12.0"}},
    }
    assert _versions(answers) == [
        "torch must be the same on all machines, but is 2.13.0 on a; 2.12.0 on b.",
        "python must be the same on all machines, but is 3.11 on a; 3.12 on b.",
    ]


def test_packages_that_are_missing_or_too_old_are_named_with_a_mend() -> None:
    wanted = ["no-such-package>=1", "optuna>=99", "packaging", "ruff>=1 ; extra == 'test'"]
    assert missing(wanted)[1:] == ["not installed: no-such-package"]
    [problem] = look(request(requirements=wanted, model="smollm2-135m"))["problems"]
    assert re.match(r"packages: optuna is 5[.\d]+, not >=99; not installed: no-such", problem)
    assert "pip install -c constraints.txt -e '.[cluster]'" in problem


def test_a_model_that_the_hub_does_not_give_is_said() -> None:
    asked = request(model="nobody/nothing")
    [problem] = look(asked)["problems"]
    assert problem.startswith("base_model: nobody/nothing is not in this machine's cache")


def test_a_machine_that_has_all_has_no_problem(tiny_base: Path) -> None:
    answer = look(request(model=str(tiny_base)))
    assert answer["problems"] == []
    assert answer["python"] == sys.version.split()[0]


def test_a_folder_without_room_or_leave_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert room(tmp_path / "not" / "yet", "the output folder").grade == "ready"
    monkeypatch.setattr("trials.machine.disk.LEAST_FREE_BYTES", 10**18)
    found = room(tmp_path, "the output folder")
    assert found.grade == "cannot"
    assert found.words.startswith(f"the output folder: {tmp_path}, ")
    assert LEAST_FREE_BYTES < 10**18
