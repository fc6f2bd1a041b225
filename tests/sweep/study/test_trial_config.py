"""What a space leaves open: the backend, the environment of a worker, the micro-batch."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.errors import SpaceError
from sweep.samplers.search_space import hyperparameters
from sweep.space.backend import backend_in_words, backend_notes, choose_backend
from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.study.trial_config import model_config, resolver
from sweep.workers.devices import training_environment
from trials.memory.micro_batches import MicroBatchMemory

Load = Callable[..., Space]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a space that fixes everything but what is named as --set would."""
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    text = "base_model: smollm2-135m\ndata: {train: train.jsonl, eval: 0.1}\nsearch: {rank: 8}\n"
    (tmp_path / "mine.yaml").write_text(text)
    return lambda **sets: load_space(
        tmp_path / "mine.yaml", {key.replace("__", "."): value for key, value in sets.items()}
    )


def install_unsloth(monkeypatch: pytest.MonkeyPatch, is_installed: bool) -> None:
    found = object() if is_installed else None
    monkeypatch.setattr(importlib.util, "find_spec", {"unsloth": found}.get)


@pytest.mark.parametrize(
    ("sets", "on_gpus", "is_installed", "words"),
    [
        ({}, True, True, "unsloth (installed; backend: transformers switches it off)"),
        ({}, True, False, "transformers (Unsloth is not installed)"),
        ({}, False, True, "transformers (trials run on CPUs)"),
        (
            {"search__use_dora": "[false, true]"},
            True,
            True,
            "transformers (Unsloth has no kernels for use_dora)",
        ),
        ({"search__use_dora": "false"}, True, True, "unsloth (installed; backend: transformers sw"),
        ({"gpus_per_trial": "2"}, True, True, "transformers (Unsloth trains on one GPU)"),
        ({"compute_dtype": "float32"}, True, True, "transformers (Unsloth's kernels compute in 16"),
        ({"quantization": "int8"}, True, True, "transformers (Unsloth has no fast path for int"),
        ({"backend": "transformers"}, True, True, "transformers (set in the file)"),
        ({"backend": "unsloth"}, True, True, "unsloth (set in the file)"),
    ],
)
def test_the_backend_is_chosen_and_the_reason_is_said(
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
    sets: dict[str, str],
    on_gpus: bool,
    is_installed: bool,
    words: str,
) -> None:
    install_unsloth(monkeypatch, is_installed)
    space = load(**sets)
    assert backend_in_words(space, on_gpus=on_gpus).startswith(words)
    assert choose_backend(space, on_gpus=on_gpus) == words.split("(")[0].split(",")[0].strip()


@pytest.mark.parametrize(
    ("about", "quantization", "words"),
    [
        (None, "nf4", "unsloth (installed"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4", "unsloth (installed"),
        ({"load_in_8bit": True}, "int8", "transformers (Unsloth has no fast path for int8)"),
        ({"quant_method": "fp8"}, "none", "transformers (Unsloth does not turn FP8 into 16 bits)"),
    ],
)
def test_a_checkpoint_that_is_quantised_already_keeps_its_form(
    load: Load,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    about: dict[str, object] | None,
    quantization: str,
    words: str,
) -> None:
    install_unsloth(monkeypatch, True)
    (tmp_path / "model").mkdir()
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / "model" / name).touch()
    config = {"model_type": "llama"} | ({} if about is None else {"quantization_config": about})
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    space = load(base_model="model")
    assert model_config(space, "transformers").quantization == quantization
    assert backend_in_words(space, on_gpus=True).startswith(words)


@pytest.mark.parametrize("config", ['{"model_type": "gpt2"}', None])
def test_a_model_that_is_not_for_unsloth_is_told(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str | None
) -> None:
    install_unsloth(monkeypatch, True)
    (tmp_path / "model").mkdir()
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / "model" / name).touch()
    (tmp_path / "model" / "config.json").write_text(config or "{")
    words = "config.json cannot be read" if config is None else "no kernels of its own for gpt2"
    assert words in backend_in_words(load(base_model="model"), on_gpus=True)
    assert choose_backend(load(base_model="model"), on_gpus=True) == "transformers"
    asked = load(base_model="model", backend="unsloth")
    if config is None:  # the worker reads it, or says why not
        assert choose_backend(asked, on_gpus=True) == "unsloth"
        return
    with pytest.raises(SpaceError, match=r"for gpt2, .*; write auto, or backend: transformers"):
        choose_backend(asked, on_gpus=True)


def test_unsloth_that_is_asked_for_and_missing_is_told(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_unsloth(monkeypatch, False)
    with pytest.raises(SpaceError, match=r"needs its extra: pip install .*\[unsloth\]"):
        choose_backend(load(backend="unsloth"), on_gpus=True)


def test_dora_with_unsloth_is_allowed_and_its_price_is_said(load: Load) -> None:
    space = load(backend="unsloth", search__use_dora="[false, true]")
    assert backend_notes(space, "unsloth") == [
        "Trials with use_dora: true run without Unsloth's fast LoRA kernels."
    ]
    assert backend_notes(load(backend="unsloth"), "unsloth") == []


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert training_environment(n_slots=2, n_processes=2) == {
        "OMP_NUM_THREADS": "4",
        "MKL_NUM_THREADS": "4",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    assert training_environment(n_slots=99)["OMP_NUM_THREADS"] == "1"


def test_the_micro_batch_is_that_of_one_gpu(load: Load, tmp_path: Path) -> None:
    space = load(gpus_per_trial="4", search__effective_batch_size="24")
    resolve = resolver(
        space, backend="transformers", on_gpus=True, output_dir=tmp_path, data_dir=tmp_path
    )
    config = resolve(0, hyperparameters(space, {}), False)
    assert (config.gpus_per_trial, config.rows_of_a_gpu) == (4, 6)
    assert next(MicroBatchMemory().attempts(config, longest_row=10, estimated=99)).tokens == 60


@pytest.mark.parametrize(("written", "rows", "most"), [("auto", 16, None), ("3", 3, 3)])
def test_a_micro_batch_that_is_written_is_the_most_rows_too(
    load: Load, tmp_path: Path, written: str, rows: int, most: int | None
) -> None:
    space = load(micro_batch_size=written)
    resolve = resolver(
        space, backend="transformers", on_gpus=True, output_dir=tmp_path, data_dir=tmp_path
    )
    config = resolve(0, hyperparameters(space, {}), False)
    assert (config.micro_batch_size, config.most_rows) == (rows, most)


def test_what_is_written_reaches_the_trial(load: Load, tmp_path: Path) -> None:
    space = load(compute_dtype="float16", checkpoint_minutes="2.5", search__use_dora="true")
    resolve = resolver(
        space, backend="transformers", on_gpus=False, output_dir=tmp_path, data_dir=tmp_path
    )
    config = resolve(0, hyperparameters(space, {}), False)
    assert model_config(space, "transformers").compute_dtype == "float16"
    assert (config.checkpoint_minutes, config.use_dora) == (2.5, True)
