"""`sweep export`: the adapter or the merged model, and its eval loss in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML
from transformers import AutoTokenizer
from typer.testing import CliRunner

from sweep.cli.commands import app
from sweep.errors import ExportError
from sweep.export import adapter as exporting
from sweep.export.adapter import Measured, export, verdict
from sweep.results.reading import read_sweep
from sweep.results.trial_record import Record, record_of
from tests import prequantised, wrappers
from tests.sweep.reviewed import write_sweep
from trials.config import EvalPoint, Quantization, TrialConfig
from trials.data.digests import KEY

Trained = Callable[[Quantization], Path]


@pytest.fixture(scope="module")
def trained(
    tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Trains one real trial on a base of a kind, once, and writes its sweep; returns the folder."""
    made: dict[tuple[str, str], Path] = {}

    def train(
        quantization: Quantization, config: Callable[..., TrialConfig], base: Path = tiny_base
    ) -> Path:
        if (quantization, str(base)) in made:
            return made[quantization, str(base)]
        from trials.backends.loading import load
        from trials.memory.micro_batches import MicroBatchMemory
        from trials.training.train import run_trial

        folder = tmp_path_factory.mktemp(quantization) / "mine"
        # One evaluation, when it knows its rows by heart: far from the base model's own loss, so
        # that an adapter without effect would be seen.
        usual = config(epochs=30, learning_rate=1e-2, n_evaluations=1, evaluate_base=True)
        one = replace(
            usual,
            model=replace(usual.model, name=str(base), quantization=quantization),
            output_dir=str(folder / "trials" / "000"),
        )
        Path(one.output_dir).mkdir(parents=True)
        curve: list[EvalPoint] = []
        ended = run_trial(one, load(one.model), MicroBatchMemory(), curve.append)
        write_sweep(folder, [(one, ended, curve[1:])])
        base_loss, loss = curve[0].eval_loss, curve[-1].eval_loss
        assert abs(loss / base_loss - 1) > 0.015  # above the tolerance
        (folder / "data").symlink_to(tiny_data)
        made[quantization, str(base)] = folder
        return folder

    return train


@pytest.fixture
def record(trained: Callable[..., Path], config: Callable[..., TrialConfig]) -> Record:
    return record_of(read_sweep(trained("nf4", config)))


def test_an_adapter_has_the_logged_eval_loss_in_a_fresh_process(
    record: Record, tmp_path: Path
) -> None:
    said: list[str] = []
    target = tmp_path / "new" / "mine"
    as_trained, in_16_bits = export(record, target, merge=False, check=True, say=said.append)
    assert (as_trained.quantization, in_16_bits.quantization) == ("nf4", "none")
    assert abs(as_trained.difference) < 0.005
    assert as_trained.counts and not in_16_bits.counts
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= {
        path.name for path in target.iterdir()
    }
    assert list(target.parent.iterdir()) == [target]  # nothing is left beside it


def test_a_merged_model_has_the_logged_eval_loss(
    trained: Callable[..., Path], config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    record = record_of(read_sweep(trained("none", config)))
    target = tmp_path / "merged"
    [found] = export(record, target, merge=True, check=True, say=lambda _: None)
    assert abs(found.difference) < 0.01
    assert verdict([found], record, is_merged=True) is None
    names = {path.name for path in target.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names
    assert "adapter_config.json" not in names


def gpt_oss_in_mxfp4(base: Path, folder: Path) -> Path:
    return prequantised.mxfp4(
        prequantised.tiny_gpt_oss(base, folder.with_name(f"{folder.name}-plain")), folder
    )


@pytest.mark.parametrize(
    ("write", "quantization"),
    [
        (prequantised.nf4, "nf4"),
        pytest.param(prequantised.fp8, "none", marks=pytest.mark.long),
        pytest.param(prequantised.int8, "int8", marks=pytest.mark.long),
        pytest.param(gpt_oss_in_mxfp4, "none", marks=pytest.mark.long),
    ],
)
def test_a_base_that_is_quantised_already_is_merged_from_its_dequantised_form(
    trained: Callable[..., Path],
    config: Callable[..., TrialConfig],
    tiny_base: Path,
    tmp_path: Path,
    write: Callable[[Path, Path], Path],
    quantization: Quantization,
) -> None:
    base = write(tiny_base, tmp_path / "base")
    record = record_of(read_sweep(trained(quantization, config, base)))
    [found] = export(record, tmp_path / "merged", merge=True, check=True, say=lambda _: None)
    assert abs(found.difference) < 0.01
    assert "quantization_config" not in (tmp_path / "merged" / "config.json").read_text()
    alone = export(record, tmp_path / "adapter", merge=False, check=True, say=lambda _: None)
    assert max(abs(one.difference) for one in alone) < 0.01


@pytest.mark.parametrize("merge", [False, True])
def test_the_adapters_own_chat_template_goes_along(
    trained: Callable[..., Path], config: Callable[..., TrialConfig], tmp_path: Path, merge: bool
) -> None:
    record = record_of(read_sweep(trained("none", config)))
    assert record.adapter is not None
    template = record.adapter / "chat_template.jinja"
    template.write_text("{{ messages }}")
    space = record.sweep.folder / "space.yaml"
    text = space.read_text()
    space.write_text(text.replace("data: {", "data: {template_arguments: {thinking: false}, "))
    try:
        export(record, tmp_path / "out", merge=merge, check=False, say=lambda _: None)
    finally:
        template.unlink()
        space.write_text(text)
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")' in card
    assert "(messages, add_generation_prompt=True, thinking=False)" in card
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == "{{ messages }}"


def test_its_receiver_needs_only_transformers_and_peft(record: Record, tmp_path: Path) -> None:
    code = "import sys, trials.exported; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    ours = {name for name in modules if name.startswith(("sweep", "trials"))}
    # How a base is quantised must be as in a trial, and files have the usual mode; the rest of the
    # project has no part in it.
    shared = {"trials.models", "trials.models.quantisation"}
    shared |= {"trials.whole_file", "trials.foreign_text", "trials.unfinished"}
    assert ours == {"trials", "trials.exported", *shared}
    assert not modules & {"optuna", "ray", "mlflow", "pydantic", "typer"}


def test_the_card_can_be_read_and_its_code_runs(record: Record, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    export(record, target, merge=False, check=False, say=lambda _: None)
    _, front, body = (target / "README.md").read_text().split("---\n", 2)
    keys = YAML(typ="safe", pure=True).load(front)
    assert (keys["library_name"], keys["tags"]) == ("peft", ["lora", "qlora"])
    assert "base_model" not in keys  # a folder of this machine is no model of the hub
    assert f"{record.trial.eval_loss:.4f} nats per supervised token" in body
    code = body.split("```python\n")[1].split("```")[0].replace("THIS_FOLDER", str(target))
    assert len(code.strip().splitlines()) <= 10
    # The tiny tokenizer lies with its base; a model of the hub has its own.
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_of_a_model_that_also_reads_images_the_card_names_its_own_class(
    trained: Callable[..., Path], config: Callable[..., TrialConfig], tmp_path: Path
) -> None:
    base = wrappers.make("llava", tmp_path / "base")
    record = record_of(read_sweep(trained("none", config, base)))
    [found] = export(record, tmp_path / "mine", merge=False, check=True, say=lambda _: None)
    assert abs(found.difference) < 0.005
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "base = LlavaForConditionalGeneration.from_pretrained(name" in card


def test_a_difference_is_said_loudly(record: Record) -> None:
    near = Measured("none", 1.009, 1.0, counts=True)
    far = Measured("none", 1.02, 1.0, counts=True)
    assert verdict([near], record, is_merged=True) is None
    words = verdict([far], record, is_merged=True)
    assert words is not None
    assert words.startswith(
        "THE EXPORT DIFFERS by +2.00% from the logged eval loss; 1% is allowed."
    )
    assert "the quantisation makes the difference" in words
    assert verdict([replace(far, counts=False)], record, is_merged=False) is None
    assert verdict([replace(far, eval_loss=float("nan"))], record, is_merged=False) is not None


def test_a_wrong_eval_loss_exits_with_1(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    sweep_dir = record.folder.parents[1]
    target = tmp_path / "mine"
    arguments = ["export", "mine", "--output", str(sweep_dir.parent), "--to", str(target)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "THE EXPORT DIFFERS" in done.output
    assert target.exists()


def test_a_target_that_exists_is_refused(record: Record, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="must not exist yet"):
        export(record, tmp_path, merge=False, check=False, say=lambda _: None)


def test_a_trial_without_an_adapter_is_said(record: Record, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has no adapter on this disk: .* These have one: 0\."):
        export(replace(record, adapter=None), tmp_path / "x", merge=False, check=False, say=print)


def test_an_export_that_fails_leaves_nothing(record: Record, tmp_path: Path) -> None:
    broken = tmp_path / "adapter"
    broken.mkdir()
    (broken / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "base", "r": 8})
    )
    target = tmp_path / "out" / "mine"
    with pytest.raises(ExportError, match="could not be checked; nothing was written"):
        export(replace(record, adapter=broken), target, merge=False, check=True, say=lambda _: None)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_export_leaves_nothing_for_long(
    record: Record, tmp_path: Path, number: signal.Signals
) -> None:
    target = tmp_path / "out" / "mine"
    output = str(record.sweep.folder.parent)
    command = [sys.executable, "-m", "sweep", "export", "mine", "--output", output]
    with subprocess.Popen([*command, "--to", str(target)], stdout=subprocess.PIPE) as exporting:
        me = psutil.Process(exporting.pid)
        while not (started := me.children()):
            assert exporting.poll() is None
        exporting.send_signal(number)
    assert psutil.wait_procs(started, timeout=15)[1] == []
    left = [path.name for path in target.parent.iterdir()]
    if number is signal.SIGKILL:
        assert left == [f"mine.{exporting.pid}.tmp"]
    else:
        assert (exporting.returncode, left) == (130, [])
    export(record, target, merge=False, check=False, say=lambda _: None)
    assert list(target.parent.iterdir()) == [target]


def test_the_check_needs_the_sweeps_eval_rows(record: Record, tmp_path: Path) -> None:
    elsewhere = replace(record, sweep=replace(record.sweep, folder=tmp_path / "fetched"))
    with pytest.raises(ExportError, match=r"eval_sample.jsonl: .* or use --no-check"):
        export(elsewhere, tmp_path / "x", merge=False, check=True, say=lambda _: None)


def test_tokens_that_the_trial_was_not_judged_by_are_no_check(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads((record.sweep.folder / "data" / "report.json").read_text())
    data = tmp_path / "data"
    data.mkdir()
    del found[KEY]  # that version noted none
    earlier = {"earlier_sample_tokens": {"digest": "of an older version"}}
    (data / "report.json").write_text(json.dumps({**found, **earlier}))
    (data / "eval_sample.jsonl").write_text("")
    monkeypatch.setattr("sweep.export.adapter.layout.DATA", str(data))
    with pytest.raises(ExportError, match="must hold the tokens that the trial was judged by, but"):
        export(record, tmp_path / "mine", merge=False, check=True, say=print)
