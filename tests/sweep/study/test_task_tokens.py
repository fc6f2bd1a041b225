"""What a study's trials share: the tokens that they learn, those of older versions too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from sweep.errors import StudyError
from sweep.space.loading import load_space
from sweep.study.task import has_its_tokens, keep_to_task
from tests import tiny

TOKENS = {"digest": "aaaa", "tokens": 5200, "learnt": 1234}
FOUND: dict[str, Any] = {
    **dict.fromkeys(("train_fingerprint", "eval_fingerprint", "tokenizer"), "x"),
    "chat": True,
    "sample_rows": 64,
    "sample_tokens": TOKENS,
}


class Kept:
    """A study; each call opens it with another report."""

    def __init__(self, folder: Path) -> None:
        (folder / "rows.jsonl").write_text("{}")
        file = folder / "tiny.yaml"
        file.write_text(
            "base_model: none\ndata: {train: rows.jsonl, eval: 0.1}\nsearch: {rank: [8]}"
        )
        self.space = load_space(file)
        self.study = optuna.create_study()

    def __call__(self, **changes: Any) -> None:
        keep_to_task(self.study, self.space, FOUND | changes, "transformers", on_gpus=False)

    def as_an_older_version_left_it(self) -> None:
        self()
        task = self.task
        del task["sample_tokens"]
        self.study.set_user_attr("task", task)

    @property
    def task(self) -> dict[str, Any]:
        return dict(self.study.user_attrs["task"])


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (
            {"learnt": 1310},
            "changed: learnt tokens of the eval sample: 1,234 → 1,310.; else losses",
        ),
        ({"tokens": 5300}, "changed: tokens of the eval sample: 5,200 → 5,300"),
        ({}, "tokens of the eval sample: others, though as many .5,200."),
    ],
)
def test_other_tokens_are_another_task(kept: Kept, now: dict[str, int], words: str) -> None:
    kept()
    kept()
    with pytest.raises(StudyError, match=words.replace(".;", "[)];")):
        kept(sample_tokens={**TOKENS, **now, "digest": "bbbb"})


def test_an_older_versions_study_goes_on_with_the_same_tokens_and_notes_them(kept: Kept) -> None:
    kept.as_an_older_version_left_it()
    kept(earlier_sample_tokens=TOKENS)
    assert kept.task["sample_tokens"] == TOKENS
    kept()


def test_an_older_versions_study_does_not_go_on_with_others(kept: Kept) -> None:
    kept.as_an_older_version_left_it()
    with pytest.raises(
        StudyError,
        match=r"learnt tokens of the eval sample: 900 → 1,234\).* new name: --name tiny-2",
    ):
        kept(earlier_sample_tokens={**TOKENS, "digest": "bbbb", "learnt": 900})
    assert "sample_tokens" not in kept.task


def test_what_an_older_versions_trials_learnt_must_be_known(kept: Kept) -> None:
    kept.as_an_older_version_left_it()
    with pytest.raises(StudyError, match=r"an older version noted none, .* cannot be known"):
        kept()


def test_scores_that_an_older_version_read_otherwise_do_not_go_on(kept: Kept) -> None:
    generation = {"rows": 8, "max_new_tokens": 12}
    kept(generation=generation)
    kept(generation={**generation, "longer": 2})
    with pytest.raises(StudyError, match="objective.read: nothing → without thoughts"):
        kept(generation={**generation, "read": "without thoughts"})


def as_format_3(folder: Path, *, n_learnt_more: int) -> None:
    """Turn a prepared folder into an older version's, which may have learnt other tokens."""
    report, sample = folder / "report.json", folder / "eval_sample.jsonl"
    found = json.loads(report.read_text())
    del found["sample_tokens"]
    report.write_text(json.dumps({**found, "content": "of format 3"}))
    first, *others = sample.read_text().splitlines()
    row = json.loads(first)
    row["labels"][1 : 1 + n_learnt_more] = row["input_ids"][1 : 1 + n_learnt_more]
    sample.write_text("\n".join([json.dumps(row), *others]) + "\n")


@pytest.mark.parametrize("n_learnt_more", [0, 2])
def test_a_sweep_of_format_3_goes_on_where_its_tokens_are_the_same(
    kept: Kept, tiny_base: Path, tmp_path: Path, n_learnt_more: int
) -> None:
    def report() -> dict[str, Any]:
        folder = tiny.prepared_data(tiny_base, tmp_path, n_train=8, n_eval=4)
        found: dict[str, Any] = json.loads((folder / "report.json").read_text())
        return found

    kept(**report())
    kept.study.set_user_attr("task", {k: v for k, v in kept.task.items() if k != "sample_tokens"})
    as_format_3(tmp_path / "prepared", n_learnt_more=n_learnt_more)
    if n_learnt_more == 0:
        kept(**report())
        assert kept.task["sample_tokens"] == report()["sample_tokens"]
        return
    for _ in range(2):  # what the older version had is remembered
        with pytest.raises(StudyError, match="learnt tokens of the eval sample: 54 → 52"):
            kept(**report())


@pytest.mark.parametrize(
    ("report", "task", "has"),
    [
        ({}, {"seed": 0}, True),  # both of an older version
        ({"sample_tokens": TOKENS}, {"sample_tokens": TOKENS}, True),
        ({"sample_tokens": TOKENS}, {"seed": 0}, None),
        ({"sample_tokens": TOKENS, "earlier_sample_tokens": TOKENS}, {"seed": 0}, True),
        ({"sample_tokens": TOKENS, "earlier_sample_tokens": {}}, {"seed": 0}, False),
    ],
)
def test_a_prepared_folder_has_the_tokens_of_the_trials(
    report: dict[str, Any], task: dict[str, Any], has: bool | None
) -> None:
    assert has_its_tokens(report, task) is has
