"""Libraries that are there and do not work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trials.machine.cards import Card
from trials.machine.libraries import tried
from trials.machine.packages import _bitsandbytes, _driver_and_torch, _flash_attention


def test_one_that_crashes_is_named_and_the_others_are_tried_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashes.py").write_text("import os; os.kill(os.getpid(), 11)")
    (tmp_path / "breaks.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = tried("breaks", "crashes", "packaging")
    assert found["breaks"] == {"error": "ImportError: undefined symbol: _ZN3c10"}
    assert found["crashes"]["error"].startswith("it crashes the process (exit code -11)")
    assert "version" in found["packaging"]


CARD = Card(0, "GPU-1", "NVIDIA L4", "470.82", 23034, 22500, 4, (), ())


@pytest.mark.parametrize(
    ("cuda", "words"),
    [
        (None, "There are GPUs, which it cannot use. Install its CUDA build: pip install"),
        ("13.0", "sees no GPU with driver 470.82: too old. Install a driver for CUDA 13.0, or"),
    ],
)
def test_a_torch_that_cannot_use_the_gpus_cannot_run(cuda: str | None, words: str) -> None:
    torch: dict[str, Any] = {"version": "2.13.0+cpu", "cuda": cuda, "gpus": [], "why": "too old"}
    found = _driver_and_torch(torch, has_gpus=True, cards=[CARD])
    assert found.grade == "cannot"
    assert words in found.words
    assert _driver_and_torch(torch, has_gpus=False, cards=[]).grade == "ready"


def test_bitsandbytes_without_its_library_is_slower_and_one_that_fails_cannot_run() -> None:
    known = {"version": "0.50.2", "device": "cpu"}
    assert _bitsandbytes({**known, "is_native": True}).grade == "ready"
    assert _bitsandbytes({**known, "is_native": False}).grade == "slower"
    found = _bitsandbytes({"error": "RuntimeError: Configured CUDA binary not found"})
    assert found.grade == "cannot"
    assert "Configured CUDA binary not found. Install" in found.words


@pytest.mark.parametrize(
    ("capability", "has_varlen", "grade", "words"),
    [
        ([8, 0], True, "ready", "not installed; rows lie end to end by torch's varlen_attn."),
        ([8, 0], False, "slower", "not installed. Packed rows go without it. pip install"),
        ([7, 5], True, "ready", "not for GPUs before Ampere."),
    ],
)
def test_without_flash_attn_it_is_slower_only_where_torch_has_nothing_in_its_place(
    capability: list[int], has_varlen: bool, grade: str, words: str
) -> None:
    found = _flash_attention(capability, has_varlen=has_varlen)
    assert found.grade == grade
    assert found.words.startswith(f"flash-attn: {words}")


def test_the_torch_that_is_installed_has_attention_of_packed_rows() -> None:
    assert tried("torch")["torch"]["has_varlen_attn"]
