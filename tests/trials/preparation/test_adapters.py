"""What a study's adapters will be is told by peft itself, without weights."""

from typing import Any

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trials.config import AdapterChoices, ConfigError
from trials.models.lora import put_on, trained_parameters
from trials.models.target_modules import find
from trials.preparation.adapters import adapters, notes


def shapes(model_type: str, **about: Any) -> Any:
    config = AutoConfig.for_model(model_type, **about)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def asked(*target_modules: str, **other: Any) -> AdapterChoices:
    usual: dict[str, Any] = {"experts": [False], "use_dora": False, "largest_rank": 16}
    return AdapterChoices(target_modules=list(target_modules), **usual | other)


def test_the_largest_rank_is_counted_as_peft_makes_it() -> None:
    model = shapes("llama", num_hidden_layers=2)
    for use_dora in (False, True):
        (found,) = adapters(model, asked("attention", largest_rank=24, use_dora=use_dora))
        names = list(find(model, "attention").modules)
        made = put_on(
            shapes("llama", num_hidden_layers=2),
            {"r": 24, "target_modules": names, "use_dora": use_dora},
            is_empty=True,
        )
        assert found["trained"] == trained_parameters(made)
    assert not hasattr(model, "peft_config")


def test_experts_are_counted_only_when_they_are_adapted() -> None:
    """Qwen3-30B-A3B: peft itself made 996.5 M parameters, since it took names for experts'."""
    about = {"num_hidden_layers": 48, "head_dim": 128, "norm_topk_prob": True}
    model = shapes("qwen3_moe", **about)
    without, with_experts = adapters(model, asked("all-linear", experts=[False, True]))
    attention = 48 * 16 * (2 * (2048 + 4096) + 2 * (2048 + 512))
    assert without["trained"] == attention
    assert with_experts["trained"] > 40 * attention
    assert "routed experts (48 each of gate_up_proj, down_proj)" in with_experts["modules"]


@pytest.mark.parametrize("preset", ["all-linear", "attention", "mlp", "qv"])
def test_llama_is_adapted_as_earlier_versions_did(preset: str) -> None:
    (found,) = adapters(shapes("llama", num_hidden_layers=2), asked(preset))
    assert found["earlier"] == found["digest"]


@pytest.mark.parametrize(
    ("model_type", "about", "preset"),
    [
        ("gemma3", {"text_config": {"num_hidden_layers": 2}}, "all-linear"),  # its vision tower
        ("phi", {"num_hidden_layers": 2}, "attention"),  # `dense` was left out
        ("deepseek_v3", {"num_hidden_layers": 5}, "all-linear"),  # routed experts were in
    ],
)
def test_others_differ_from_what_earlier_versions_adapted(
    model_type: str, about: dict[str, Any], preset: str
) -> None:
    (found,) = adapters(shapes(model_type, **about), asked(preset))
    assert found["earlier"] not in (None, found["digest"])


def test_every_choice_that_matches_nothing_is_told() -> None:
    with pytest.raises(ConfigError) as error:
        adapters(shapes("gpt_oss", num_hidden_layers=2), asked("mlp", "attention", "fc1"))
    assert len(str(error.value).splitlines()) == 2
    assert "search.target_modules: mlp must match modules" in str(error.value)
    assert "fc1 is not there" in str(error.value)


def test_dora_that_peft_could_not_read_again_is_refused() -> None:
    model = shapes("deepseek_v3", num_hidden_layers=5)
    with pytest.raises(ConfigError, match="use_dora: must be false where"):
        adapters(model, asked("all-linear", use_dora=True))
    adapters(model, asked("attention", use_dora=True))


def test_layers_without_an_adapter_and_what_others_cannot_read_are_noted() -> None:
    about = {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]}
    for model_type, values, words in (
        ("lfm2", about, "attention adapts 1 of the 4 layers"),
        ("deepseek_v3", {"num_hidden_layers": 5}, "kv_b_proj"),
    ):
        model = shapes(model_type, **values)
        choices = asked("attention")
        told = notes(model, adapters(model, choices), choices)
        assert any(words in note for note in told), told


def test_peft_refuses_none_of_the_modules_that_are_chosen() -> None:
    for model_type in ("mamba", "falcon_h1", "nemotron_h", "llama4_text", "phimoe"):
        (found,) = adapters(shapes(model_type, num_hidden_layers=2), asked("all-linear"))
        assert found["trained"] > 0
    assert peft.__version__
