"""Answers to held-out prompts: what plain transformers and peft write after the same prompt."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer

from tests import tiny
from trials.backends.transformers_qlora import TransformersBase
from trials.config import TrialConfig, TrialResult
from trials.memory.micro_batches import MicroBatchMemory
from trials.preparation.prepare import prepare
from trials.training.train import run_trial

TEMPLATE = (
    "{% for m in messages %}{{ 'today' if m.role == 'user' else 'tonight' }} {{ m.content }} </s> "
    "{% endfor %}{% if add_generation_prompt %}tonight {% endif %}"
)
"""Of words that the tiny tokenizer knows."""


@pytest.fixture(scope="module")
def chatting(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with a chat template."""
    folder = tmp_path_factory.mktemp("chatting") / "base"
    shutil.copytree(tiny_base, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(chatting: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    train = str(tiny.write_rows(folder / "train.jsonl", 48, seed=2))
    eval_ = str(tiny.write_rows(folder / "eval.jsonl", 20, seed=3))
    asked = tiny.request(chatting, folder / "prepared", train=train, eval=eval_, answers=5)
    prepare(asked)
    return folder / "prepared"


@pytest.fixture(scope="module")
def exact(chatting: Path) -> TransformersBase:
    return tiny.transformers_base(replace(tiny.model_config(chatting), compute_dtype="float32"))


def run(config: TrialConfig, base: TransformersBase) -> TrialResult:
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    return run_trial(config, base, MicroBatchMemory(), lambda _: None)


def answers(config: TrialConfig, adapter: str, base: TransformersBase) -> dict[str, list[str]]:
    result = run(replace(config, answers=True, measured_adapter=adapter), base)
    assert result.outcome == "completed"
    found: dict[str, list[str]] = json.loads((Path(config.output_dir) / "answers.json").read_text())
    return found


def by_hand(model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """One at a time, as whoever loads it would."""
    written = []
    for prompt in prompts:
        turns = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).input_ids
        with torch.no_grad():
            made = model.generate(ids, do_sample=False, max_new_tokens=40)
        written.append(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    return written


def test_the_models_write_what_plain_transformers_and_peft_write(
    chatting: Path, data: Path, exact: TransformersBase, tmp_path: Path
) -> None:
    model = replace(tiny.model_config(chatting), compute_dtype="float32")
    trial = tiny.trial_config(
        chatting, data, tmp_path / "0", model=model, rank=4, epochs=20, learning_rate=1e-2
    )
    run(trial, exact)
    adapter = tmp_path / "0" / "adapter"
    of_base = answers(replace(trial, output_dir=str(tmp_path / "1")), "", exact)
    of_trial = answers(replace(trial, output_dir=str(tmp_path / "2")), str(adapter), exact)

    tokenizer = AutoTokenizer.from_pretrained(chatting)
    rows = [json.loads(line) for line in (data.parent / "eval.jsonl").read_text().splitlines()]
    true = {row["prompt"]: row["completion"].strip() for row in rows}
    assert of_base["true"] == [true[prompt] for prompt in of_base["prompts"]]
    assert len(of_base["prompts"]) == 5
    assert of_base["written"] == by_hand(exact.model, tokenizer, of_base["prompts"])
    plain = PeftModel.from_pretrained(exact.model, adapter).eval()
    assert of_trial["written"] == by_hand(plain, tokenizer, of_trial["prompts"])
    plain.unload()
    assert of_trial["written"] != of_base["written"]


def test_answers_that_somebody_stops_are_asked_for_again(
    chatting: Path, data: Path, exact: TransformersBase, tmp_path: Path
) -> None:
    trial = tiny.trial_config(chatting, data, tmp_path, answers=True)
    stopped = run_trial(
        trial, exact, MicroBatchMemory(), lambda _: None, after_step=lambda *_: True
    )
    assert stopped.outcome == "interrupted"
    assert not (tmp_path / "answers.json").exists()


def test_an_answer_ends_where_somebody_wants_its_end(exact: TransformersBase) -> None:
    asked: list[int] = []

    def is_over() -> bool:
        asked.append(0)
        return len(asked) == 3

    (ids,) = exact.generate([[4, 5]], stop_ids=[2], max_new_tokens=30, is_over=is_over)
    (whole,) = exact.generate([[4, 5]], stop_ids=[2], max_new_tokens=30)
    assert ids == whole[:3]
