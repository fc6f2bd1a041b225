"""How an export is served: commands that are right for what the adapter is."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from sweep.export.serving import serving_adapter, serving_model


def adapter(folder: Path, **about: Any) -> Path:
    known = {"base_model_name_or_path": "org/base", "r": 16, "target_modules": ["q_proj"]}
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**known, **about}))
    return folder


def base_of(folder: Path, **about: Any) -> str:
    (folder / "base").mkdir()
    config = {"model_type": "llama", **about}
    (folder / "base" / "config.json").write_text(json.dumps(config))
    return str(folder / "base")


def commands(text: str) -> list[list[str]]:
    """Each command of the Markdown, as a shell reads it."""
    blocks = [part.split("```")[0] for part in text.split("```sh\n")[1:]]
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def served(adapter: Path, base: str, **more: Any) -> str:
    settings = {"name": "mine", "revision": None, "code": False, **more}
    return serving_adapter(adapter, "HERE", base, **settings)


def test_an_adapter_is_served_beside_its_base(tmp_path: Path) -> None:
    base = base_of(tmp_path)
    found = commands(served(adapter(tmp_path / "a"), base))
    vllm = ["vllm", "serve", base, "--enable-lora", "--max-lora-rank", "16"]
    assert found[0] == [*vllm, "--lora-modules", "mine=HERE"]
    to_lora = ["python", "llama.cpp/convert_lora_to_gguf.py", "HERE", "--base", base]
    assert found[3:] == [
        ["python", "llama.cpp/convert_hf_to_gguf.py", base, "--outfile", "base.gguf"],
        [*to_lora, "--outfile", "adapter.gguf"],
        ["llama-server", "-m", "base.gguf", "--lora", "adapter.gguf"],
    ]


@pytest.mark.parametrize(("rank", "asked"), [(4, "8"), (24, "32"), (300, "320"), (512, "512")])
def test_vllm_takes_only_some_ranks_as_the_largest(tmp_path: Path, rank: int, asked: str) -> None:
    serve = commands(served(adapter(tmp_path / "a", r=rank), base_of(tmp_path)))[0]
    assert serve[serve.index("--max-lora-rank") + 1] == asked


def test_a_base_of_the_hub_is_fetched_at_its_revision(tmp_path: Path) -> None:
    found = commands(served(adapter(tmp_path / "a"), "org/none-such", revision="v2", code=True))
    assert found[0][2:6] == ["org/none-such", "--revision", "v2", "--trust-remote-code"]
    fetch = ["hf", "download", "org/none-such", "--revision", "v2", "--local-dir", "base"]
    assert fetch in found
    assert ["python", "llama.cpp/convert_lora_to_gguf.py", "HERE", "--base", "base"] in [
        command[:5] for command in found
    ]


def test_the_adapters_own_chat_template_is_served(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    serve = commands(served(folder, base_of(tmp_path)))[0]
    assert serve[-2:] == ["--chat-template", "HERE/chat_template.jinja"]


def test_names_with_spaces_and_commas_reach_vllm_whole(tmp_path: Path) -> None:
    serve = commands(served(adapter(tmp_path / "a"), base_of(tmp_path), name="my, own"))[0]
    assert json.loads(serve[-1]) == {"name": "my, own", "path": "HERE"}
    spaced = commands(serving_model("/home/me/my model", code=False))
    assert spaced[0] == ["vllm", "serve", "/home/me/my model"]


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"use_rslora": True}, "no adapter of rsLoRA (llama.cpp would scale it by alpha / rank)"),
        ({"use_dora": True}, "no adapter with DoRA's magnitudes, so convert the merged model."),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "no adapter of experts"),
    ],
)
def test_what_llama_cpp_would_read_wrongly_is_merged_first(
    tmp_path: Path, about: dict[str, Any], words: str
) -> None:
    text = served(adapter(tmp_path / "a", **about), base_of(tmp_path))
    assert words in text
    assert "convert_lora_to_gguf.py" not in text
    to_gguf = ["python", "llama.cpp/convert_hf_to_gguf.py", "merged", "--outfile", "model.gguf"]
    assert to_gguf in commands(text)


def test_a_base_that_is_quantised_already_is_no_base_of_a_gguf(tmp_path: Path) -> None:
    quantised = base_of(tmp_path, quantization_config={"quant_method": "fp8"})
    text = served(adapter(tmp_path / "a"), quantised)
    assert "on a base that is quantised already, so convert the merged model." in text


def test_what_vllm_does_not_load_is_served_merged(tmp_path: Path) -> None:
    text = served(adapter(tmp_path / "a", use_dora=True), base_of(tmp_path))
    assert "loads no adapter with use_dora" in text
    assert ["vllm", "serve", "merged"] in commands(text)
    assert "--enable-lora" not in text
