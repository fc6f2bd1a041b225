"""What a user reads of a worker that is gone, and what is deleted of a machine that was."""

from __future__ import annotations

from pathlib import Path

from ray.exceptions import ActorUnavailableError, RayError

from sweep.workers.actor import Home
from sweep.workers.endings import death, is_machine_lost
from sweep.workers.file_sync import forget_lost

HOME = Home(
    node="node-1",
    node_id="a" * 56,
    gpus=["0"],
    gpu_type=None,
    pid=1,
    sees_folder=False,
    scratch=Path(),
)
CUT_OFF = ActorUnavailableError("RpcError: RPC error: Socket closed rpc_code: 14", b"\1" * 16)


def test_a_lost_connection_names_the_machine_and_is_no_fault_of_the_worker() -> None:
    assert death(CUT_OFF, HOME) == "The connection to the machine node-1 was lost."
    assert death(CUT_OFF, None) == "The connection to its machine was lost."
    assert is_machine_lost(CUT_OFF)


def test_a_lost_machine_is_named() -> None:
    lost = RayError("The actor died because its node has died. Node Id: 128cd5e6")
    assert death(lost, HOME) == "The worker process died: the machine node-1 was lost."
    assert is_machine_lost(lost)


def test_a_process_that_died_by_itself_is_told_with_rays_cause() -> None:
    died = RayError("The actor died.\n\tcause: Worker exit type: SYSTEM_ERROR")
    assert "SYSTEM_ERROR" in death(died, HOME)
    assert not is_machine_lost(died)


def test_what_a_machine_kept_while_it_was_taken_for_lost_is_deleted(tmp_path: Path) -> None:
    here, lost, other = (tmp_path / name for name in ("sweep-a-1111", "sweep-a-2222", "sweep-b-2"))
    for folder in (here, lost, other):
        (folder / "data").mkdir(parents=True)
    forget_lost(tmp_path / "sweep-a-3333", ["1111", "3333"])
    assert here.exists() and other.exists() and not lost.exists()
