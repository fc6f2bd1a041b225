"""`sweep best`: the winner, in words, as JSON, and as other trainers' configurations."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console
from ruamel.yaml import YAML
from typer.testing import CliRunner

from sweep.cli.commands import app
from sweep.errors import StudyError
from sweep.export.trainer_yaml import Trainer, training_yaml
from sweep.folder import layout
from sweep.results import best
from sweep.results.reading import read_sweep
from sweep.results.trial_record import Record, record_of
from tests.sweep.reviewed import make_config, point, result, write_sweep

TRAINERS = get_args(Trainer)


def record(folder: Path, number: int | None = None) -> Record:
    return record_of(read_sweep(folder), number)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three trials: one that completed, the winner, which overfitted, and one outclassed."""
    completed = [point(1, 2.0), point(2, 1.9), point(3, 1.8), point(4, 1.7)]
    overfit = [point(1, 1.8), point(2, 1.5), point(3, 1.6)]
    outclassed = [point(1, 1.2)]
    return write_sweep(
        tmp_path / "mine",
        [
            (make_config(0), result("completed", completed), completed),
            (make_config(1), result("overfit", overfit), overfit),
            (make_config(2), result("outclassed", outclassed), outclassed),
        ],
    )


def test_the_winner_is_the_lowest_eval_loss_that_counts(folder: Path) -> None:
    found = best.as_json(record(folder))
    assert (found["trial"], found["outcome"], found["eval_loss"]) == (1, "overfit", 1.5)
    assert (found["base_eval_loss"], found["step"], found["adapter"]) == (3.0, 20, None)
    json.dumps(found, allow_nan=False)


def test_the_winner_in_words(folder: Path) -> None:
    console = Console(width=120, record=True)
    console.print(best.winner_text(record(folder)))
    words = console.export_text()
    assert "mine: trial 1 is the best of 3 (overfit)" in words
    assert "Eval loss 1.5000 vs 3.0000 for the base model" in words
    assert "Reached at 50% of its run: step 20, epoch 1.00." in words
    assert re.search(r"learning_rate +5e-05", words)


def test_another_trial_is_not_called_the_best_also_where_none_counts(tmp_path: Path) -> None:
    curve = [point(1, 1.2)]
    write_sweep(tmp_path / "mine", [(make_config(0), result("outclassed", curve), curve)])
    console = Console(width=120, record=True)
    console.print(best.winner_text(record(tmp_path / "mine", 0)))
    words = console.export_text()
    assert words.startswith("mine: trial 0 (outclassed)")
    assert "Eval loss 1.2000 vs 3.0000 for the base model" in words


def test_another_trial_is_exported_by_its_own_number(tmp_path: Path) -> None:
    curve = [point(1, 1.2)]
    ended = [(make_config(n), result("completed", curve), curve) for n in range(2)]
    folder = write_sweep(tmp_path / "mine", ended)
    console = Console(width=400, record=True)
    for number in range(2):
        adapter = folder / "trials" / f"{number:03d}" / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")
        console.print(best.winner_text(record(folder, number)))
    words = console.export_text()
    own, other = re.findall(r"Export it: +sweep export mine .*?( --trial 1)? --to mine-ad", words)
    assert (own, other) == ("", " --trial 1")


def test_a_trial_that_is_not_there_is_said(folder: Path) -> None:
    with pytest.raises(StudyError, match=r"no trial 9\. The last is 2\."):
        record(folder, 9)


def test_without_a_winner_the_exit_code_is_1(tmp_path: Path) -> None:
    curve = [point(1, 1.2)]
    write_sweep(tmp_path / "mine", [(make_config(0), result("outclassed", curve), curve)])
    done = CliRunner().invoke(app, ["best", "mine", "--output", str(tmp_path)])
    assert done.exit_code == 1
    assert "no trial has an eval loss that counts yet (1 trials so far)" in done.output


def parsed(folder: Path, trainer: Trainer) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(
        training_yaml(record(folder), trainer)
    )
    return loaded


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_effective_batch_multiplies_up(folder: Path, trainer: Trainer) -> None:
    keys = parsed(folder, trainer)
    micro = keys.get("per_device_train_batch_size", keys.get("micro_batch_size"))
    assert micro == 4  # the one that fitted, not the one tried first
    assert micro * keys["gradient_accumulation_steps"] * 2 == 24


def test_other_trainers_take_no_more_rows_at_once_than_the_longest_were_given(
    tmp_path: Path,
) -> None:
    curve = [point(1, 1.2)]
    config = replace(make_config(0), micro_batch_size=4)
    ended = replace(result("completed", curve), micro_batch_size=12)  # short ones
    write_sweep(tmp_path / "mine", [(config, ended, curve)])
    assert parsed(tmp_path / "mine", "axolotl")["micro_batch_size"] == 4


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_hyperparameter_is_there(folder: Path, trainer: Trainer) -> None:
    keys = parsed(folder, trainer)
    names = {
        "trl": ("lora_r", "max_length", "num_train_epochs", "optim", "lr_scheduler_type"),
        "axolotl": ("lora_r", "sequence_len", "num_epochs", "optimizer", "lr_scheduler"),
        "llama-factory": (
            "lora_rank",
            "cutoff_len",
            "num_train_epochs",
            "optim",
            "lr_scheduler_type",
        ),
    }[trainer]
    expected = [8, 512, 1.5, "adamw_bnb_8bit", "warmup_stable_decay"]
    assert [keys[name] for name in names] == expected
    assert keys["learning_rate"] == 5e-5
    assert keys["lr_scheduler_kwargs"] == {"num_decay_steps": 8}
    assert (keys["warmup_steps"], keys["weight_decay"], keys["max_grad_norm"]) == (4, 0.01, 0.5)
    assert (keys["neftune_noise_alpha"], keys["lora_dropout"], keys["seed"]) == (5.0, 0.05, 7)
    assert (keys["bf16"], keys["fp16"]) == (True, False)
    assert keys.get("packing", keys.get("sample_packing")) is False


def test_what_axolotl_cannot_have_is_said(folder: Path) -> None:
    text = training_yaml(record(folder), "axolotl")
    assert parsed(folder, "axolotl")["lora_alpha"] == 23
    assert "alpha: the trial had 22.6; Axolotl takes whole numbers" in text


def test_a_chat_template_goes_into_each_trainers_file_or_is_said(folder: Path) -> None:
    template = folder / "data" / "tokenizer" / "chat_template.jinja"
    template.parent.mkdir(parents=True)
    template.write_text("{{ messages }}")
    given = "chat_template: mine.jinja, template_arguments: {enable_thinking: false, day: x}"
    space = folder / "space.yaml"
    space.write_text(space.read_text().replace("data: {", f"data: {{{given}, "))
    texts = {trainer: training_yaml(record(folder), trainer) for trainer in TRAINERS}
    keys = {name: YAML(typ="safe", pure=True).load(text) for name, text in texts.items()}
    assert keys["trl"]["chat_template_path"] == str(template)
    assert 'chat_template_kwargs with {"enable_thinking": false, "day": "x"}' in texts["trl"]
    assert keys["axolotl"]["chat_template"] == "jinja"
    assert keys["axolotl"]["chat_template_jinja"] == str(template)
    assert keys["axolotl"]["chat_template_kwargs"] == {"enable_thinking": False, "day": "x"}
    assert keys["llama-factory"]["enable_thinking"] is False
    assert f"copy {template} into the base model's folder" in texts["llama-factory"]
    assert "data.template_arguments: no keys for day" in texts["llama-factory"]


def test_a_number_that_pyyaml_would_take_for_a_text_is_written_for_it(folder: Path) -> None:
    yaml = pytest.importorskip("yaml")  # the reader of all three trainers
    for trainer in TRAINERS:
        keys = yaml.safe_load(training_yaml(record(folder), trainer))
        assert keys["learning_rate"] == 5e-5, trainer


def test_trl_itself_takes_its_configuration(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from trl import ModelConfig as TrlModelConfig
    from trl import ScriptArguments, SFTConfig, TrlParser, get_peft_config
    from trl.scripts.utils import DatasetMixtureConfig

    path = tmp_path / "sft.yaml"
    # No GPU here to compute in 16 bits on.
    path.write_text(training_yaml(record(folder), "trl").replace("bf16: true", "bf16: false"))
    parser = TrlParser((ScriptArguments, SFTConfig, TrlModelConfig, DatasetMixtureConfig))
    _, args, model, mixture = parser.parse_args_and_config(["--config", str(path)])
    assert (args.learning_rate, args.optim, args.max_length) == (5e-5, "adamw_bnb_8bit", 512)
    assert args.get_warmup_steps(40) == 4
    lora = get_peft_config(model)
    assert (lora.r, lora.lora_alpha, lora.use_rslora) == (8, 22.6, True)
    assert set(lora.target_modules) == {"q_proj", "v_proj", "qkv_proj"}
    assert mixture.datasets[0].data_files == "data/train.jsonl"


def test_several_files_are_several_data_sets(folder: Path) -> None:
    data = "data: {train: [a.jsonl, b.parquet], eval: [c.csv]}\n"
    (folder / layout.SPACE).write_text(f"base_model: x\n{data}")
    trl = [
        {"path": "json", "data_files": "a.jsonl"},
        {"path": "parquet", "data_files": "b.parquet"},
    ]
    assert parsed(folder, "trl")["datasets"] == trl
    axolotl = parsed(folder, "axolotl")
    assert [one["path"] for one in axolotl["datasets"]] == ["a.jsonl", "b.parquet"]
    assert [one["path"] for one in axolotl["test_datasets"]] == ["c.csv"]
    factory = parsed(folder, "llama-factory")
    assert (factory["dataset"], factory["eval_dataset"]) == ("train,train_2", "eval")
