"""What a user who made a mistake reads: the rule, the value, the place, the mend; no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sweep.cli.app import main
from sweep.space.loading import load_space
from tests import tiny
from trials.config import ConfigError, DataError, ModelConfig
from trials.data.examples import Reading
from trials.preparation.prepare import Request, prepare

HEAVY = ("torch", "transformers", "peft", "ray", "mlflow")

SPACE = """\
name: mine
base_model: smollm2-135m
data:
  train: data/train.jsonl
  eval: data/eval.jsonl
search:
  rank: [8, 16]
  learning_rate: {min: 5e-5, max: 1e-3, log: true}
"""
RATES = "{min: 5e-5, max: 1e-3, log: true}"

Sweep = Callable[..., str]
"""Runs the command and returns what it said on stderr."""


def rows(n: int, word: str = "train") -> str:
    row = '{{"prompt": "{0} {1}", "completion": "answer {1}"}}\n'
    return "".join(row.format(word, i) for i in range(n))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with good data."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/train.jsonl").write_text(rows(20))
    Path("data/eval.jsonl").write_text(rows(5, "eval"))
    return tmp_path


class Refusing:
    """Finds no module that is heavy."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in HEAVY:
            raise ImportError(f"{name} was imported")


@pytest.fixture
def nothing_heavy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever imports torch, Ray or MLflow fails, here and in any process that starts."""
    stubs = folder / "stubs"
    stubs.mkdir()
    for name in HEAVY:
        # Not None in its place: libraries look what there is of torch, and would find that.
        monkeypatch.delitem(sys.modules, name, raising=False)
        (stubs / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(stubs), str(Path(__file__).parents[1])]))


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Sweep:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr().err
        assert ended.value.code == 2, said
        assert "Traceback" not in said
        return said

    return run


def one_line(words: str) -> str:
    return " ".join(words.split())


BROKEN_SPACES = [
    # What stands in SPACE, what the user wrote in its place ("" adds it at the end), the message.
    ("  rank", "\trank", "line 7, column 1 not YAML: a tab is used here; YAML takes only spaces"),
    ("[8, 16]", "[8, 16", "line 8, column 16 not YAML: a comma or ] is missing before this"),
    ("[8, 16]", "[8, 16]]", "line 7, column 16 not YAML: ] closes nothing here; remove it."),
    ("  learning", "   learning", "line 8, column 4 not YAML: indented unlike the keys above"),
    ("rank:", "rank", "line 8, column 16 not YAML: no colon is allowed here; look for one missing"),
    ("base_model:", "base_model", "line 2, column 1 not YAML: must be `key: value`; a colon and"),
    ("mine", "'mine", "line 1, column 7 not YAML: a quotation mark opens here and never closes;"),
    ("mine", "my: own", "line 1, column 9 not YAML: no colon is allowed here; look for one miss"),
    ("mine", "*mine", "line 1, column 7 not YAML: a value cannot start with *; put it in quotat"),
    ("mine", "@mine", "line 1, column 7 not YAML: a value cannot start with @; put it in quotat"),
    ("", "  rank: [4]", "line 9, column 3 not YAML: `rank` is given twice; remove one of the two."),
    ("", "---\nname: b", "line 9, column 1 not YAML: a file holds one space, but a second starts"),
    ("", "bugdet: {trials: 3}", "line 9 bugdet: no such setting; did you mean `budget`?"),
    ("", "base-model: x", "line 9 base-model: no such setting; did you mean `base_model`?"),
    ("", "größe: 3", "line 9 größe: no such setting here. There are: name, base_model, "),
    ("", "5: 3", "line 9 5: no such setting here. There are: name, base_model, "),
    ("", "rank: 8", "line 9 rank: no such setting here; `rank` belongs under `search`; write `sea"),
    (
        "",
        "lr: 1e-4",
        "line 9 lr: is `search.learning_rate` here; write `search: {learning_rate: 0.0",
    ),
    (
        "",
        "trials: 9",
        "line 9 trials: no such setting here; `trials` belongs under `budget`; write `b",
    ),
    ("learning_rate", "lr", "line 8 search.lr: is `learning_rate` here; write `learning_r"),
    ("", "  lora_alpha: 16", "line 9 search.lora_alpha: is `alpha` here; write `alpha: 16`."),
    ("", "  aplha: 16", "line 9 search.aplha: no such setting; did you mean `alpha`?"),
    ("", "  seed: [1, 2]", "line 9 search.seed: no such setting here; `seed` belongs at the"),
    (
        "min: 5e-5",
        "min: 0.01",
        "line 8 search.learning_rate: min (0.01) must be below max (0.001).",
    ),
    ("min: 5e-5", "min: 0", "line 8 search.learning_rate.min: must be above 0, not 0."),
    ("min: 5e-5, ", "", "line 8 search.learning_rate: a range needs min: write {min: …, max: …}."),
    ("min: 5e-5", "low: 5e-5", "line 8 search.learning_rate.low: no such key of a range; did you"),
    ("log: true", "log: yes", "search.learning_rate.log: must be true or false, not 'yes'."),
    (
        "log: true",
        "log: true, step: 1e-5",
        "log and step exclude each other; remove one of the two.",
    ),
    (RATES, "'2e-4 '", "search.learning_rate: must be a number, not '2e-4 '; remove the quotation"),
    (RATES, "2", "line 8 search.learning_rate: must be at most 1, not 2."),
    (RATES, "", "line 8 search.learning_rate: must be a number, not nothing."),
    ("", "  dropout: {min: 0, max: 0.1, log: true}", "must be above 0 in a log range, not 0."),
    ("", "  dropout: -0.1", "line 9 search.dropout: must be at least 0, not -0.1."),
    ("", "  dropout: 1", "line 9 search.dropout: must be below 1, not 1."),
    ("", "  epochs: -1", "line 9 search.epochs: must be above 0, not -1."),
    ("", "  epochs: {min: 1, max: 4, step: 2}", "max: must be min plus a multiple of step, not 4;"),
    ("[8, 16]", "[]", "line 7 search.rank: must hold at least one value, not an empty list."),
    ("[8, 16]", "[8, 16.5]", "line 7 search.rank[1]: must be a whole number, not 16.5."),
    ("[8, 16]", "[8, 16.0]", "line 7 search.rank[1]: must be a whole number, not 16.0; write 16."),
    ("[8, 16]", "[8, 8]", "line 7 search.rank[1]: 8 is listed twice; remove one."),
    ("", "  use_rslora: yes", "line 9 search.use_rslora: must be true or false, not 'yes'."),
    ("", "  lr_scheduler: cosin", "must be one of cosine, linear, constant, warmup_stable_decay,"),
    ("", "  alpha: {times_rank: [1], max: 2}", "search.alpha.max: no such key beside times_rank"),
    ("", "  alpha: [{times_rank: 1}]", "times_rank cannot be in a list: write alpha: {times_rank:"),
    ("", "  alpha: {time_rank: 1}", "search.alpha.time_rank: no such key of a range; did you mean"),
    ("", "  epochs: {times_rank: 1}", "search.epochs.times_rank: only alpha can be a multiple"),
    ("", "start_with: {rank: 8}", "line 9 start_with: must be a list, `- {rank: 16, …}` for each"),
    ("", "start_with:\n  - {rank: 32}", "line 10 start_with[0].rank: 32 is outside search.rank ("),
    ("", "start_with:\n  - {rnak: 8}", "line 10 start_with[0].rnak: no such setting; did you mean"),
    ("", "start_with:\n  - {alpha: 8}", "start_with[0].alpha: needs a rank beside it, since"),
    ("mine", "my/sweep", "line 1 name: must be a valid folder name"),
    ("mine", "my sweep", "at most 100), not 'my sweep'; write my-sweep."),
    ("mine", "2024", "line 1 name: must be text, not the number 2024; put it in quotation marks."),
    (
        "",
        "sampler: bayes",
        "line 9 sampler: must be one of tpe, gp, qmc, random, grid, not 'bayes'; write tpe.",
    ),
    ("", "sampler: grid", "line 8 search.learning_rate: a grid needs lists or ranges with a step;"),
    ("", "budget: {trials: 0}", "line 9 budget.trials: must be at least 1, not 0."),
    ("", "budget: {hours: -2}", "line 9 budget.hours: must be above 0, not -2."),
    ("", "budget: {hours: .inf}", "line 9 budget.hours: must be finite, not inf."),
    ("", "budget: 24", "line 9 budget: must be keys and values, not 24; write `budget: {trials:"),
    ("", "budget:", "line 9 budget: has no value; give it one, or remove the key."),
    ("", "pruning: false", "line 9 pruning: must be keys and values, not false; write `pruning: {"),
    ("", "pruning: {overfit: true}", "line 9 pruning.overfit: must be false, or keys and values,"),
    ("", "pruning: {overfit: {patiense: 1}}", "pruning.overfit.patiense: no such setting; did yo"),
    (
        "",
        "compute_dtype: fp16",
        "line 9 compute_dtype: must be one of auto, bfloat16, float16, floa",
    ),
    ("", "torch_dtype: auto", "line 9 torch_dtype: is `compute_dtype` here; write `compute_d"),
    ("", "gpus_per_trial: 0", "line 9 gpus_per_trial: must be a whole number of GPUs from 1, or"),
    ("", "gpus_per_trial: 1.5", "line 9 gpus_per_trial: must be a whole number of GPUs from 1, or"),
    ("", "gpus_per_trial: two", "line 9 gpus_per_trial: must be a whole number of GPUs from 1, or"),
    (
        "",
        "gpus_per_trial: 3",
        "line 9 gpus_per_trial: search.effective_batch_size is not given, an",
    ),
    ("", "checkpoint_minutes: 0", "line 9 checkpoint_minutes: must be above 0, not 0."),
    ("", "  use_dora: maybe", "line 9 search.use_dora: must be true or false, not 'maybe'."),
    (
        "",
        "backend: unsloth\ncompute_dtype: float32",
        "line 10 compute_dtype: Unsloth's kernels compute in 16 bits; write auto, or backend: tran",
    ),
    (
        "",
        "backend: unsloth\ngpus_per_trial: 2",
        "line 10 gpus_per_trial: Unsloth trains on one GPU, not on 2; write 1, or backend: transfo",
    ),
    ("", "micro_batch_size: 0", "line 9 micro_batch_size: must be auto, or a whole number of row"),
    (
        "data/eval.jsonl",
        "1.5",
        "line 5 data.eval: must be a file of rows, a list of files, or a share of train",
    ),
    ("data/eval.jsonl", "10%", "data.eval: must be a file or a number such as 0.1 (no % and no q"),
    ("  eval: data/eval.jsonl\n", "", "line 3 data.eval: is missing; a file of rows, or a share"),
    ("train.jsonl", "trian.jsonl", "no such file: data/trian.jsonl; did you mean data/train.jso"),
    ("train.jsonl", "train", "no such file: data/train; did you mean data/train.jsonl?"),
    ("data/train.jsonl", "~/train.jsonl", "no such file: ~/train.jsonl; write the full path in"),
    ("base_model: smollm2-135m\n", "", "line 1 base_model: is missing; a hub id, a folder, or"),
    (" smollm2-135m", "", "line 2 base_model: has no value; a hub id, a folder, or the built-in"),
    ("smollm2-135m", "smollm2-135", "no such model: smollm2-135; did you mean smollm2-135m?"),
    ("smollm2-135m", "./nowhere", "line 2 base_model: no such folder: ./nowhere (paths start at"),
    ("smollm2-135m", "./data", "must hold config.json, a tokenizer (tokenizer.json), weights (mo"),
    (
        "",
        "revision: ../../x",
        "line 9 revision: must be a branch, a tag or a commit of the hub, not",
    ),
    (
        "",
        "seed: !!python/name:os.system",
        "line 9, column 7 a tag (tag:yaml.org,2002:python/name:o",
    ),
    ("", "seed: &a [*a]", "line 9, column 11 *a would contain itself; remove it."),
    ("", f"seed: {'[' * 3000}", "line 9, column 25 nested more than 20 levels deep."),
    ("", f"seed: {'9' * 5000}", "line 9, column 7 a number above 64 bits; write a smaller"),
    ("", 'seed: "\\ud800"', "line 9, column 7 half of a character (a lone surrogate); write the"),
    ("", "{a: 1}: 2\n? [[a]]\n: 3", "a key must be text, not a list or a mapping."),
    ("", "budget: {hours: 1e300}", "line 9 budget.hours: must be at most 100000, not 1e+300."),
    ("", "sampler: grid\nbudget: {hours: .nan}", "line 10 budget.hours: must be finite, not nan."),
    ("data/train.jsonl", "a/" * 3000, "data.train: 'a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a"),
    ("smollm2-135m", "data/eval.jsonl", "must be a hub id or a folder, but data/eval.jsonl is a"),
    (SPACE[SPACE.index("search") :], "", "search: is missing; name what to search, such as `rank:"),
    (
        SPACE,
        "- a\n- b\n",
        "mine.yaml: must be keys and values such as `name: my-sweep`, not a list.",
    ),
    (SPACE, "", "mine.yaml: is empty. Start from a copy of search_spaces/quickstart.yaml."),
]


@pytest.mark.parametrize(("right", "wrong", "message"), BROKEN_SPACES)
@pytest.mark.usefixtures("nothing_heavy")
def test_a_broken_space_is_put_in_words(sweep: Sweep, right: str, wrong: str, message: str) -> None:
    assert SPACE.count(right) == 1 or not right
    Path("mine.yaml").write_text(SPACE.replace(right, wrong) if right else f"{SPACE}{wrong}\n")
    said = one_line(sweep("check", "mine.yaml", "--workers", "1"))
    assert said.startswith("mine.yaml: ")
    assert message in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"name: caf\xe9\n",
            "must be UTF-8 text, but byte 9, on line 1, is not (0xe9). Save it as",
        ),
        (SPACE.encode("utf-16"), "must be UTF-8 text, but byte 0, on line 1, is not (0xff). Save"),
        (b"PK\x03\x04\0\0", "must be YAML text, but is a binary file."),
        (b"#" * 300_000, "must be a space of at most 256 KiB, but is larger. If it is the data,"),
    ],
)
@pytest.mark.usefixtures("nothing_heavy")
def test_a_file_that_is_no_text_is_refused(sweep: Sweep, content: bytes, message: str) -> None:
    Path("mine.yaml").write_bytes(content)
    assert f"mine.yaml: {message}" in sweep("run", "mine.yaml")


LAUGHS = "a0: &a0 [lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.usefixtures("nothing_heavy")
def test_a_few_lines_that_are_billions_of_values_are_refused(sweep: Sweep) -> None:
    Path("mine.yaml").write_text(LAUGHS + SPACE)
    assert "line 5, column 40   more than 10,000 values once alia" in sweep("run", "mine.yaml")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: os.mkfifo(path), "must be a regular file, but is a pipe or a device."),
        (lambda path: path.symlink_to("/dev/zero"), "must be a regular file, but is a pipe"),
        (lambda path: path.symlink_to(path.name), "is a broken link. Fix it, or name the file"),
    ],
)
@pytest.mark.usefixtures("nothing_heavy")
def test_what_has_no_end_is_not_read(
    sweep: Sweep, make: Callable[[Path], None], message: str
) -> None:
    make(Path("mine.yaml"))
    assert f"mine.yaml: {message}" in sweep("check", "mine.yaml")
    make(Path("data/odd.jsonl"))
    Path("good.yaml").write_text(SPACE.replace("train.jsonl", "odd.jsonl"))
    said = sweep("check", "good.yaml", "--workers", "1")
    assert (
        "must be a regular file, but it is a device or a pipe" in said or "is a broken link" in said
    )


def test_anchors_and_merges_are_read() -> None:
    start = "start_with:\n  - &a {rank: 8}\n  - {<<: *a, learning_rate: 1e-4}\n"
    Path("mine.yaml").write_text(SPACE + start)
    assert load_space(Path("mine.yaml")).starts[1].values == {"rank": 8, "learning_rate": 1e-4}


@pytest.mark.usefixtures("nothing_heavy")
def test_a_grid_that_no_memory_holds_is_refused(sweep: Sweep) -> None:
    Path("mine.yaml").write_text(
        SPACE.replace(RATES, "1e-4") + "  max_length: {min: 2, max: 4000000}\nsampler: grid\n"
    )
    assert "sampler: a grid has at most 100,000 points, not 7,999,998;" in sweep("run", "mine.yaml")


@pytest.mark.usefixtures("nothing_heavy")
def test_every_problem_of_a_space_is_said_at_once(sweep: Sweep) -> None:
    Path("mine.yaml").write_text(
        SPACE.replace("[8, 16]", "[8, -16]").replace("train.jsonl", "trian.jsonl")
        + "  aplha: 16\n"
        + "sampler: grid\n"
        + "budget: {trials: 0, hour: 3}\n"
        + "start_with:\n  - {lr: 1, learning_rate: 0.5}\n"
    )
    assert sweep("run", "mine.yaml").splitlines() == [
        "mine.yaml: 8 problems",
        "  line 4    data.train: no such file: data/trian.jsonl; did you mean data/train.jsonl?",
        "  line 7    search.rank[1]: must be above 0, not -16.",
        "  line 8    search.learning_rate: a grid needs lists or ranges with a step; give one, or "
        "choose another sampler.",
        "  line 9    search.aplha: no such setting; did you mean `alpha`?",
        "  line 11   budget.trials: must be at least 1, not 0.",
        "  line 11   budget.hour: no such setting; did you mean `hours`?",
        "  line 13   start_with[0].lr: is `learning_rate` here; write `learning_rate: 1`.",
        "  line 13   start_with[0].learning_rate: 0.5 is outside search.learning_rate "
        "(5e-05 … 0.001, log); change it, or widen the search.",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("check mien.yaml", "mien.yaml: no such file; did you mean mine.yaml?"),
        ("check nowhere/mine.yaml", "nowhere/mine.yaml: no such file."),
        ("check data", "data: must be a YAML file, but is a folder; name the file in it."),
        ("check", "Missing argument 'SPACE.yaml'."),
        ("run", "sweep run: needs SPACE.yaml, or --resume for a sweep that has begun."),
        ("run --resume", "waits to go on. Begin one: sweep run FILE."),
        ("run --resume mine.yaml", "--resume mine.yaml: must be a sweep's name, but is a file."),
        ("run --resume mine", "sweeps/mine: no such sweep. There is none yet."),
        ("run --resume mine --name x", "--resume and --name: a sweep keeps its name; leave"),
        ("rnu mine.yaml", "No such command 'rnu'. Did you mean 'run'?"),
        ("run mine.yaml --workers 1 --gpus 1", "--workers and --gpus: trials run on CPUs or on"),
        ("run mine.yaml --trials 0", "Invalid value for '--trials': "),
        ("run mine.yaml --hours 0", "--hours 0.0 budget.hours: must be above 0, not 0.0."),
        ("run mine.yaml --output mine.yaml", "--output mine.yaml: must be a writable folder: "),
        ("run mine.yaml --output mine.yaml/x", "--output mine.yaml/x: must be a writable folder: "),
        ("check mine.yaml --name a/b", '--name "a/b" name: must be a valid folder name'),
        ("check mine.yaml --seed -1", "--seed -1 seed: must be at least 0, not -1."),
        ("check mine.yaml --seed x", "Invalid value for '--seed': "),
        (
            "check mine.yaml --set rank",
            "--set rank: must be KEY=VALUE, such as --set search.epochs",
        ),
        ("check mine.yaml --set =3", "--set =3: must be KEY=VALUE, such as --set search.epochs"),
        ("check mine.yaml --set serach.rank=8", "--set serach.rank=8 serach: no such setting; did"),
        ("check mine.yaml --set search.rnk=8", "--set search.rnk=8 search.rnk: no such setting; d"),
        ("check mine.yaml --set search.rank=", "--set search.rank= search.rank: must be a number,"),
        ("check mine.yaml --set search.rank=[8,", "--set search.rank=[8,: the value is not YAML."),
        ("check mine.yaml --set name=2024-13-45", "--name 2024-13-45: the value is not YAML. Quot"),
        ("check mine.yaml --set name.x=3", "--set name.x=3 name: must be text, not keys and value"),
        ("run mine.yaml --hours -1", "--hours -1.0 budget.hours: must be above 0, not -1.0."),
        (
            'trial mine.yaml --params {"rnk":8}',
            "--params: 1 problem rnk: no such setting; did you me",
        ),
        ("trial mine.yaml --params 8", "--params 8: must be hyperparameters and values, such as"),
        ("trial mine.yaml --number 3", "--number 3: sweeps/mine has no such trial. There is none"),
        ("trial mine.yaml --number -1", "Invalid value for '--number': "),
        ("trial mine.yaml --number 3 --params {}", "--params and --number: both set the hyper"),
        (
            "submit mine.yaml --mlflow http://me:secret@there",
            "--mlflow: must hold no password, since the cluster's dashboard would show it.",
        ),
        (
            "submit mine.yaml --env MLFLOW_TRACKING_URI",
            "MLFLOW_TRACKING_URI: must hold no password, since the cluster's dashboard would",
        ),
        (
            "submit mine.yaml --study postgresql://me:secret@there/db",
            "Set PGPASSWORD and pass it: --env PGPASSWORD",
        ),
        ("ui nothing", "sweeps/nothing: no such sweep. There is none yet. Look elsewhere with --o"),
    ],
)
@pytest.mark.usefixtures("nothing_heavy")
def test_a_mistyped_command_is_put_in_words(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    if "MLFLOW_TRACKING_URI" in arguments:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@there")
    Path("mine.yaml").write_text(SPACE)
    assert message in one_line(sweep(*arguments.split(" ")))


def process(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_itself_exits_with_2_and_says_it_on_stderr() -> None:
    Path("mine.yaml").write_text(SPACE.replace("rank", "rnak"))
    done = process(str(Path(sys.executable).with_name("sweep")), "run", "mine.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "mine.yaml: 1 problem\n  line 7   search.rnak: no such setting; did you mean `rank`?\n"
    )


@pytest.mark.parametrize("command", ["run", "check", "trial"])
def test_a_broken_space_is_told_before_anything_heavy_is_imported(command: str) -> None:
    Path("mine.yaml").write_text(SPACE.replace("rank", "rnak"))
    code = f"""if True:
        import sys
        from sweep.cli.app import main
        sys.argv = ["sweep", "{command}", "mine.yaml"]
        try:
            main()
        finally:
            print(sorted({{*{HEAVY}}} & sys.modules.keys()))
    """
    done = process(sys.executable, "-c", code)
    assert (done.returncode, done.stdout) == (2, "[]\n")


BROKEN_DATA: Sequence[tuple[str, str | bytes, str]] = [
    ("train.jsonl", "", "data/train.jsonl must hold rows, but it is empty (0 bytes)."),
    ("train.jsonl", "\n \n", "data/train.jsonl must hold rows, but all its lines are blank."),
    (
        "train.jsonl",
        rows(16) + "{'prompt': 'x'}\n" + rows(3, "more"),
        "line 17 of data/train.jsonl: must be JSON, found a fault at column 2, near "
        "'{'prompt': 'x'}' (Expecting property name enclosed in double quotes). Fix or remove ",
    ),
    (
        "train.jsonl",
        '{"question": "a", "answer": "b"}\n',
        "found `question`, `answer`. Say which column is which, such as data.columns: {prompt: ",
    ),
    ("train.jsonl", bytes(range(256)), "must be text, but it is a binary file: byte 0 is NUL."),
    (
        "train.jsonl",
        '{"prompt": "caf\xe9", "completion": "x"}\n'.encode("latin-1"),
        "must be UTF-8, but byte 15, on line 1, is not (0xe9). It may be latin-1. Convert it: ico",
    ),
    (
        "train.jsonl",
        json.dumps([{"prompt": "a", "completion": "b"}]),
        "must hold one JSON object per line, but it is a single JSON value. Let its name end in ",
    ),
    ("train.json", rows(3), "data/train.json: must be JSON, found a fault at line 2, column 1"),
    ("train.txt", rows(3), "the suffix of data/train.txt must be .jsonl, .ndjson, .json, .csv, "),
    ("train.csv", "prompt;completion\na;b\n", "must be separated by a comma, found a semicolon. "),
    ("train.csv", "prompt,completion\na,b,c\n", "row 1 of data/train.csv: must"),
    ("train.parquet", "no", "data/train.parquet is not a complete Parquet file: "),
    (
        "train.jsonl.gz",
        rows(3),
        "data/train.jsonl.gz is not complete gzip data: Not a gzipped file",
    ),
    (
        "train.jsonl",
        '{"prompt": "a", "completion": ""}\n',
        "line 1 of data/train.jsonl: `completion` must not be empty, found ''. Fix or remove ",
    ),
    (
        "train.jsonl",
        '{"messages": [{"role": "user", "content": "hello"}]}\n',
        "a conversation must end with a turn of the assistant, found one of the user. Fix or rem",
    ),
    (
        "train.jsonl",
        rows(3) + rows(2, "eval"),
        "data.eval: 2 of its 5 rows are also train rows, so eval loss would reward memorising",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN_DATA)
@pytest.mark.usefixtures("nothing_heavy")
def test_broken_data_is_put_in_words(
    sweep: Sweep, name: str, content: str | bytes, message: str
) -> None:
    Path("mine.yaml").write_text(SPACE.replace("train.jsonl", name))
    Path("data", name).write_bytes(content.encode() if isinstance(content, str) else content)
    said = sweep("check", "mine.yaml", "--workers", "1")
    assert said.startswith(("data.train: ", "data.eval: "))
    assert message in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "train: data",
            "data.train: data must be a file, but it is a folder. Name a file, such as",
        ),
        ("train: a/b", "data.train: a/b:train cannot be read from the hub: "),
        ("columns: {promt: prompt}", "found `promt`; did you mean `prompt`? Write our name first"),
        (
            "columns: {text: boby}",
            "data.columns takes `text` from `boby`, which is not a column of",
        ),
        ("template: '{promt}'", "found {promt}; did you mean `prompt`? Write {{ and }} for a brac"),
        ("template: '{prompt'", "data.template cannot be read: expected '}' before end of string."),
        ("eval: 0.5", "data.eval: a fraction needs at least two different training rows, found 1"),
    ],
)
@pytest.mark.usefixtures("nothing_heavy")
def test_data_settings_that_do_not_fit_the_file_are_put_in_words(
    sweep: Sweep, given: str, message: str
) -> None:
    Path("data/train.jsonl").write_text(rows(1))
    key = given.split(":")[0]
    data = {"train": "train: data/train.jsonl", "eval": "eval: data/eval.jsonl", key: given}
    lines = "".join(f"  {line}\n" for line in data.values())
    Path("mine.yaml").write_text(f"base_model: smollm2-135m\ndata:\n{lines}search: {{rank: 8}}\n")
    assert message in sweep("run", "mine.yaml", "--workers", "1")


@pytest.mark.usefixtures("nothing_heavy")
def test_the_problems_of_both_files_are_said_at_once(sweep: Sweep) -> None:
    Path("mine.yaml").write_text(SPACE)
    Path("data/train.jsonl").write_text(rows(2) + "oh\n" + rows(2) + "no\n")
    Path("data/eval.jsonl").write_text("")
    said = sweep("check", "mine.yaml", "--workers", "1").splitlines()
    begins = ["data.train: 2 rows of data/train.jsonl: must be JSON", "data.eval: data/eval.jsonl"]
    assert [line[: len(begin)] for line, begin in zip(said, begins, strict=True)] == begins


def test_rows_that_are_all_too_long_are_told_with_the_shortest(sweep: Sweep) -> None:
    Path("mine.yaml").write_text(SPACE.replace("search:", "  max_length: 4\nsearch:"))
    assert sweep("check", "mine.yaml", "--workers", "1") == (
        "data.train: none of its 20 rows keeps a completion token within max_length 4: "
        "the shortest has 38 tokens. Raise data.max_length.\n"
    )


@pytest.fixture
def asked(folder: Path) -> Request:
    """What `sweep` asks of `trials.preparation.prepare`."""
    return Request(
        train=str(folder / "data/train.jsonl"),
        eval=str(folder / "data/eval.jsonl"),
        reading=Reading(),
        chat=None,
        loss_on="completion",
        model=model("smollm2-135m"),
        max_lengths=[512],
        n_evaluations=20,
        sample_rows=256,
        smallest_epochs=1.0,
        smallest_batch=8,
        adapters=tiny.ADAPTERS,
        micro_batch_size=8,
        optimizer="adamw",
        seed=0,
        output_dir=str(folder / "prepared"),
    )


def model(name: str) -> ModelConfig:
    return ModelConfig(
        name=name,
        revision=None,
        quantization="none",
        compute_dtype="auto",
        backend="transformers",
        max_length=64,
        trust_remote_code=False,
    )


def test_a_model_that_the_hub_cannot_give_is_told(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"base_model: nobody/nothing cannot be read: .*Give a"):
        prepare(replace(asked, model=model("nobody/nothing")))


def test_a_model_folder_with_a_broken_config_is_told(asked: Request, folder: Path) -> None:
    (folder / "config.json").write_text("{oh no")
    with pytest.raises(ConfigError, match=r"base_model: .* is not a valid JSON file\. Give a hub"):
        prepare(replace(asked, model=model(str(folder))))


def test_nothing_is_left_of_a_preparation_that_failed(asked: Request, folder: Path) -> None:
    with pytest.raises(DataError, match=r"Raise data\.max_length"):
        prepare(replace(asked, max_lengths=[2]))
    assert sorted(path.name for path in folder.iterdir()) == ["data"]


@pytest.mark.usefixtures("nothing_heavy")
def test_plain_texts_are_not_rendered_as_chat(asked: Request) -> None:
    Path("data/train.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(DataError, match=r"data\.chat: true needs rows with prompt and completion"):
        prepare(replace(asked, chat=True))
