from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sweep.errors import SpaceError
from sweep.space.domains import Choices, Range, TimesRank
from sweep.space.loading import load_space
from sweep.space.settings import BudgetSettings, Evaluate, OutclassedSettings, OverfitSettings
from sweep.space.space import Space

DESIGN = """\
# sweep run search_spaces/quickstart.yaml
name: quickstart                  # the study, the MLflow experiment, the folder under output
base_model: smollm2-135m
data:
  train: data/train.jsonl
  eval: data/eval.jsonl
  max_length: 512
search:
  rank: [8, 16, 32, 64]
  alpha: {times_rank: [1, 2]}     # alpha = rank or 2 x rank
  learning_rate: {min: 5e-5, max: 1e-3, log: true}
  epochs: [1, 2, 3]
  effective_batch_size: [8, 16, 32]
start_with:
  - {rank: 16, alpha: 16, learning_rate: 2e-4, epochs: 1, effective_batch_size: 16}
budget: {trials: 24, hours: 8}
"""
SMALL = """\
base_model: smollm2-135m
data: {train: data/train.jsonl, eval: 0.1}
search: {rank: [8, 16]}
"""

Load = Callable[..., Space]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a space from its text, beside good data; `sets` are the pairs of --set."""
    (tmp_path / "data").mkdir()
    for name in ("train", "eval"):
        (tmp_path / f"data/{name}.jsonl").write_text('{"text": "a"}\n')

    def load(text: str, sets: dict[str, str] | None = None, name: str = "mine.yaml") -> Space:
        (tmp_path / name).write_text(text)
        return load_space(tmp_path / name, sets)

    return load


def points(space: Space) -> list[object]:
    return [start.values for start in space.starts]


def test_the_example_of_the_design_says_what_it_says(load: Load, tmp_path: Path) -> None:
    space = load(DESIGN)
    assert space.name == "quickstart"
    assert space.settings.budget == BudgetSettings(trials=24, hours=8)
    assert space.source("train") == str(tmp_path / "data/train.jsonl")
    assert space.source("eval") == str(tmp_path / "data/eval.jsonl")
    start = {"rank": 16, "alpha": 16, "learning_rate": 2e-4, "epochs": 1}
    assert points(space) == [{**start, "effective_batch_size": 16}]
    searched = {name: space.domains[name] for name in ("rank", "alpha", "learning_rate")}
    assert searched == {
        "rank": Choices((8, 16, 32, 64)),
        "alpha": TimesRank(Choices((1, 2))),
        "learning_rate": Range(5e-5, 1e-3, log=True, step=None, is_integer=False),
    }
    assert space.domains["max_length"] == Choices((512,))


def test_what_is_not_written_has_the_usual_value(load: Load) -> None:
    space = load(SMALL)
    settings = space.settings
    assert settings.budget == BudgetSettings(trials=24)
    assert settings.evaluate == Evaluate(times=20, rows=256)
    assert (space.quantization, settings.sampler, settings.seed) == ("nf4", "tpe", 0)
    assert (settings.compute_dtype, settings.gpus_per_trial) == ("auto", 1)
    assert settings.checkpoint_minutes == 10
    assert space.domains["use_dora"] == Choices((False,))
    assert settings.pruning.overfit == OverfitSettings()
    assert settings.pruning.outclassed == OutclassedSettings()
    assert space.domains["alpha"] == TimesRank(Choices((1.0,)))
    assert space.domains["learning_rate"] == Choices((2e-4,))
    assert space.domains["lr_scheduler"] == Choices(("cosine",))


def test_a_budget_of_hours_alone_has_no_number_of_trials(load: Load) -> None:
    assert load(SMALL + "budget: {hours: 2}\n").settings.budget == BudgetSettings(
        trials=None, hours=2
    )


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ("[8, 9]", "line 3   search.effective_batch_size[1]: must be a multiple of gpus_per_trial"),
        (
            "6",
            "line 3   search.effective_batch_size: must be a multiple of gpus_per_trial (4), not",
        ),
        ("6", "not 6; write 4 or 8."),
        ("2", "not 2; write 4."),
        ("{min: 4, max: 32}", "not every 4 … 32; write {min: 4, max: 32, step: 4}, or a list."),
        ("{min: 5, max: 33, log: true}", "33, log; write {min: 8, max: 32, step: 4}, or a list."),
        (
            "{min: 6, max: 14, step: 4}",
            "not every 6 … 14, step 4; write {min: 8, max: 12, step: 4}",
        ),
        ("{min: 5, max: 7}", "not every 5 … 7; give a list."),
    ],
)
def test_the_gpus_of_a_trial_share_each_effective_batch(load: Load, batch: str, words: str) -> None:
    text = SMALL.replace("rank: [8, 16]", f"effective_batch_size: {batch}") + "gpus_per_trial: 4\n"
    with pytest.raises(SpaceError) as error:
        load(text)
    assert words in str(error.value)


@pytest.mark.parametrize("batch", ["[4, 8]", "12", "{min: 4, max: 16, step: 4}"])
def test_batches_that_can_be_shared_are_taken(load: Load, batch: str) -> None:
    text = SMALL.replace("rank: [8, 16]", f"effective_batch_size: {batch}") + "gpus_per_trial: 4\n"
    assert load(text).settings.gpus_per_trial == 4


def test_a_default_batch_that_cannot_be_shared_is_told(load: Load) -> None:
    words = (
        r"gpus_per_trial: search\.effective_batch_size is not given, and its default must be a m"
    )
    with pytest.raises(SpaceError, match=f"line 4   {words}"):
        load(SMALL + "gpus_per_trial: 3\n")


@pytest.mark.parametrize("written", ["5e-5", "5.0e-5", "0.00005", "5E-5", "+5e-5"])
def test_any_way_to_write_a_number_is_a_number(load: Load, written: str) -> None:
    space = load(SMALL.replace("rank: [8, 16]", f"learning_rate: {written}"))
    assert space.domains["learning_rate"] == Choices((5e-5,))


def test_a_quoted_word_is_that_word(load: Load) -> None:
    space = load(SMALL.replace("rank: [8, 16]", "lr_scheduler: [\"linear\", 'cosine']"))
    assert space.domains["lr_scheduler"] == Choices(("linear", "cosine"))


def test_a_list_of_numbers_is_sorted(load: Load) -> None:
    assert load(SMALL.replace("[8, 16]", "[32, 8, 16]")).domains["rank"] == Choices((8, 16, 32))


def test_pruning_can_be_switched_off(load: Load) -> None:
    pruning = load(SMALL + "pruning: {overfit: false, outclassed: false}\n").settings.pruning
    assert (pruning.overfit, pruning.outclassed) == (False, False)


@pytest.mark.parametrize(
    ("search", "n_points"),
    [
        ("{rank: [8, 16, 32], epochs: [1, 2]}", 6),
        ("{rank: [8, 16], alpha: {times_rank: [1, 2]}}", 4),
        ("{rank: {min: 8, max: 64, step: 8}}", 8),
        ("{dropout: {min: 0.1, max: 0.7, step: 0.1}}", 7),
        ("{rank: 8}", 1),
        ("{learning_rate: {min: 5e-5, max: 1e-3, log: true}, rank: [8, 16]}", math.inf),
    ],
)
def test_points_are_counted(load: Load, search: str, n_points: float) -> None:
    assert load(SMALL.replace("{rank: [8, 16]}", search)).n_points == n_points


def test_the_cheapest_and_the_largest_trial(load: Load) -> None:
    space = load(DESIGN)
    assert space.smallest == {"epochs": 1, "max_length": 512, "effective_batch_size": 8}
    largest = {"rank": 64, "max_length": 512, "effective_batch_size": 32, "dropout": 0}
    assert space.largest == largest


@pytest.mark.parametrize(
    ("search", "start"),
    [
        ("{rank: [8, 16, 32]}", {"rank": 16, "alpha": 16.0, "learning_rate": 2e-4, "epochs": 1}),
        ("{rank: [32, 64]}", {"rank": 32, "alpha": 32.0, "learning_rate": 2e-4, "epochs": 1}),
        (
            "{rank: 8, alpha: {times_rank: [2, 4]}}",
            {"rank": 8, "alpha": 16.0, "learning_rate": 2e-4, "epochs": 1},
        ),
        (
            "{rank: {min: 20, max: 40, step: 5}, learning_rate: {min: 1e-6, max: 1e-5}}",
            {"rank": 20, "alpha": 20.0, "learning_rate": 1e-5, "epochs": 1},
        ),
        (
            "{alpha: [32, 64], epochs: {min: 2, max: 3}}",
            {"rank": 16, "alpha": 32, "learning_rate": 2e-4, "epochs": 2},
        ),
    ],
)
def test_the_first_trial_is_the_known_good_one_moved_into_the_space(
    load: Load, search: str, start: dict[str, float]
) -> None:
    assert points(load(SMALL.replace("{rank: [8, 16]}", search))) == [start]


def test_starting_with_nothing_is_possible(load: Load) -> None:
    assert points(load(SMALL + "start_with: []\n")) == []


def test_a_start_may_leave_the_fixed_rank_out(load: Load) -> None:
    search = "{rank: 8, alpha: {times_rank: [1, 2]}}"
    space = load(SMALL.replace("{rank: [8, 16]}", search) + "start_with:\n- {alpha: 16}\n")
    assert points(space) == [{"rank": 8, "alpha": 16}]


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        ("{min: 1, max: 3, step: 0.5}", 1.5, 1.6),
        ("{min: 0.1, max: 0.7, step: 0.1}", 0.3, 0.35),
        ("[1, 2]", 2.0, 1.5),
        ("{min: 1, max: 2}", 1.5, 2.5),
    ],
)
def test_a_start_must_be_a_point_of_the_space(
    load: Load, domain: str, inside: float, outside: float
) -> None:
    text = SMALL.replace("rank: [8, 16]", f"epochs: {domain}")
    space = load(f"{text}start_with: [{{epochs: {inside}}}]")
    assert points(space) == [{"rank": 16, "epochs": inside}]
    with pytest.raises(SpaceError, match=f"epochs: {outside} is outside search.epochs"):
        load(f"{text}start_with: [{{epochs: {outside}}}]")


@pytest.mark.parametrize(
    ("file", "name"),
    [("mine.yaml", "mine"), ("my own (2).yaml", "my-own-2"), ("_x.yml", "x"), ("ä.yaml", "sweep")],
)
def test_without_a_name_the_file_gives_it(load: Load, file: str, name: str) -> None:
    assert load(SMALL, name=file).name == name


def test_paths_begin_at_the_folder_of_the_file(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(DESIGN)
    monkeypatch.chdir(tmp_path.parent)
    space = load_space(Path(tmp_path.name) / "mine.yaml")
    assert space.source("train") == str(tmp_path / "data/train.jsonl")


def test_an_absolute_path_stays(load: Load, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text("text\na\n")
    assert load(SMALL.replace("data/train.jsonl", str(elsewhere))).source("train") == str(elsewhere)


def test_the_rows_may_be_in_several_files(load: Load, tmp_path: Path) -> None:
    files = "[data/train.jsonl, org/name]"
    space = load(SMALL.replace("data/train.jsonl", files).replace("0.1", "[data/eval.jsonl]"))
    assert space.source("train") == [str(tmp_path / "data/train.jsonl"), "org/name"]
    assert space.sources("eval") == [str(tmp_path / "data/eval.jsonl")]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("train: []", "data.train: must be a file of rows, or a list of files, not an empty list."),
        ("train: [3]", "data.train[0]: must be text, not the number 3"),
        ("train: [data/trian.jsonl]", "data.train[0]: no such file: data/trian.jsonl; did you"),
        ("prompt: '{a}'", "data.prompt: needs data.completion, such as ` {answer}`."),
        ("completion: '{a}'", "data.completion: needs data.prompt, such as `Question: {question}`"),
        ("prompt: '{a}', completion: '{a}', columns: {prompt: a}", "prompt: names columns itself;"),
        ("prompt: '{a}', completion: '{a}', template: '{a}'", "template: builds the whole text;"),
        ("ignore: label", "data.ignore: must be a list, such as [label], not 'label'."),
        ("columns: {text: a}, ignore: [a]", "data.ignore[0]: 'a' is read as data.columns says;"),
    ],
)
def test_what_data_cannot_say_is_told(load: Load, keys: str, words: str) -> None:
    train = "" if keys.startswith("train") else "train: data/train.jsonl, "
    with pytest.raises(SpaceError) as raised:
        load(SMALL.replace("train: data/train.jsonl, ", f"{train}{keys}, "))
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "chats"),
    [("", None), ("prompt: '{a}', completion: '{a}', ", False),
     ("prompt: '{a}', completion: '{a}', chat: true, ", True)],
)  # fmt: skip
def test_with_a_prompt_template_there_is_no_chat_unless_it_is_set(
    load: Load, keys: str, chats: bool | None
) -> None:
    assert load(SMALL.replace("eval: 0.1", f"{keys}eval: 0.1")).settings.data.chats is chats


@pytest.mark.parametrize("source", ["org/name", "org/name:train[:10%]"])
def test_a_data_set_of_the_hub_needs_no_file(load: Load, source: str) -> None:
    assert load(SMALL.replace("data/train.jsonl", f"'{source}'")).source("train") == source


@pytest.mark.parametrize("base_model", ["gpt2", "meta-llama/Llama-3.2-1B", "smollm2-135m"])
def test_a_base_model_of_the_hub_needs_no_folder(load: Load, base_model: str) -> None:
    space = load(SMALL.replace("smollm2-135m", base_model))
    assert space.settings.base_model == base_model


def test_a_base_model_may_be_a_folder_beside_the_space(load: Load, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    text = SMALL.replace("smollm2-135m", "./model")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        with pytest.raises(SpaceError, match=r"base_model: a model's folder must hold"):
            load(text)
        (tmp_path / "model" / name).touch()
    assert load(text).settings.base_model == "./model"


def test_a_share_of_train_is_held_out(load: Load) -> None:
    assert load(SMALL).source("eval") == 0.1


def test_set_changes_what_the_file_says(load: Load) -> None:
    space = load(DESIGN, {"search.rank": "[4, 8]", "budget.trials": "3", "start_with": "[]"})
    assert space.domains["rank"] == Choices((4, 8))
    assert space.settings.budget == BudgetSettings(trials=3, hours=8)


def test_set_adds_what_the_file_does_not_say(load: Load) -> None:
    space = load(SMALL, {"evaluate.times": "5", "search.dropout": "{min: 0, max: 0.1}"})
    assert space.settings.evaluate.times == 5
    assert space.domains["dropout"] == Range(0, 0.1, log=False, step=None, is_integer=False)


def test_set_reaches_into_a_range(load: Load) -> None:
    space = load(DESIGN, {"search.learning_rate.max": "5e-4"})
    assert space.domains["learning_rate"] == Range(5e-5, 5e-4, True, None, False)


def test_the_text_as_run_gives_the_same_space(load: Load) -> None:
    space = load(DESIGN, {"search.rank": "[4, 16]", "seed": "3"})
    again = load(space.text)
    assert (again.settings, again.domains) == (space.settings, space.domains)
    assert "# alpha = rank or 2 x rank" in space.text


def test_the_text_as_run_is_yaml_with_numbers(load: Load) -> None:
    document = YAML(typ="safe").load(load(DESIGN).text)
    assert document["search"]["learning_rate"] == {"min": 5e-5, "max": 1e-3, "log": True}


def test_a_moved_file_misses_its_data(load: Load, tmp_path: Path) -> None:
    load(SMALL)
    (tmp_path / "moved").mkdir()
    moved = shutil.move(tmp_path / "mine.yaml", tmp_path / "moved/mine.yaml")
    with pytest.raises(SpaceError, match=r"line 2   data\.train: no such file: data/train\.jsonl"):
        load_space(Path(moved))


CONSTANT = "{rank: [8, 16], epochs: [1, 2, 4], lr_scheduler: constant}"


def test_at_a_constant_rate_one_run_to_the_most_epochs_covers_all(load: Load) -> None:
    space = load(SMALL.replace("{rank: [8, 16]}", CONSTANT))
    assert (space.domains["epochs"], space.n_points) == (Choices((4,)), 2)
    assert space.epochs_passed_through == Choices((1, 2, 4))
    assert space.starts[0].values["epochs"] == 4
    between = load(
        SMALL.replace("{rank: [8, 16]}", CONSTANT.replace("[1, 2, 4]", "{min: 1, max: 3}"))
    )
    assert between.domains["epochs"] == Choices((3,))


@pytest.mark.parametrize("scheduler", ["cosine", "warmup_stable_decay", "[constant, cosine]"])
def test_where_the_rate_falls_each_number_of_epochs_is_a_run(load: Load, scheduler: str) -> None:
    search = CONSTANT.replace("constant", scheduler)
    space = load(SMALL.replace("{rank: [8, 16]}", search))
    assert space.epochs_passed_through is None
    assert space.domains["epochs"] == Choices((1, 2, 4))


@pytest.mark.parametrize(
    ("given", "base"),
    [("true", "as-trained"), ("{}", "as-trained"), ("{base: 16-bit}", "16-bit"), ("false", None)],
)
def test_the_final_evaluation_is_on_off_or_in_16_bits(
    load: Load, given: str, base: str | None
) -> None:
    final = load(f"{SMALL}final_evaluation: {given}\n").settings.final
    assert (final and final.base) == base


def test_16_bits_that_a_checkpoint_does_not_have_are_refused(load: Load, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name in ("tokenizer.json", "model.safetensors"):
        (base / name).touch()
    kind = '{"load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}'
    (base / "config.json").write_text(f'{{"quantization_config": {kind}}}')
    text = SMALL.replace("smollm2-135m", "base") + "final_evaluation: {base: 16-bit}\n"
    with pytest.raises(SpaceError, match=r"line 4 +final_evaluation\.base: must be as-trained"):
        load(text)


def test_what_two_splits_hold_out_leaves_train_rows(load: Load) -> None:
    with pytest.raises(SpaceError, match=r"data\.test: and data\.eval hold out 1\.1 of train"):
        load(SMALL.replace("eval: 0.1", "eval: 0.5, test: 0.6"))
    assert load(SMALL.replace("eval: 0.1", "eval: 0.5, test: 0.4")).source("test") == 0.4
