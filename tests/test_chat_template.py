"""A chat template of one's own, as a user has it: from the check to whatever leaves the sweep."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from ruamel.yaml import YAML

from tests import tiny

pytestmark = [
    pytest.mark.long,
    # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
    pytest.mark.filterwarnings(
        "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
    ),
]

TEMPLATE = (
    "{# strftime_now #}{% for m in messages %}{{ 'here ' if m.role == 'user' else 'there ' }}"
    "{{ m.content }}{{ ' </s> ' if m.role == 'user' else ' </s>' }}{% endfor %}"
    "{% if add_generation_prompt %}there {% endif %}{{ nothing }}"
)
SPACE = """\
base_model: {base}
data:
  {{train: train.jsonl, eval: eval.jsonl, max_length: 64, chat_template: mine.jinja,
    template_arguments: {{nothing: ""}}}}
search: {{rank: [4], learning_rate: 1e-3, effective_batch_size: 8, epochs: 1}}
budget: {{trials: 1}}
evaluate: {{times: 1}}
"""


@dataclass
class Sweep:
    """A sweep of one trial that has run."""

    home: Path
    checked: str

    @property
    def folder(self) -> Path:
        return self.home / "sweeps" / "tiny"

    def sweep(self, *words: str) -> str:
        command = [sys.executable, "-m", "sweep", *words]
        done = subprocess.run(command, cwd=self.home, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def ran(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    home = tmp_path_factory.mktemp("template")
    tiny.write_rows(home / "train.jsonl", 24, seed=2)
    tiny.write_rows(home / "eval.jsonl", 16, seed=3)
    (home / "mine.jinja").write_text(TEMPLATE)
    (home / "tiny.yaml").write_text(SPACE.format(base=tiny_base))
    sweep = Sweep(home, "")
    sweep.checked = sweep.sweep("check", "tiny.yaml")
    sweep.sweep("run", "tiny.yaml", "--workers", "1")
    return sweep


def template_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder).chat_template


def test_the_check_shows_rows_in_it_and_the_tokens_of_its_marks(ran: Sweep) -> None:
    assert "\nhere " in ran.checked
    assert "no tokens are added" in ran.checked


def test_it_lies_beside_each_adapter_without_its_bytes(ran: Sweep) -> None:
    places = [ran.folder / "trials" / "000" / "adapter", ran.folder / "best" / "adapter"]
    assert [template_of(place) for place in places] == [TEMPLATE] * 2
    assert (places[0] / "tokenizer.json").stat().st_nlink == 3  # with the prepared rows'
    assert (
        f'AutoTokenizer.from_pretrained("{places[1]}")'
        in (ran.folder / "best" / "README.md").read_text()
    )


def test_it_is_exported_and_merged(ran: Sweep) -> None:
    ran.sweep("export", "tiny", "--to", "out", "--no-check")
    ran.sweep("export", "tiny", "--to", "merged", "--merge", "--no-check")
    assert template_of(ran.home / "out") == TEMPLATE == template_of(ran.home / "merged")
    for name in ("out", "merged"):
        card = (ran.home / name / "README.md").read_text()
        assert 'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")' in card
        assert "add_generation_prompt=True, nothing='')" in card
        assert '| chat_template | mine.jinja |\n| template_arguments | {"nothing": ""} |' in card


def test_other_trainers_are_given_it(ran: Sweep) -> None:
    keys = YAML(typ="safe", pure=True).load(ran.sweep("best", "tiny", "--yaml", "axolotl"))
    assert Path(keys["chat_template_jinja"]).read_text() == TEMPLATE
    assert keys["chat_template_kwargs"] == {"nothing": ""}


def test_mlflow_has_it(ran: Sweep) -> None:
    client = MlflowClient(f"sqlite:///{ran.folder}/mlflow.db")
    runs = client.search_runs(["1"])
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert parent.data.params["data.chat_template"] == "mine.jinja"
    assert json.loads(parent.data.params["data.template_arguments"]) == {"nothing": ""}
    kept = list((ran.folder / "mlartifacts").rglob("adapter/chat_template.jinja"))
    assert [path.read_text() for path in kept] == [TEMPLATE]


def test_a_trial_alone_has_the_sweeps_date_and_leaves_it_beside_its_adapter(ran: Sweep) -> None:
    ran.sweep("trial", "tiny.yaml", "--workers", "1", "--number", "0")
    alone = ran.folder / "alone"
    assert template_of(alone / "0" / "adapter") == TEMPLATE
    dates = [json.loads((d / "data/report.json").read_text())["date"] for d in (ran.folder, alone)]
    assert dates[0] is not None and dates[0] == dates[1]


def test_a_run_with_another_seed_leaves_it_too(ran: Sweep) -> None:
    ran.sweep("confirm", "tiny", "--top", "1", "--seeds", "1", "--workers", "1")
    assert template_of(ran.folder / "confirm" / "trials" / "000" / "adapter") == TEMPLATE
