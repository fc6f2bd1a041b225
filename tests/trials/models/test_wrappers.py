"""Text models within wrappers that also read images: their text part is trained on texts alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from tests import tiny, wrappers
from tests.tiny import model_config, transformers_base
from trials import exported
from trials.backends.transformers_qlora import TransformersBase
from trials.config import ConfigError, EvalPoint, ModelConfig, TrialConfig
from trials.data.batches import collate
from trials.data.tokens import TokenRows
from trials.memory.micro_batches import MicroBatchMemory
from trials.models.shapes import auto_class
from trials.preparation.prepare import prepare
from trials.training.train import run_trial

MakeConfig = Callable[..., TrialConfig]
TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
FLOAT32 = {"quantization": "none", "compute_dtype": "float32"}


@dataclass(frozen=True)
class Trained:
    base: Path
    adapter: Path
    eval_loss: float
    loss_before: float

    @property
    def named(self) -> Any:
        """The class that the checkpoint names."""
        [name] = json.loads((self.base / "config.json").read_text())["architectures"]
        return getattr(transformers, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = wrappers.make(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return make


def in_float32(folder: Path) -> ModelConfig:
    return replace(model_config(folder), **FLOAT32)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(folder: Callable[[str], Path]) -> Callable[[str, MakeConfig], Trained]:
    """Trains one short trial of each kind, once."""
    made: dict[str, Trained] = {}

    def train(kind: str, config: MakeConfig) -> Trained:
        if kind not in made:
            model = in_float32(folder(kind))
            trial = config(
                model=model, learning_rate=1e-2, epochs=2, n_evaluations=1, evaluate_base=True
            )
            Path(trial.output_dir).mkdir(parents=True)
            curve: list[EvalPoint] = []
            run_trial(trial, transformers_base(model), MicroBatchMemory(), curve.append)
            adapter = Path(trial.output_dir) / "adapter"
            made[kind] = Trained(folder(kind), adapter, curve[-1].eval_loss, curve[0].eval_loss)
        return made[kind]

    return train


def all_rows(data: Path) -> list[exported.Row]:
    lines = (data / "eval_sample.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def request(base: Path, adapter: Path, target: Path) -> dict[str, Any]:
    """What `trials.exported` is asked."""
    where = {"base": str(base), "adapter": str(adapter), "exported": str(target)}
    plain = {"revision": None, "trust_remote_code": False, "is_merged": False}
    return {**where, **plain, "compute_dtype": "float32"}


def pack_where_possible(base: TransformersBase) -> None:
    if base._cost is not None:
        base._cost = replace(base._cost, linear_weights=10**12)


@pytest.mark.parametrize("kind", wrappers.WRAPPERS)
@torch.no_grad()
def test_each_row_has_the_loss_of_a_plain_loop(
    folder: Callable[[str], Path], tiny_data: Path, kind: str
) -> None:
    base = transformers_base(in_float32(folder(kind)))
    pack_where_possible(base)
    rows = [TokenRows(tiny_data / "sample", 64)[i] for i in range(6)]
    rows = [{name: ids[: len(ids) - i] for name, ids in row.items()} for i, row in enumerate(rows)]
    alone = []
    for row in (collate([row]) for row in rows):
        logits = base.model(input_ids=row["input_ids"]).logits[0, :-1]
        labels = row["labels"][0, 1:]
        alone.append(float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum")))
    assert base.nll_rows(base.model, collate(rows))[0].tolist() == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("kind", wrappers.WRAPPERS)
def test_the_adapter_loads_in_plain_peft_on_the_class_that_the_checkpoint_names(
    trained: Callable[[str, MakeConfig], Trained], config: MakeConfig, tiny_data: Path, kind: str
) -> None:
    done = trained(kind, config)
    assert done.eval_loss < done.loss_before - 0.1  # it has learnt
    plain = done.named.from_pretrained(done.base, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, done.adapter).eval()
    loss = exported.eval_loss(model, all_rows(tiny_data), torch.float32)
    assert loss == pytest.approx(done.eval_loss, rel=1e-5)


@pytest.mark.parametrize("kind", wrappers.WRAPPERS)
def test_a_merged_model_keeps_its_towers_and_its_processor(
    trained: Callable[[str, MakeConfig], Trained],
    config: MakeConfig,
    tiny_data: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    done = trained(kind, config)
    (done.adapter / "chat_template.jinja").write_text(TEMPLATE)
    exported.merge(request(done.base, done.adapter, tmp_path), tmp_path)
    before, after = (load_file(path / "model.safetensors") for path in (done.base, tmp_path))
    assert before.keys() == after.keys()
    text = ("language_model", "model.layers", "model.embed", "model.norm", "lm_head")
    towers = [name for name in before if not any(part in name for part in text)]
    assert towers and all(torch.equal(before[name], after[name]) for name in towers)
    about = "preprocessor_config.json"
    assert json.loads((tmp_path / about).read_text()) == json.loads((done.base / about).read_text())
    # transformers would take a chat_template.json in place of the one trained with.
    assert (tmp_path / "chat_template.jinja").read_text() == TEMPLATE
    assert not (tmp_path / "chat_template.json").exists()
    merged = done.named.from_pretrained(tmp_path, dtype=torch.float32).eval()
    loss = exported.eval_loss(merged, all_rows(tiny_data), torch.float32)
    assert loss == pytest.approx(done.eval_loss, rel=5e-3)


def test_an_adapter_of_a_text_class_stays_on_that_class(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """As trials of Qwen3.5 left it when only `AutoModelForCausalLM` was known."""
    base = AutoModelForCausalLM.from_pretrained(folder("qwen3_5"))
    lora = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(base, lora).save_pretrained(tmp_path)
    found = exported.load(request(folder("qwen3_5"), tmp_path, tmp_path), "none")
    assert type(found.base_model.model) is type(base) is transformers.Qwen3_5ForCausalLM


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("t5", {}, "an encoder with a decoder"),
        ("whisper", {}, "an encoder with a decoder"),
        ("florence2", {}, "an encoder with a decoder"),
        ("bert", {}, "one whose tokens see those after them"),
        ("modernbert", {}, "one whose tokens see those after them"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "tokens see those after them"),
        ("paligemma", {}, "one whose tokens see those after them"),
        ("blip", {}, "one that needs more than a text: pixel_values"),
        ("qwen2_5_omni", {}, "one that needs more than a text"),
        ("clip", {"architectures": ["CLIPModel"]}, r"of no such kind \(CLIPModel\)"),
    ],
)
def test_a_model_that_continues_no_text_is_refused(
    kind: str, settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=f"must be a model that continues a text.*{why}"):
        auto_class(AutoConfig.for_model(kind, **settings))


@pytest.mark.parametrize("auto", ["AutoModelForCausalLM", "AutoModelForImageTextToText"])
def test_a_model_with_code_of_its_own_is_loaded_as_it_says(auto: str) -> None:
    config = PretrainedConfig(architectures=["Own"], auto_map={auto: "code.Own"})
    assert auto_class(config) is getattr(transformers, auto)


def test_the_preparation_refuses_it_before_it_asks_for_a_tokenizer(tmp_path: Path) -> None:
    train = str(tiny.write_rows(tmp_path / "train.jsonl", 8, seed=2))
    AutoConfig.for_model("bert").save_pretrained(tmp_path / "bert")
    with pytest.raises(ConfigError, match="must be a model that continues a text"):
        prepare(tiny.request(tmp_path / "bert", tmp_path / "prepared", train=train, eval=0.5))


def test_a_decoder_of_an_encoders_kind_is_taken() -> None:
    assert auto_class(AutoConfig.for_model("bert", is_decoder=True))


def test_a_model_whose_tokens_see_ahead_is_refused_when_it_is_loaded() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = AutoConfig.for_model("bert", num_hidden_layers=1, vocab_size=64, **sizes)
    model = transformers.BertLMHeadModel(config).eval()
    with pytest.raises(ConfigError, match="one whose tokens see those after them"):
        TransformersBase(model, torch.device("cpu"), torch.float32)
