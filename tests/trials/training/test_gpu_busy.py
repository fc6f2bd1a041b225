"""How busy a trial's GPU was; there is no NVML here, so a card's answers stand for it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pynvml
import pytest
import torch

from trials.training import gpu_busy
from trials.training.gpu_busy import GpuBusy

CUDA = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A card that is found by its UUID alone, and what it will answer, in percent."""
    answers: list[int] = []

    def by_uuid(uuid: str) -> str:
        if uuid != "GPU-4a1b":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "the card"

    def utilization(handle: str) -> SimpleNamespace:
        assert handle == "the card"
        if not answers:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)  # as of a card in slices
        return SimpleNamespace(gpu=answers.pop(0))

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(gpu_busy, "SECONDS", 0.001)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", by_uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", utilization)
    properties = SimpleNamespace(uuid="4a1b")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    yield answers


def after(answers: list[int]) -> None:
    """Train until the card has given its answers."""
    for _ in itertools.takewhile(lambda _: answers, itertools.count()):
        time.sleep(0.001)
    time.sleep(0.05)


def test_it_is_the_mean_of_what_the_card_says_since_training_went_on(card: list[int]) -> None:
    busy = GpuBusy(CUDA)
    for percents, share in (([100, 50, 0], 0.5), ([20], 0.2)):
        card += percents
        busy.begin()
        after(card)
        assert busy.take() == pytest.approx(share)


def test_a_driver_that_does_not_answer_holds_nothing_up(
    card: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def late() -> None:
        answers.wait()
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(pynvml, "nvmlInit", late)
    busy = GpuBusy(CUDA)
    busy.begin()
    [waiting] = [thread for thread in threading.enumerate() if thread.name == "gpu-busy"]
    assert busy.take() is None
    answers.set()
    waiting.join()


def test_nothing_is_asked_between_an_evaluation_and_the_training_after_it(card: list[int]) -> None:
    busy = GpuBusy(CUDA)
    card += [100]
    busy.begin()
    after(card)
    busy.take()
    card += [10]
    time.sleep(0.05)
    assert card == [10]


def test_a_card_that_does_not_say_and_one_that_is_not_found_give_no_number(
    card: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = GpuBusy(CUDA)
    busy.begin()
    time.sleep(0.05)
    assert busy.take() is None
    card += [100]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="MIG"))
    busy = GpuBusy(CUDA)
    busy.begin()
    time.sleep(0.05)
    assert (busy.take(), card) == (None, [100])


@pytest.mark.skipif(torch.cuda.is_available(), reason="here NVML answers")
def test_without_nvml_there_is_no_number_and_no_word(capfd: pytest.CaptureFixture[str]) -> None:
    for device in (torch.device("cpu"), CUDA):
        busy = GpuBusy(device)
        busy.begin()
        assert busy.take() is None
    assert capfd.readouterr() == ("", "")
