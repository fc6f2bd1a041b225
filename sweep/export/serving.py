"""How an export is served: commands for vLLM and llama.cpp, in its model card and in best/."""

import json
import shlex
from pathlib import Path
from typing import Any

from sweep.export.adapter_files import adapter_config
from trials.models import vllm
from trials.models.checkpoint import config_of
from trials.trial_folder import TEMPLATE

MERGED = "merged"
"""The folder of the whole model, in the commands."""


def serving_adapter(
    adapter: Path, place: str, base: str, *, name: str, revision: str | None, code: bool
) -> str:
    """Return Markdown that follows lines of Python which have made `model` and `tokenizer`.

    Args:
        adapter: Its folder, to be looked at.
        place: The same, as commands name it.
        base: A hub id, or a folder.
        name: Under which vLLM serves it.
        code: Whether the model's own code must run.
    """
    about, of_base = adapter_config(adapter), config_of(base, revision, fetches=False) or {}
    lines = [
        *("**Merged**, base and adapter as one model in 16 bits, which needs no peft:", ""),
        *("```python", f'model.merge_and_unload().save_pretrained("{MERGED}")'),
        *(f'tokenizer.save_pretrained("{MERGED}")', "```", ""),
    ]
    options = ["--trust-remote-code"] if code else []
    if problems := _not_in_vllm(about, of_base):
        serve = _shell(["vllm", "serve", MERGED, *options])
        lines += ["**vLLM**", "", *problems, "So serve the merged model:", "", *serve]
    else:
        lora = ["--enable-lora", "--max-lora-rank", str(vllm.max_rank(about["r"]))]
        lora += ["--lora-modules", _module(name, place)]
        if (adapter / TEMPLATE).exists():
            lora += ["--chat-template", f"{place}/{TEMPLATE}"]
        at = ["--revision", revision] if revision else []
        serve = _shell(["vllm", "serve", base, *at, *options, *lora])
        lines += [f"**vLLM**; requests name the model `{name}`:", "", *serve]
    return "\n".join([*lines, "", *_in_llama_cpp(about, of_base, place, base, revision)])


def _module(name: str, place: str) -> str:
    short = f"{name}={place}"  # with a comma vLLM takes it for JSON
    return json.dumps({"name": name, "path": place}) if "," in short else short


def serving_model(place: str, *, code: bool) -> str:
    """Return Markdown for a merged model."""
    serve = _shell(["vllm", "serve", place, *(["--trust-remote-code"] if code else [])])
    return "\n".join(["**vLLM**:", "", *serve, "", *_gguf_of_model(place)])


def _shell(*commands: list[str]) -> list[str]:
    return ["```sh", *(shlex.join(command) for command in commands), "```"]


def _not_in_vllm(about: dict[str, Any], of_base: dict[str, Any]) -> list[str]:
    names = about.get("target_modules") or []
    return vllm.notes(
        str(of_base.get("model_type", "")),
        [names] if isinstance(names, str) else names,
        about.get("target_parameters") or [],
        rank=int(about["r"]),
        use_dora=bool(about.get("use_dora")),
    )


def _in_llama_cpp(
    about: dict[str, Any], of_base: dict[str, Any], place: str, base: str, revision: str | None
) -> list[str]:
    # convert_lora_to_gguf.py notes alpha alone, and llama.cpp scales by alpha / rank.
    kinds = {
        "of rsLoRA (llama.cpp would scale it by alpha / rank)": about.get("use_rslora"),
        "with DoRA's magnitudes": about.get("use_dora"),
        "of experts": about.get("target_parameters"),
        "on a base that is quantised already": of_base.get("quantization_config"),
    }
    if unfit := [kind for kind, has_it in kinds.items() if has_it]:
        why = f"Its converter takes no adapter {', '.join(unfit)}, so convert the merged model."
        return [*_gguf_of_model(MERGED, why)]
    folder, fetched = base, []
    if not Path(base).is_dir():
        folder, at = "base", ["--revision", revision] if revision else []
        fetched = [["hf", "download", base, *at, "--local-dir", folder]]
    to_gguf = ["python", "llama.cpp/convert_hf_to_gguf.py", folder, "--outfile", "base.gguf"]
    lora = ["python", "llama.cpp/convert_lora_to_gguf.py", place, "--base", folder]
    serve = ["llama-server", "-m", "base.gguf", "--lora", "adapter.gguf"]
    commands = [*fetched, to_gguf, [*lora, "--outfile", "adapter.gguf"], serve]
    return ["**llama.cpp** (GGUF):", "", *_shell(*_CONVERTERS, *commands)]


_CONVERTERS = [
    ["git", "clone", "https://github.com/ggml-org/llama.cpp"],
    ["pip", "install", "-r", "llama.cpp/requirements.txt"],
]


def _gguf_of_model(place: str, why: str = "") -> list[str]:
    to_gguf = ["python", "llama.cpp/convert_hf_to_gguf.py", place, "--outfile", "model.gguf"]
    serve = ["llama-server", "-m", "model.gguf"]
    reason = [why, ""] if why else []
    return ["**llama.cpp** (GGUF):", "", *reason, *_shell(*_CONVERTERS, to_gguf, serve)]
