"""`sweep try`: what it shows is what plain transformers and peft write; its loop and its words."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer

from sweep.errors import ExportError
from sweep.export.trying import PromptRefused, loaded
from sweep.results.reading import read_sweep
from sweep.results.trial_record import record_of
from tests import tiny
from tests.ptys import OnTerminal
from tests.sweep.reviewed import write_sweep
from trials.config import EvalPoint
from trials.memory.micro_batches import MicroBatchMemory
from trials.training.train import run_trial

PROMPT = "oslo rain calm :"


@pytest.fixture(scope="module")
def folder(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one real trial, in 4 bits and float32 arithmetic."""
    folder = tmp_path_factory.mktemp("tried") / "mine"
    model = replace(tiny.model_config(tiny_base), compute_dtype="float32")
    config = tiny.trial_config(
        tiny_base,
        tiny_data,
        folder / "trials" / "000",
        model=model,
        epochs=20,
        learning_rate=1e-2,
        n_evaluations=1,
    )
    Path(config.output_dir).mkdir(parents=True)
    curve: list[EvalPoint] = []
    ended = run_trial(config, tiny.transformers_base(model), MicroBatchMemory(), curve.append)
    return write_sweep(folder, [(config, ended, curve)])


def by_hand(model: torch.nn.Module, tokenizer: AutoTokenizer) -> str:
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        made = model.generate(ids, do_sample=False, max_new_tokens=60)  # type: ignore[operator]
    written = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    return str(written)


def test_both_answer_as_plain_transformers_and_peft_do(folder: Path, tiny_base: Path) -> None:
    record = record_of(read_sweep(folder))
    assert record.adapter is not None
    with loaded(record) as models:
        found = models.ask(PROMPT)
        with pytest.raises(PromptRefused, match=r"shorter than data\.max_length .* 64 tokens"):
            models.ask("oslo " * 64)
        assert models.ask(PROMPT) == found
    exact = replace(tiny.model_config(tiny_base), compute_dtype="float32")
    base = tiny.transformers_base(exact).model
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    of_base = by_hand(base, tokenizer)
    of_adapter = by_hand(PeftModel.from_pretrained(base, record.adapter).eval(), tokenizer)
    assert found == [of_base, of_adapter]
    assert of_base != of_adapter


def test_a_trial_without_an_adapter_is_refused(folder: Path) -> None:
    record = replace(record_of(read_sweep(folder)), adapter=None)
    with pytest.raises(ExportError, match="has no adapter on this disk"), loaded(record):
        pass


def test_a_model_that_is_gone_is_told_in_words(folder: Path, tmp_path: Path) -> None:
    record = record_of(read_sweep(folder))
    assert record.config is not None
    gone = replace(record.config.model, name=str(tmp_path / "gone"))
    changed = replace(record, config=replace(record.config, model=gone))
    with pytest.raises(ExportError, match=r"cannot be asked(.|\n)*gone"), loaded(changed):
        pass


def test_lines_of_a_pipe_are_asked_one_by_one(folder: Path) -> None:
    long = "oslo " * 64
    done = subprocess.run(
        [sys.executable, "-m", "sweep", "try", "mine", "--output", str(folder.parent)],
        input=f"{PROMPT}\n\n{long}\nlille snow wild :\n",
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    prompts = [line for line in done.stdout.splitlines() if line.startswith(">")]
    assert prompts == [f"> {PROMPT}", f"> {long}", "> lille snow wild :"]
    assert done.stdout.count("base model") == 2
    assert "must be shorter than data.max_length" in done.stderr


def test_a_terminal_is_asked_until_ctrl_d_and_ctrl_c_ends_an_answer_alone(folder: Path) -> None:
    command = [sys.executable, "-m", "sweep", "try", "mine", "--output", str(folder.parent)]
    terminal = OnTerminal(command, columns=80)
    try:
        terminal.until("> ", seconds=600)
        for _ in range(2):
            terminal.type(f"{PROMPT}\n")
            shown = terminal.until("They answer", seconds=600)
            terminal.type("\x03")  # while it is written, or when that has just ended
            terminal.type("\n")  # brings a prompt in either case
            while "trial 0" not in shown:
                shown += terminal.until("> ", seconds=600)
        terminal.type("\x04")
        assert terminal.wait(seconds=600) == 0
    finally:
        terminal.close()
