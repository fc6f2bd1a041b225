"""Six of the zoo that stand for the rest, in 4 bits and in 16, at every commit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.zoo.build import built
from tests.zoo.cell import measured

SIX = ("llama", "gemma3_text", "qwen3_moe", "deepseek_v3", "qwen3_5_text", "gpt2")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


# The trials of GPT-2: peft says what it does with transposed weights.
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("precision", ["nf4", "none"])
@pytest.mark.parametrize("name", SIX)
def test_it_trains_as_plain_transformers_and_peft_would(
    name: str, precision: str, models: Path, tmp_path: Path
) -> None:
    cell = measured(name, precision, built(name, models / name), tmp_path)
    assert (cell["verdict"], cell["words"]) == ("right", [])
