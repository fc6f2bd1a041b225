"""What nvidia-smi prints, as a script in its place prints it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.driver.cards import card_notes
from trials.machine.cards import NoAnswer, cards, look, visible
from trials.node_check import look as look_at_all

H100 = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"
L4 = "GPU-12345678-aaaa-bbbb-cccc-0123456789ab"
TWO = f"""0, {H100}, NVIDIA H100 80GB HBM3, 550.54.15, 81559, 50000, 31000, Disabled
1, {L4}, NVIDIA L4, 550.54.15, 23034, 22500, 4, [N/A]"""
IN_SLICES = f"0, {H100}, NVIDIA H100 80GB HBM3, 550.54.15, 81559, [N/A], [N/A], Enabled"
LISTED = f"""GPU 0: NVIDIA H100 80GB HBM3 (UUID: {H100})
  MIG 3g.40gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.40gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)"""
SLICES = ["MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"]
MEMORY = {"weights_gib": 30.0, "adapter_gib": 1.0, "activations_gib": 30.0}


class Smi:
    """A program of that name."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "nvidia-smi"

    def prints(self, of_cards: str, processes: str = "", listed: str = "", code: int = 0) -> None:
        self._program.write_text(
            f"#!/bin/sh\ncase $1 in --query-gpu*) cat <<'END'\n{of_cards}\nEND\n;;\n"
            f"--query-compute*) cat <<'END'\n{processes}\nEND\n;;\n"
            f"*) cat <<'END'\n{listed}\nEND\n;; esac\nexit {code}\n"
        )
        self._program.chmod(0o755)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smi:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("CUDA_VISIBLE_DEVICES", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return Smi(tmp_path)


def test_without_nvidia_smi_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cards() is None


def test_a_driver_that_fails_is_told_in_its_own_words(smi: Smi) -> None:
    words = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    smi.prints(words, code=9)
    with pytest.raises(NoAnswer, match="couldn't communicate with the NVIDIA driver"):
        cards()
    answer = look_at_all(
        {"model": None, "revision": None, "requirements": ["no-such-package"], "has_gpus": True}
    )
    assert answer["problems"][0].startswith(f"driver: {words}")


def test_who_uses_a_card_and_what_is_left_is_said_with_the_mend(smi: Smi) -> None:
    smi.prints(TWO, f"{H100}, 4711, /usr/bin/python3, 30500\n{H100}, 12, [Not Found], [N/A]")
    first, second, sizes = look(cards() or [])
    assert first.words == (
        "GPU 0: NVIDIA H100 80GB HBM3, 48.8 GiB of 79.6 GiB free; process 4711 (python3) uses "
        "29.8 GiB, process 12 (Not Found) uses some memory. End it, or leave it out: "
        "CUDA_VISIBLE_DEVICES=1."
    )
    assert (first.grade, second.grade, second.mend) == ("slower", "ready", None)
    assert "of different size, 22 GiB and 80 GiB" in sizes.found
    assert sizes.mend == "For models that need the largest, name it: CUDA_VISIBLE_DEVICES=0."


def test_memory_that_no_visible_process_holds_is_said_too(smi: Smi) -> None:
    smi.prints(TWO)
    assert (
        "30.3 GiB are used by processes that cannot be seen from here"
        in next(look(cards() or [])).found
    )


@pytest.mark.parametrize(("named", "indices"), [("1", [1]), (H100[:10], [0]), ("7", [])])
def test_only_cards_that_are_named_count(
    smi: Smi, monkeypatch: pytest.MonkeyPatch, named: str, indices: list[int]
) -> None:
    smi.prints(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert [card.index for card in visible(cards() or [])] == indices


def test_slices_are_devices_that_must_be_named(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    smi.prints(IN_SLICES, listed=LISTED)
    [found] = look(cards() or [])
    assert (found.grade, found.mend) == (
        "slower",
        f"CUDA uses one of them. Name all: CUDA_VISIBLE_DEVICES={','.join(SLICES)}",
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", SLICES[1])
    [found] = look(visible(cards() or []))
    assert (found.grade, found.found) == (
        "ready",
        "NVIDIA H100 80GB HBM3 in 2 MIG slices, 1 of them named",
    )


def test_a_run_says_which_cards_are_too_small_for_its_largest_trial(smi: Smi) -> None:
    smi.prints(TWO, f"{H100}, 4711, python3, 30500")
    users, too_small = card_notes({"memory": MEMORY}, 1)
    assert users.startswith("GPU 0 (NVIDIA H100 80GB HBM3): process 4711 (python3) uses 29.8 GiB; ")
    assert too_small == (
        "Weights and adapter of the largest trials take 31.0 GiB, more than is free on GPU 1 "
        "(NVIDIA L4) with 22.0: they end there as out_of_memory. Trials begin on whichever GPU is "
        "free; CUDA_VISIBLE_DEVICES=0 keeps them on those that hold all."
    )
    small = {"memory": {**MEMORY, "weights_gib": 5.0}}
    assert "take smaller micro-batches on GPU 1 (NVIDIA L4)" in card_notes(small, 1)[-1]
    [_, on_none] = card_notes({"memory": MEMORY}, 0.5)
    assert "take 62.0 GiB" in on_none and "Search smaller ranks" in on_none
