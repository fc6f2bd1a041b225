"""`sweep run` as a user types it, on the tiny model: study, MLflow, disk and screen agree."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
import psutil
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from sweep.storage.attributes import COUNTS
from tests import tiny
from trials.data.tokens import IGNORED, TokenRows
from trials.whole_file import usual_mode

pytestmark = pytest.mark.filterwarnings(
    # SQLAlchemy 2.1 warns of a loader that MLflow 3.17 uses in its own tables.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"
)

SPACE = """\
base_model: {base}
data: {{train: train.jsonl, eval: eval.jsonl, max_length: 64}}
search:
  rank: [4, 8, 32]
  learning_rate: {{min: 1e-4, max: 1e-2, log: true}}
  effective_batch_size: [8]
  epochs: [3, {epochs}]
start_with:
  - {{rank: 8, alpha: 8, learning_rate: 1e-3, epochs: 3, effective_batch_size: 8}}
  - {{rank: 32, alpha: 32, learning_rate: 3e-3, epochs: {epochs}, effective_batch_size: 8}}
budget: {{trials: 6}}
pruning: {{outclassed: {{min_peers: 6}}}}
keep_adapters: 2
checkpoint_minutes: 0.001
"""


@dataclass
class Finished:
    """A sweep that has run."""

    folder: Path
    output: str
    exit_code: int

    @property
    def study(self) -> optuna.Study:
        return optuna.load_study(study_name="tiny", storage=f"sqlite:///{self.folder}/study.db")

    @property
    def runs(self) -> tuple[list[Run], list[Run]]:
        """Parents and children."""
        client = MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        experiment = client.get_experiment_by_name("tiny")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        return parents, [run for run in runs if run not in parents]


def write_space(folder: Path, base: Path, epochs: int = 30) -> Path:
    tiny.write_rows(folder / "train.jsonl", 48, seed=2)
    tiny.write_rows(folder / "eval.jsonl", 64, seed=3)
    space = folder / "tiny.yaml"
    space.write_text(SPACE.format(base=base, epochs=epochs))
    return space


def command(space: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "sweep", "run", str(space), "--workers", "2"),
        *("--output", str(space.parent / "out"), *options),
    ]


def sweep_run(space: Path, *options: str) -> Finished:
    done = subprocess.run(command(space, *options), capture_output=True, text=True, timeout=300)
    return Finished(space.parent / "out" / "tiny", done.stdout + done.stderr, done.returncode)


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One sweep for all that can be read off it."""
    return sweep_run(write_space(tmp_path_factory.mktemp("run"), tiny_base))


def test_the_command_succeeds_and_says_what_won(finished: Finished) -> None:
    assert finished.exit_code == 0, finished.output
    assert "Traceback" not in finished.output
    assert " for the base model (perplexity " in finished.output
    assert "sweep ui tiny" in finished.output


def test_what_a_token_took_is_noted_for_the_next_check(finished: Finished, tiny_base: Path) -> None:
    noted = json.loads((Path(os.environ["XDG_CACHE_HOME"]) / "sweep" / "paces.json").read_text())
    counts = [len(each["paces"]) for each in noted if each["kind"]["name"] == str(tiny_base)]
    assert sum(t.user_attrs["outcome"] in COUNTS for t in finished.study.trials) in counts


def test_mlflow_has_one_parent_and_one_child_for_each_trial_and_none_runs(
    finished: Finished,
) -> None:
    parents, children = finished.runs
    assert [run.info.status for run in parents] == ["FINISHED"]
    numbers = sorted(int(run.data.tags["trial_number"]) for run in children)
    assert numbers == list(range(6))
    assert all(run.info.status != "RUNNING" for run in children)
    assert all(run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id for run in children)


def test_the_study_agrees_with_mlflow_trial_by_trial(finished: Finished) -> None:
    _, children = finished.runs
    by_number = {int(run.data.tags["trial_number"]): run for run in children}
    for trial in finished.study.trials:
        run = by_number[trial.number]
        assert trial.state.is_finished()
        assert run.data.tags["outcome"] == trial.user_attrs["outcome"]
        assert run.data.tags["outcome_reason"] == trial.user_attrs["outcome_reason"]
        expected = trial.user_attrs["hyperparameters"]
        for name in ("rank", "alpha", "learning_rate", "epochs", "effective_batch_size"):
            assert float(run.data.params[name]) == pytest.approx(expected[name], rel=1e-5)
        if trial.value is not None:
            assert run.data.metrics["eval_loss_best"] == pytest.approx(trial.value)
            assert trial.value == min(trial.intermediate_values.values())


def test_the_trial_that_is_made_to_overfit_is_stopped_for_it(finished: Finished) -> None:
    trial = finished.study.trials[1]
    assert trial.user_attrs["outcome"] == "overfit"
    assert trial.state is optuna.trial.TrialState.COMPLETE
    assert max(trial.intermediate_values) < 20


def test_the_best_adapters_stay_and_the_winner_has_its_own_folder(finished: Finished) -> None:
    complete = [t for t in finished.study.trials if t.value is not None]
    best = sorted(complete, key=lambda t: (t.value, t.number))[:2]
    kept = sorted(int(p.parent.name) for p in finished.folder.glob("trials/*/adapter"))
    assert kept == sorted(t.number for t in best)
    config = json.loads((finished.folder / "best" / "config.json").read_text())
    assert config["number"] == best[0].number
    assert (finished.folder / "best" / "adapter" / "adapter_model.safetensors").exists()
    assert not list(finished.folder.rglob("*.tmp"))


def test_the_reports_first_figure_is_that_of_a_plain_loop_over_all_eval_rows(
    finished: Finished, tiny_base: Path
) -> None:
    """As best/README.md loads it, row by row."""
    page = (finished.folder / "report.html").read_text()
    words = re.sub("<[^>]*>", "", page[page.index('<div class="headline">') :])
    said = re.search(r"eval loss (\d+\.\d+)", words, re.IGNORECASE)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="bfloat16",
    )
    base = AutoModelForCausalLM.from_pretrained(
        tiny_base, dtype="bfloat16", quantization_config=nf4
    )
    model = PeftModel.from_pretrained(base, finished.folder / "best" / "adapter").eval()
    nats, n_tokens = 0.0, 0
    rows = TokenRows(finished.folder / "data" / "eval", 64)
    for index in range(len(rows)):
        ids, labels = (torch.tensor(rows[index][key])[None] for key in ("input_ids", "labels"))
        n_targets = int((labels[:, 1:] != IGNORED).sum())
        with torch.no_grad():
            nats += float(model(input_ids=ids, labels=labels).loss) * n_targets
        n_tokens += n_targets
    assert said is not None
    assert float(said[1]) == pytest.approx(nats / n_tokens, rel=0.005)


def test_every_file_may_be_read_by_whom_the_umask_says(finished: Finished) -> None:
    others = usual_mode() & 0o044
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    assert [path for path in files if path.stat().st_mode & 0o044 != others] == []
    assert any(path.suffix == ".safetensors" for path in files)


def test_the_same_command_has_nothing_left_to_do(finished: Finished) -> None:
    again = sweep_run(finished.folder.parent.parent / "tiny.yaml")
    assert again.exit_code == 0
    assert "all trials have run; raise --trials to go on" in again.output
    assert len(again.study.trials) == 6


def test_it_runs_though_nobody_can_read_what_it_says(finished: Finished) -> None:
    with Path("/dev/full").open("w") as full:
        again = command(finished.folder.parent.parent / "tiny.yaml")
        assert subprocess.run(again, stdout=full, stderr=full, check=False).returncode == 0


@pytest.mark.long
def test_more_trials_go_on_in_the_same_parent(finished: Finished) -> None:
    more = sweep_run(finished.folder.parent.parent / "tiny.yaml", "--trials", "7")
    parents, children = more.runs
    assert (len(parents), len(children), len(more.study.trials)) == (1, 7, 7)


def test_other_data_under_the_same_name_is_refused(finished: Finished) -> None:
    space = finished.folder.parent.parent / "tiny.yaml"
    other = tiny.write_rows(space.parent / "other.jsonl", 40, seed=9)
    refused = sweep_run(space, "--set", f"data.train={other.name}", "--trials", "9")
    assert refused.exit_code == 2
    assert re.search(r"sweep's trials \(changed: train: \w+…\w+ → \w+…\w+\)", refused.output)
    assert "--name tiny-2" in refused.output


@pytest.mark.long
def test_the_search_may_change_between_two_runs(tiny_base: Path, tmp_path: Path) -> None:
    space = write_space(tmp_path, tiny_base, epochs=4)
    assert sweep_run(space, "--trials", "3").exit_code == 0
    changed = ["--set", "search.rank=[8,32,64]", "--set", "search.learning_rate.min=5e-4"]
    more = sweep_run(space, *changed, "--set", "search.epochs=[2,3,4]", "--trials", "5")
    assert more.exit_code == 0, more.output
    assert "The search has changed: rank: 4, 8, 32 → 8, 32, 64; " in " ".join(more.output.split())
    assert [trial.number for trial in more.study.trials] == list(range(5))
    assert all(trial.params["learning_rate"] >= 5e-4 for trial in more.study.trials[3:])


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_a_signal_to_its_group_ends_it_in_order_and_the_same_command_continues(
    tiny_base: Path, tmp_path: Path
) -> None:
    space = write_space(tmp_path, tiny_base, epochs=60)
    unpaused = ("--set", "pruning.outclassed=false", "--trials", "3")
    with (tmp_path / "output.txt").open("w") as output:
        running = subprocess.Popen(
            command(space, *unpaused),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a shell's job has a group of its own
        )
    log = tmp_path / "out" / "tiny" / "trials" / "001" / "log.txt"
    wait_for(lambda: log.exists() and '"index": 2' in log.read_text())
    live = Finished(tmp_path / "out" / "tiny", "", 0)
    wait_for(lambda: "RUNNING" in {run.info.status for run in live.runs[1]})  # seen in the UI
    processes = psutil.Process(running.pid).children(recursive=True)
    running.terminate()  # `timeout` sends it to both
    os.killpg(running.pid, signal.SIGTERM)
    assert running.wait(timeout=60) == 130
    psutil.wait_procs(processes, timeout=20)
    assert not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    stopped = Finished(tmp_path / "out" / "tiny", (tmp_path / "output.txt").read_text(), 130)
    assert "Traceback" not in stopped.output and "Skipping" not in stopped.output
    states = {trial.state for trial in stopped.study.trials}
    assert optuna.trial.TrialState.RUNNING not in states
    assert optuna.trial.TrialState.WAITING in states
    parents, children = stopped.runs
    assert [run.info.status for run in parents] == ["KILLED"]
    cut_off = [run for run in children if run.data.tags["outcome"] == "interrupted"]
    assert cut_off and all(run.info.status == "KILLED" for run in cut_off)

    continued = sweep_run(space, *unpaused)
    assert continued.exit_code == 0, continued.output
    parents, children = continued.runs
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert "going on after step" in log.read_text()
    curve = continued.study.trials[1].user_attrs["curve"]
    assert [point["index"] for point in curve] == list(range(1, len(curve) + 1))
    numbers = sorted(int(run.data.tags["trial_number"]) for run in children)
    assert numbers == list(range(3)) == [trial.number for trial in continued.study.trials]
    assert all(run.data.tags["outcome"] != "interrupted" for run in children)


@pytest.mark.long
def test_a_sweep_in_which_every_trial_fails_has_failed(tiny_base: Path, tmp_path: Path) -> None:
    space = write_space(tmp_path, tiny_base)
    broken = shutil.copytree(tiny_base, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    failed = sweep_run(space, "--set", "base_model=broken", "--trials", "2")
    assert failed.exit_code == 1
    assert "A worker cannot load the base model: SafetensorError" in failed.output
    assert "No trial reached an eval loss that counts" in failed.output
    parents, children = failed.runs
    assert {run.info.status for run in [*parents, *children]} == {"FAILED"}


def sweep_trial(space: Path, *options: str, stdin: str = "") -> Finished:
    words = ["trial", str(space), "--output", str(space.parent / "out"), "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "sweep", *words, *options],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
    )
    folder = space.parent / "out" / "tiny" / "alone" / "0"
    return Finished(folder, done.stdout + done.stderr, done.returncode)


def losses(curve: list[dict[str, float]]) -> list[tuple[float, float, float]]:
    return [(p["eval_loss"], p["train_loss"], p["grad_norm"]) for p in curve if p["index"] > 0]


def test_a_trial_alone_has_the_losses_of_the_sweeps_trial(tiny_base: Path, tmp_path: Path) -> None:
    space = write_space(tmp_path, tiny_base, epochs=4)
    swept = sweep_run(space, "--trials", "2", "--workers", "1", "--set", "pruning.outclassed=false")
    assert swept.exit_code == 0, swept.output
    written = sorted(path.name for path in swept.folder.iterdir())
    alone = sweep_trial(space, "--number", "1")
    assert alone.exit_code == 0, alone.output
    curve = json.loads((alone.folder / "curve.json").read_text())
    assert losses(curve) == losses(swept.study.trials[1].user_attrs["curve"])
    assert (alone.folder / "adapter" / "adapter_model.safetensors").exists()
    assert f"eval {curve[-1]['eval_loss']:.4f}" in alone.output
    assert sorted({path.name for path in swept.folder.iterdir()} - {"alone"}) == written


@pytest.mark.long
def test_a_trial_alone_that_fails_shows_its_traceback_or_opens_the_debugger(
    tiny_base: Path, tmp_path: Path
) -> None:
    space = write_space(tmp_path, tiny_base)
    broken = shutil.copytree(tiny_base, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    failed = sweep_trial(space, "--set", "base_model=broken")
    assert failed.exit_code == 1
    assert "Traceback" in failed.output and "(Pdb)" not in failed.output
    debugged = sweep_trial(space, "--set", "base_model=broken", "--pdb", stdin="p 20 + 3\nq\n")
    assert debugged.exit_code == 1
    assert "SafetensorError" in debugged.output and "(Pdb) 23" in debugged.output


def test_two_processes_in_one_sweep_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    space = write_space(tmp_path, tiny_base)
    (tmp_path / "out" / "tiny").mkdir(parents=True)
    holder = (
        "import sys, time; from pathlib import Path; from sweep.folder.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holding = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "out" / "tiny")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holding.stdout is not None and holding.stdout.readline() == "held\n"
    refused = sweep_run(space)
    holding.kill()
    holding.wait()
    holding.stdout.close()
    assert refused.exit_code == 2
    assert f"already running, as process {holding.pid} on" in refused.output


def test_answers_are_shown_where_they_are_wanted_and_nowhere_else(
    tiny_base: Path, tmp_path: Path
) -> None:
    space = write_space(tmp_path, tiny_base, epochs=4)
    swept = sweep_run(space, "--trials", "1", "--set", "answers=0")
    assert swept.exit_code == 0, swept.output
    rows = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    prompts = [row["prompt"] for row in rows]

    def shown() -> list[Path]:
        """Files of the report and of MLflow in which a prompt stands."""
        files = [path for path in (swept.folder / "mlartifacts").rglob("*") if path.is_file()]
        files += [*swept.folder.glob("mlflow*"), swept.folder / "report.html"]
        texts = {path: path.read_bytes().decode(errors="replace") for path in files}
        return [path for path, text in texts.items() if any(each in text for each in prompts)]

    assert shown() == []
    asked = sweep_run(space, "--trials", "1", "--set", "answers=2")
    assert "Answers to held-out prompts" in asked.output
    assert {path.name for path in shown()} == {"answers.json", "report.html"}
    (parent,), _ = swept.runs
    client = MlflowClient(f"sqlite:///{swept.folder}/mlflow.db")
    table = json.loads(
        Path(client.download_artifacts(parent.info.run_id, "answers.json")).read_text()
    )
    assert table["columns"] == ["prompt", "in the data", "base model", "trial 0 (winner)"]
    true = {row["prompt"]: row["completion"].strip() for row in rows}
    assert [row[1] for row in table["data"]] == [true[row[0]] for row in table["data"]]
    again = sweep_run(space, "--trials", "1", "--set", "answers=0")
    assert again.exit_code == 0 and "Starting Ray" not in again.output
    assert shown() == []
