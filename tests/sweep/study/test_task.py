"""What the trials of a study share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from sweep.errors import StudyError
from sweep.space.loading import load_space
from sweep.space.space import Space
from sweep.storage.attributes import TASK
from sweep.study.opening import name_objective, open_study
from sweep.study.task import keep_to_task, rows_so_far, with_its_optimizer
from sweep.tracking.run_data import comparable

SPACE = """\
base_model: smollm2-135m
data: {{train: rows.jsonl, eval: 0.1, template_arguments: {arguments}}}
search: {{rank: [8]}}
"""
FOUND = {
    "train_fingerprint": "a",
    "eval_fingerprint": "b",
    "tokenizer": "c",
    "sample_rows": 8,
    "chat": True,
    "date": None,
}


def space(folder: Path, arguments: str = "{}") -> Space:
    (folder / "rows.jsonl").write_text("{}")
    (folder / "mine.yaml").write_text(SPACE.format(arguments=arguments))
    return load_space(folder / "mine.yaml")


def keep(one: Space, date: str | None = None) -> optuna.Study:
    study = open_study(one, f"sqlite:///{one.folder}/study.db")
    keep_to_task(study, one, {**FOUND, "date": date}, "transformers", on_gpus=False)
    return study


@pytest.mark.parametrize(
    ("before", "after"),
    [("{a: 1}", "{a: 2}"), ("{}", "{a: 1}"), ("{a: 1}", "{}"), ("{a: 1, b: 2}", "{a: 1}")],
)
def test_other_arguments_of_the_chat_template_are_another_task(
    tmp_path: Path, before: str, after: str
) -> None:
    keep(space(tmp_path, before))
    with pytest.raises(StudyError, match=r"changed: template_arguments: \{.*\} → \{.*\}\)"):
        keep(space(tmp_path, after))


def test_a_study_from_before_there_were_arguments_goes_on_unless_some_are_given(
    tmp_path: Path,
) -> None:
    study = keep(space(tmp_path))
    task: dict[str, Any] = dict(study.user_attrs[TASK])
    del task["template_arguments"]
    assert comparable(task) == comparable(study.user_attrs[TASK])
    study.set_user_attr(TASK, task)
    keep(space(tmp_path))
    with pytest.raises(StudyError, match="changed: template_arguments"):
        keep(space(tmp_path, "{thinking: false}"))


def test_weights_that_were_read_without_their_scales_before_are_another_task(
    tmp_path: Path,
) -> None:
    (tmp_path / "model").mkdir()
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / "model" / name).touch()
    about = tmp_path / "model" / "config.json"
    about.write_text("{}")
    text = SPACE.format(arguments="{}").replace("smollm2-135m", "model\nquantization: none")
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "mine.yaml").write_text(text)
    one = load_space(tmp_path / "mine.yaml")
    study = keep(one)
    assert "checkpoint" not in study.user_attrs[TASK]["base_model"]
    about.write_text('{"quantization_config": {"quant_method": "fp8"}}')
    with pytest.raises(StudyError, match="base_model.checkpoint: nothing → FP8"):
        keep(one)


def test_a_study_has_one_date(tmp_path: Path) -> None:
    one = space(tmp_path)
    dates = []
    for date in (None, "2026-01-02", "2026-01-03"):
        storage: Any = keep(one, date)._storage
        dates.append(rows_so_far(one, tmp_path, storage).date)
    assert dates == [None, "2026-01-02", "2026-01-02"]


def adapters(digest: str, earlier: str | None, target: str = "all-linear") -> dict[str, Any]:
    one = {"target": target, "experts": False, "digest": digest, "earlier": earlier}
    return {**FOUND, "adapters": [one]}


def keep_adapters(one: Space, found: dict[str, Any]) -> optuna.Study:
    study = open_study(one, f"sqlite:///{one.folder}/study.db")
    keep_to_task(study, one, found, "transformers", on_gpus=False)
    return study


@pytest.mark.parametrize("earlier", ["as now", "fewer", None])
def test_a_study_goes_on_only_where_its_adapters_had_the_same_modules(
    tmp_path: Path, earlier: str | None
) -> None:
    one = space(tmp_path)
    study = keep_adapters(one, adapters("as now", None))
    task = dict(study.user_attrs[TASK])
    del task["adapted"]  # as a version before this had it
    assert comparable(task) == comparable(study.user_attrs[TASK])
    study.set_user_attr(TASK, task)
    if earlier == "fewer":
        with pytest.raises(StudyError, match=r"adapted\.all-linear: fewer → as now"):
            keep_adapters(one, adapters("as now", earlier))
        return
    study = keep_adapters(one, adapters("as now", earlier))
    with pytest.raises(StudyError, match=r"adapted\.all-linear: as now → others"):
        keep_adapters(one, adapters("others", earlier))


def test_another_choice_of_modules_is_no_other_task(tmp_path: Path) -> None:
    one = space(tmp_path)
    keep_adapters(one, adapters("a", None))
    study = keep_adapters(one, adapters("b", None, target="attention"))
    assert study.user_attrs[TASK]["adapted"] == {"all-linear": "a", "attention": "b"}


def test_a_study_goes_on_with_the_optimizer_that_it_began_with(tmp_path: Path) -> None:
    one = space(tmp_path)
    study = keep(one)
    study.set_user_attr(TASK, study.user_attrs[TASK] | {"optimizer": "adamw_8bit"})
    so_far = rows_so_far(one, tmp_path, study._storage)
    assert with_its_optimizer(one, so_far).settings.optimizer == "adamw_8bit"
    with pytest.raises(StudyError, match="optimizer: adamw_8bit → adamw"):
        keep(one)
    keep(with_its_optimizer(one, so_far))
    asked = replace(one, settings=one.settings.model_copy(update={"optimizer": "adamw"}))
    assert with_its_optimizer(asked, so_far) == asked


def test_the_dashboard_names_what_trials_are_judged_by(tmp_path: Path) -> None:
    study = keep(space(tmp_path))
    assert study.metric_names is None  # as a study of before has it
    for name in ("eval_loss", "eval_loss", "exact_match"):
        name_objective(study, name)
        again = optuna.load_study(
            study_name=study.study_name, storage=f"sqlite:///{tmp_path}/study.db"
        )
        assert again.metric_names == [name]
