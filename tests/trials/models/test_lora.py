"""The adapter that plain peft reads back is the one that was trained."""

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from trials.models.lora import as_saved, misread_names, put_on, shortest, take_off_adapter
from trials.models.quantisation import keep_cpu_kernels_differentiable
from trials.models.target_modules import find

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 64,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "qwen3_moe": {"head_dim": 8},
    "deepseek_v3": {
        "kv_lora_rank": 8,
        "q_lora_rank": 12,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
}


def model_of(model_type: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SMALL | MODELS[model_type])
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def settings_of(model: Any, *, experts: bool = False, **other: Any) -> dict[str, Any]:
    found = find(model, "all-linear", experts=experts)
    targets = {
        "target_modules": list(found.modules),
        "target_parameters": list(found.parameters) or None,
    }
    return {"r": 4, "lora_alpha": 8, **targets, **other}


def trained(model: Any, settings: dict[str, Any]) -> Any:
    adapted = put_on(model, settings).eval()
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=torch.arange(3, 40)[None], use_cache=False).logits
    return found


def saved(adapted: Any, folder: Path) -> None:
    weights = get_peft_model_state_dict(adapted)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "adapter_model.safetensors")
    as_saved(adapted).save_pretrained(folder)


@pytest.mark.parametrize(
    ("model_type", "experts"),
    [
        ("llama", False),
        ("gpt2", False),
        ("qwen3_moe", False),
        ("qwen3_moe", True),
        ("deepseek_v3", False),
        ("deepseek_v3", True),
    ],
)
def test_plain_peft_reads_what_was_trained(model_type: str, experts: bool, tmp_path: Path) -> None:
    model = model_of(model_type)
    before = logits(model)
    adapted = trained(model, settings_of(model, experts=experts))
    wanted = logits(adapted)
    saved(adapted, tmp_path)

    if model_type == "gpt2":
        warnings.filterwarnings("ignore", "fan_in_fan_out")
    found = logits(PeftModel.from_pretrained(model_of(model_type), str(tmp_path)).eval())
    assert (wanted - before).abs().max() > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_dropout_of_training_is_left_out_where_peft_reads_weights(tmp_path: Path) -> None:
    model = model_of("deepseek_v3")
    saved(trained(model, settings_of(model, lora_dropout=0.1)), tmp_path)
    again = PeftModel.from_pretrained(model_of("deepseek_v3"), str(tmp_path))
    assert again.peft_config["default"].lora_dropout == 0


def test_peft_takes_dense_layers_for_experts_and_a_trial_does_not() -> None:
    """Once this fails on a new peft, the mend around its conversion can go (issue 3711)."""
    model = model_of("deepseek_v3")
    settings = settings_of(model)
    names = settings["target_modules"]
    assert {name.rpartition(".")[2] for name in misread_names(model, names)} == {
        "gate_proj",
        "up_proj",
        "down_proj",
    }
    own = peft.utils.transformers_weight_conversion.convert_peft_config_for_transformers
    adapted = put_on(model, settings)
    assert len(adapted.peft_config["default"].target_modules) > 0
    layers = [m for m in adapted.modules() if isinstance(m, peft.tuners.lora.LoraLayer)]
    assert len(layers) == len(names)
    assert peft.utils.transformers_weight_conversion.convert_peft_config_for_transformers is own


def test_names_that_peft_refuses_a_part_of_are_misread_too() -> None:
    model = model_of("deepseek_v3")
    names = [name for name in settings_of(model)["target_modules"] if not name.endswith("up_proj")]
    found = misread_names(model, names)
    assert {name.rpartition(".")[2] for name in found} == {"gate_proj", "down_proj"}


def test_plain_peft_reads_an_adapter_on_shared_experts_in_4_bits(tmp_path: Path) -> None:
    model_of("deepseek_v3").bfloat16().save_pretrained(tmp_path / "base")

    def in_4_bits() -> Any:
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path / "base",
            dtype=torch.bfloat16,
            device_map={"": "cpu"},
            quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        )
        keep_cpu_kernels_differentiable(model)
        return model.eval()

    model = in_4_bits()
    adapted = trained(model, settings_of(model))
    wanted = logits(adapted)
    (tmp_path / "adapter").mkdir()
    saved(adapted, tmp_path / "adapter")
    found = logits(PeftModel.from_pretrained(in_4_bits(), str(tmp_path / "adapter")).eval())
    torch.testing.assert_close(found, wanted)


def test_nothing_is_left_on_the_base() -> None:
    model = model_of("qwen3_moe")
    before, names = logits(model), [name for name, _ in model.named_modules()]
    for _ in range(2):
        trained(model, settings_of(model, experts=True))
        take_off_adapter(model)
        assert [name for name, _ in model.named_modules()] == names
        assert torch.equal(logits(model), before)


def test_names_are_short_where_they_say_the_same() -> None:
    modules = ["a.0.x", "a.0.y", "a.1.x", "b.x"]
    assert shortest(["a.0.x", "a.1.x", "b.x"], modules) == ["x"]
    assert shortest(["a.0.x", "a.1.x"], modules) == ["a.0.x", "a.1.x"]
