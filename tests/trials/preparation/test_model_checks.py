"""A folder of a base model, looked into before any trial: whole weights, and no adapter."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.tiny import model_config
from trials.config import ConfigError
from trials.preparation.model_checks import SAFE_WEIGHTS, check_folder


@pytest.fixture
def sharded(tiny_base: Path, tmp_path: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    model.save_pretrained(tmp_path / "model", max_shard_size="100KB")
    return tmp_path / "model"


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def test_a_whole_model_passes(tiny_base: Path, sharded: Path) -> None:
    check_folder(model_config(tiny_base))
    check_folder(model_config(sharded))


def test_every_shard_that_is_missing_or_cut_is_named(sharded: Path) -> None:
    first, second, *_ = shards(sharded)
    first.unlink()
    size = second.stat().st_size
    os.truncate(second, size - 1)
    words = f"{first.name} is missing; {second.name} is cut: {size - 1:,} of {size:,} bytes"
    with pytest.raises(ConfigError, match=words):
        check_folder(model_config(sharded))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_weights_of_somebody_else_that_are_closed_are_named(sharded: Path) -> None:
    for folder in (sharded, *sharded.parents):
        if folder.is_relative_to(tempfile.gettempdir()) and folder.stat().st_mode & 0o777 == 0o700:
            folder.chmod(0o755)
    first = shards(sharded)[0]
    first.chmod(0o600)  # as safetensors writes them
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match=f"{first.name} may not be read by this user"):
            check_folder(model_config(sharded))
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("size", [0, 4, 100])
def test_weights_cut_within_their_header_are_told(
    tiny_base: Path, tmp_path: Path, size: int
) -> None:
    shutil.copytree(tiny_base, tmp_path / "model")
    os.truncate(tmp_path / "model" / SAFE_WEIGHTS[0], size)
    with pytest.raises(ConfigError, match=f"is cut or no safetensors \\({size} bytes\\)"):
        check_folder(model_config(tmp_path / "model"))


def test_an_index_that_is_none_is_told(sharded: Path) -> None:
    (sharded / SAFE_WEIGHTS[1]).write_text("{}")
    with pytest.raises(ConfigError, match="names a file for each weight, but is not"):
        check_folder(model_config(sharded))


@pytest.mark.parametrize(
    ("with_base", "words"), [(True, "also holds an adapter"), (False, "is an adapter")]
)
def test_an_adapter_in_the_folder_is_refused(
    tiny_base: Path, tmp_path: Path, with_base: bool, words: str
) -> None:
    folder = tmp_path / "model"
    if with_base:
        shutil.copytree(tiny_base, folder)
    else:
        folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ConfigError, match=words):
        check_folder(model_config(folder))
