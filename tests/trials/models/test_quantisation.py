"""What bitsandbytes is told: weights that a model's own code takes are left as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import model_config, transformers_base
from trials import exported
from trials.config import Quantization, TrialConfig
from trials.data.batches import collate
from trials.models.quantisation import bitsandbytes_config, reads_weights

COMMON = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 320, "num_hidden_layers": 2}
GEMMA_3N = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size_per_layer_input": 320,
    "hidden_size_per_layer_input": 16,
    "num_kv_shared_layers": 0,
    "laurel_rank": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "activation_sparsity_pattern": [0.5, 0.0],
}
MODELS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "gemma3n_text": (GEMMA_3N, {"correction_coefs", "prediction_coefs"}),
    "mamba": ({"time_step_rank": 4}, {"dt_proj", "x_proj", "out_proj"}),
    "rwkv": ({"attention_hidden_size": 64, "context_length": 64}, {"output", "value"}),
    "bloom": ({"n_layer": 2, "n_head": 4}, set()),
    "llama": ({"num_attention_heads": 4, "num_key_value_heads": 2}, set()),
}


def shapes(kind: str) -> Any:
    settings = {**COMMON, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(kind, **settings, **MODELS[kind][0])
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def make(kind: str) -> Path:
        path = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(shapes(kind).config).bfloat16().save_pretrained(path)
        return path

    return make


@pytest.mark.parametrize("kind", MODELS)
def test_weights_that_a_models_code_takes_are_found(kind: str) -> None:
    assert {name.rsplit(".", 1)[-1] for name in reads_weights(shapes(kind))} == MODELS[kind][1]


def test_the_head_stays_as_it_is_beside_them() -> None:
    skipped = bitsandbytes_config("nf4", torch.bfloat16, shapes("mamba")).llm_int8_skip_modules
    assert skipped is not None and {"lm_head", "backbone.layers.0.mixer.dt_proj"} <= {*skipped}


def test_other_models_are_left_to_transformers() -> None:
    told = bitsandbytes_config("int8", torch.bfloat16, shapes("llama"))
    assert told.llm_int8_skip_modules is None


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize(
    ("kind", "target"), [("gemma3n_text", "all-linear"), ("rwkv", "all-linear")]
)
def test_a_trial_leaves_them_as_they_were(
    folder: Callable[[str], Path],
    config: Callable[..., TrialConfig],
    kind: str,
    target: str,
    quantization: Quantization,
) -> None:
    base = transformers_base(replace(model_config(folder(kind)), quantization=quantization))
    kinds = [type(layer) for layer in base.model.modules()]
    assert Linear4bit in kinds or Linear8bitLt in kinds
    ids = torch.arange(5, 25)
    for _ in range(2):
        model = base.add_adapter(config(target_modules=target))
        model.train()
        torch.autograd.backward(base.nll_sum(model, collate([{"input_ids": ids, "labels": ids}])))
        model.eval()
        base.nll_sum(model, collate([{"input_ids": ids, "labels": ids}]))
        base.remove_adapter()  # raises BaseNotClean


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_model_that_multiplies_by_its_weights_loads(
    folder: Callable[[str], Path], quantization: Quantization
) -> None:
    path = folder("mamba")
    ids = torch.arange(5, 25)
    batch = collate([{"input_ids": ids, "labels": ids}])
    plain, quantised = (
        transformers_base(replace(model_config(path), quantization=kind))
        for kind in ("none", quantization)
    )
    expected = float(plain.nll_sum(plain.model, batch))
    assert float(quantised.nll_sum(quantised.model, batch)) == pytest.approx(expected, rel=0.05)


def test_the_check_of_an_export_loads_a_base_as_a_trial_does(
    folder: Callable[[str], Path],
    config: Callable[..., TrialConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    base = transformers_base(model_config(folder("gemma3n_text")))
    base.add_adapter(config()).save_pretrained(tmp_path)
    request = {"base": base.model.name_or_path, "revision": None, "trust_remote_code": False}
    request |= {"compute_dtype": "auto", "exported": str(tmp_path), "is_merged": False}
    request["adapter"] = str(tmp_path)
    checked = exported.load(request, "nf4")
    base.remove_adapter()

    def quantised(model: Any) -> int:
        layers = [layer for layer in model.modules() if isinstance(layer, Linear4bit)]
        assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
        return len(layers)

    assert quantised(checked) == quantised(base.model)


def test_a_quantised_gpt2_is_merged_from_layers_that_lie_as_its_own(tmp_path: Path) -> None:
    """bitsandbytes has turned its Conv1D, (in, out), into linear layers, (out, in)."""
    settings = {"n_embd": 64, "n_layer": 1, "n_head": 2, "vocab_size": 64, "n_positions": 32}
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **settings))
    plain.bfloat16().save_pretrained(tmp_path / "plain")
    nf4 = bitsandbytes_config("nf4", torch.bfloat16, plain)
    quantised = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", dtype=torch.bfloat16, device_map={"": "cpu"}, quantization_config=nf4
    )
    quantised.save_pretrained(tmp_path / "nf4")
    where = {"base": str(tmp_path / "nf4"), "revision": None, "trust_remote_code": False}
    request = {**where, "adapter": str(tmp_path)}
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    found = exported._in_16_bits(request, {"dtype": torch.bfloat16})
    found.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        wanted, got = quantised(ids).logits.float(), again(ids).logits
    assert (got - wanted).norm() < 0.02 * wanted.norm()
