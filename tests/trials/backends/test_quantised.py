"""A base model is quantised once; what is read again is what was quantised, bit for bit."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch

from tests.tiny import transformers_base
from trials.backends import quantised, transformers_qlora
from trials.backends.proof import content_hash
from trials.backends.transformers_qlora import TransformersBase
from trials.config import ModelConfig, Quantization, TrialConfig
from trials.data.batches import collate
from trials.data.tokens import TokenRows

MakeConfig = Callable[..., TrialConfig]


@pytest.fixture(autouse=True)
def entries_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, in which small models have a place too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(quantised, "SMALLEST_BYTES", 0)
    return tmp_path / "cache" / "sweep" / "quantised"


@pytest.fixture
def model(config: MakeConfig, tiny_base: Path, tmp_path: Path) -> ModelConfig:
    """The tiny model in a folder of the test's own."""
    shutil.copytree(tiny_base, tmp_path / "model")
    return replace(config().model, name=str(tmp_path / "model"))


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that models are loaded from."""
    seen: list[str] = []
    from_pretrained = transformers_qlora._from_pretrained

    def spy(name: str, *args: Any, **settings: Any) -> Any:
        seen.append(name)
        return from_pretrained(name, *args, **settings)

    monkeypatch.setattr(transformers_qlora, "_from_pretrained", spy)
    return seen


def entries(entries_dir: Path) -> list[Path]:
    return [path for path in entries_dir.iterdir() if path.is_dir()]


def test_an_adapter_names_the_model_and_not_its_copy(
    model: ModelConfig, config: MakeConfig
) -> None:
    for _ in range(2):
        adapted = transformers_base(model).add_adapter(config())
        assert adapted.peft_config["default"].base_model_name_or_path == model.name


def losses(base: TransformersBase, config: TrialConfig, rows: TokenRows) -> list[float]:
    """Train an adapter for a few steps."""
    batch = collate([rows[i] for i in range(8)])
    torch.manual_seed(0)
    adapted = base.add_adapter(config)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    found = []
    for _ in range(4):
        nll = base.nll_sum(adapted, batch)
        torch.autograd.backward(nll)
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(nll.detach()))
    base.remove_adapter()
    return found


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_second_load_reads_what_the_first_has_quantised(
    config: MakeConfig,
    model: ModelConfig,
    tiny_data: Path,
    entries_dir: Path,
    sources: list[str],
    quantization: Quantization,
) -> None:
    model = replace(model, quantization=quantization)
    first, second = transformers_base(model), transformers_base(model)
    assert sources == [model.name, str(entries(entries_dir)[0])]
    assert content_hash(first.model) == content_hash(second.model)
    rows = TokenRows(tiny_data / "sample", 64)
    assert losses(first, config(), rows) == losses(second, config(), rows)


def test_what_is_read_trains_after_an_evaluation_too(model: ModelConfig) -> None:
    transformers_base(model)
    layers = [
        m for m in transformers_base(model).model.modules() if isinstance(m, bnb.nn.Linear4bit)
    ]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)


def truncate(entry: Path) -> None:
    weights = entry / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)


def flip_a_bit(entry: Path) -> None:
    with (entry / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        last = weights.read(1)[0]
        weights.seek(-1, os.SEEK_END)
        weights.write(bytes([last ^ 1]))


def lose_the_weights(entry: Path) -> None:
    (entry / "model.safetensors").unlink()


def spoil_the_hash(entry: Path) -> None:
    (entry / "content.json").write_text("{")


@pytest.mark.parametrize("spoil", [truncate, flip_a_bit, lose_the_weights, spoil_the_hash])
def test_a_spoilt_entry_is_noticed_and_made_anew(
    model: ModelConfig,
    entries_dir: Path,
    sources: list[str],
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
) -> None:
    whole = content_hash(transformers_base(model).model)
    [entry] = entries(entries_dir)
    spoil(entry)
    assert content_hash(transformers_base(model).model) == whole
    assert sources[-1] == model.name
    assert capsys.readouterr().out.count("is unusable and is rebuilt") == 1
    transformers_base(model)
    assert sources[-1] == str(entry)


def test_what_a_dead_process_left_is_removed(model: ModelConfig, entries_dir: Path) -> None:
    transformers_base(model)
    [entry] = entries(entries_dir)
    shutil.rmtree(entry)
    left_over = entry.with_name(f"{entry.name}.12345.tmp")
    left_over.mkdir()
    (left_over / "model.safetensors").write_bytes(b"half")
    transformers_base(model)
    assert entries(entries_dir) == [entry]


def test_a_changed_checkpoint_is_quantised_for_itself(
    model: ModelConfig, entries_dir: Path, sources: list[str]
) -> None:
    transformers_base(model)
    os.utime(Path(model.name) / "model.safetensors", ns=(0, 0))
    transformers_base(model)
    assert sources == [model.name, model.name]
    assert len(entries(entries_dir)) == 2


@pytest.mark.parametrize(
    "change", [{"quantization": "int8"}, {"compute_dtype": "float32"}], ids=str
)
def test_another_kind_of_the_same_model_has_an_entry_of_its_own(
    model: ModelConfig, entries_dir: Path, change: dict[str, Any]
) -> None:
    transformers_base(model)
    transformers_base(replace(model, **change))
    assert len(entries(entries_dir)) == 2


def test_without_room_there_is_no_entry_and_a_line_that_says_so(
    model: ModelConfig,
    entries_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 2**30, 1000))
    transformers_base(model)
    assert entries(entries_dir) == []
    assert "the quantised base model is not kept" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_is_done_without(
    model: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    transformers_base(model)
    assert "the quantised base model is not kept" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"quantization": "none"}, {"trust_remote_code": True}], ids=str)
def test_what_is_not_kept_leaves_nothing_on_the_disk(
    model: ModelConfig, entries_dir: Path, change: dict[str, Any]
) -> None:
    transformers_base(replace(model, **change))
    assert not entries_dir.exists()


def test_a_small_model_is_not_kept(
    model: ModelConfig, entries_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(entries_dir.parent.parent))
    transformers_base(model)
    assert not entries_dir.exists()


def test_of_two_workers_that_start_at_once_one_quantises(
    model: ModelConfig, entries_dir: Path
) -> None:
    code = (
        "import json, sys\n"
        "from trials.backends import quantised\n"
        "from trials.backends import transformers_qlora as backend\n"
        "from trials.config import ModelConfig\n"
        "quantised.SMALLEST_BYTES = 0\n"
        "backend.load(ModelConfig(**json.loads(sys.argv[1])))\n"
    )
    settings = json.dumps({name: getattr(model, name) for name in ModelConfig.__slots__})
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    # Only who quantises writes.
    assert sum("Writing model shards" in words for words in said) == 1
    assert not any("made anew" in words for words in said)
    assert len(entries(entries_dir)) == 1


class Small(torch.nn.Linear):
    """What a backend would have loaded."""

    def get_memory_footprint(self) -> int:
        return 16


def test_those_who_waited_read_at_once(model: ModelConfig) -> None:
    together, n_quantised = threading.Barrier(2, timeout=20), []

    def quantise() -> Small:
        n_quantised.append(1)
        time.sleep(0.5)  # until the others wait
        torch.manual_seed(0)
        return Small(2, 2)

    def read(folder: Path) -> Small:
        together.wait()  # breaks where one reads after the other
        torch.manual_seed(0)
        return Small(2, 2)

    def load() -> None:
        quantised.load_quantised(
            model,
            torch.device("cpu"),
            torch.float32,
            quantise=quantise,
            read=read,
            write=lambda model, folder: None,
        )

    workers = [threading.Thread(target=load) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not together.broken
    assert len(n_quantised) == 1


@pytest.mark.parametrize("is_read", [False, True])
def test_what_other_versions_made_is_removed_unless_it_is_read(
    model: ModelConfig, entries_dir: Path, monkeypatch: pytest.MonkeyPatch, is_read: bool
) -> None:
    transformers_base(model)
    [old] = entries(entries_dir)
    unfinished = old.with_name(f"{old.name}.1.tmp")  # another environment's worker fills it
    unfinished.mkdir()
    monkeypatch.setattr(quantised, "version", lambda package: f"another {package}")
    with old.with_suffix(".lock").open("a") as lock:
        if is_read:
            fcntl.flock(lock, fcntl.LOCK_SH)
        transformers_base(model)
    assert old.exists() == unfinished.exists() == is_read
    assert len(entries(entries_dir)) == (3 if is_read else 1)
