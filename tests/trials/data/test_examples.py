"""What `read_examples` makes of good files, and what it says about broken ones."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trials.config import DataError
from trials.data import table
from trials.data.examples import (
    Example,
    Message,
    Reading,
    fingerprint,
    looks_like_hub_id,
    read_examples,
    shared_rows,
    split,
)

PLACE = "train.jsonl line 1"
ASKED = {"role": "user", "content": "2+2?"}
ANSWERED = {"role": "assistant", "content": "4"}
CONVERSATION = Example(
    (Message("user", "2+2?"), Message("assistant", "4")), None, None, None, PLACE
)
PAIR = {"prompt": "2+2?", "completion": "4"}


def pair(prompt: str, completion: str, place: str = PLACE) -> Example:
    return Example(None, prompt, completion, None, place)


def plain(text: str, place: str = PLACE) -> Example:
    return Example(None, None, None, text, place)


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, content: str | bytes) -> str:
    path = Path.cwd() / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def read(
    source: str, columns: Mapping[str, str] | None = None, template: str | None = None
) -> list[Example]:
    reading = Reading(columns=columns or {}, template=template)
    return read_examples(source, key="data.train", reading=reading).examples


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"messages": [ASKED, ANSWERED]}, CONVERSATION),
        (
            {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
            CONVERSATION,
        ),
        (PAIR, pair("2+2?", "4")),
        ({"prompt": [ASKED], "completion": [ANSWERED]}, CONVERSATION),
        ({"instruction": "Add.", "input": "2 2", "output": "4"}, pair("Add.\n\n2 2", "4")),
        ({"instruction": "2+2?", "input": "", "output": "4"}, pair("2+2?", "4")),
        ({"instruction": "2+2?", "output": "4", "text": "all of it"}, pair("2+2?", "4")),
        ({"text": "2+2=4", "score": float("nan")}, plain("2+2=4")),
        ({"text": "one\u2028line"}, plain("one\u2028line")),
    ],
)
def test_every_row_format_has_its_normal_form(row: object, example: Example) -> None:
    assert read(write("train.jsonl", json.dumps(row, ensure_ascii=False))) == [example]


def test_columns_give_the_files_own_names_to_a_format() -> None:
    source = write("train.jsonl", lines({"question": "2+2?", "answer": "4", "text": "not this"}))
    assert read(source, {"prompt": "question", "completion": "answer"}) == [pair("2+2?", "4")]


def test_columns_may_swap_names() -> None:
    source = write("train.jsonl", lines(PAIR))
    swapped = read(source, {"prompt": "completion", "completion": "prompt"})
    assert swapped == [pair("4", "2+2?")]


def test_a_template_makes_the_text_of_each_row() -> None:
    source = write("train.jsonl", lines({"q": "{q}?", "a": "4"}))
    assert read(source, template="{{Q}}: {q}\n{a}") == [plain("{Q}: {q}?\n4")]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("t.jsonl", "\n" + lines(PAIR), "t.jsonl line 2"),
        ("t.NDJSON", codecs.BOM_UTF8 + lines(PAIR).encode(), "t.NDJSON line 1"),
        ("t.jsonl.gz", gzip.compress(lines(PAIR).encode(), mtime=0), "t.jsonl.gz line 1"),
        ("t.json", json.dumps([PAIR], indent=1), "t.json row 1"),
        ("t.json", json.dumps({"version": 1, "data": [PAIR]}), "t.json row 1"),
        ("t.csv", 'prompt,completion\r\n\r\n"2+2?",4\r\n', "t.csv row 1"),
        ("t.tsv", "prompt\tcompletion\n2+2?\t4", "t.tsv row 1"),
        ("t.parquet", parquet(pa.table({k: [v] for k, v in PAIR.items()})), "t.parquet row 1"),
    ],
)
def test_every_file_format_gives_the_same_row(name: str, content: str | bytes, place: str) -> None:
    assert read(write(name, content)) == [pair("2+2?", "4", place)]


def test_parquet_may_hold_conversations() -> None:
    table = pa.table({"messages": [[ASKED, ANSWERED]]})
    assert read(write("t.parquet", parquet(table)))[0].messages == CONVERSATION.messages


def test_a_csv_field_may_be_long_and_hold_line_breaks() -> None:
    long = "word\n" * 50_000
    assert read(write("t.csv", f'text\n"{long}"\n'))[0].text == long


BROKEN_FILES = [
    ("t.jsonl", "", "t.jsonl must hold rows, but it is empty"),
    ("t.jsonl", " \n\n", "all its lines are blank"),
    (
        "t.jsonl",
        lines(PAIR) + '{"prompt": "a" "comp',
        "line 2 of t.jsonl: must be JSON, found a fault at column",
    ),
    ("t.jsonl", "[" * 100_000, "line 1 of t.jsonl: must not be nested so deeply"),
    ("t.jsonl", "1" * 5000, "line 1 of t.jsonl: must not hold a number of"),
    ("t.jsonl", lines(PAIR, [1]), "line 2 of t.jsonl: must be a JSON object .* found a list"),
    ("t.jsonl", json.dumps([PAIR], indent=1), "name end in .json"),
    ("t.jsonl", b"\x00\x01\x02", "binary file: byte 0 is NUL"),
    (
        "t.jsonl",
        b'{"text": "a"}\n{"text": "caf\xe9"}\n',
        "byte 27, on line 2.*iconv -f latin1 -t UTF-8",
    ),
    ("t.jsonl", b'{"text": "\x93a\x94"}', "iconv -f windows-1252"),
    ("t.jsonl", '{"text": "é'.encode()[:-1], "cut short"),
    ("t.jsonl", '{"text": "a"}'.encode("utf-16"), "begins as UTF-16 does.*iconv -f UTF-16"),
    ("t.jsonl", b"%PDF-1.7\n", "it is a PDF"),
    ("t.csv", b"PK\x03\x04", "a ZIP archive or an Office document"),
    ("t.jsonl", b"\n<!DOCTYPE html>", "it is a web page"),
    ("t.jsonl", gzip.compress(b"{}", mtime=0), "it is gzip data. Add .gz"),
    ("t.jsonl", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    ("t.parquet", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    ("t.jsonl.gz", b"{}", "is not complete gzip data"),
    ("t.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], "is not complete gzip data"),
    (
        "t.json",
        '[\n{"text": "a"},\n{"text" "b"}]',
        "t.json: must be JSON, found a fault at line 3, column 9",
    ),
    ("t.json", lines(PAIR, PAIR), "let its name end in .jsonl"),
    ("t.json", '{"a": [], "b": []}', "found lists under `a`, `b`"),
    ("t.json", '{"a": 1}', "found no list under `a`"),
    ("t.json", "3", "must be a list of objects.* found the number 3"),
    ("t.json", "[]", "must hold rows, but it has none"),
    ("t.json", '[{"text": "a"}, null]', "row 2 of t.json: must be a JSON object .* found null"),
    ("t.csv", "prompt,completion\n", "must hold rows, but it has none"),
    (
        "t.csv",
        "prompt,completion\na,b\na,b,c\n",
        "row 2 .* 2 fields.* found 3 in the row that ends on line 3",
    ),
    ("t.csv", 'prompt,completion\na,b\na,"b\n', "row 2 of t.csv is not CSV"),
    ("t.csv", "text,text\na,b\n", "found twice: `text`"),
    ("t.csv", "prompt;completion\na;b\n", "separated by a comma, found a semicolon"),
    ("t.parquet", b"PAR1 no more", "is not a complete Parquet file"),
    ("t.parquet", parquet(pa.table({"text": ["a"]}))[:-20], "is not a complete Parquet file"),
    ("t.parquet", parquet(pa.table({"text": pa.array([], "string")})), "it has none"),
    ("t.parquet", parquet(pa.table([["a"], ["b"]], names=["text", "text"])), "found twice: `text`"),
    ("t.xlsx", "a", "must be .jsonl, .*found '.xlsx'"),
]


@pytest.mark.parametrize(("name", "content", "words"), BROKEN_FILES)
def test_a_broken_file_is_refused_in_words(name: str, content: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=f"^data.train: .*{words}"):
        read(write(name, content))


BROKEN_ROWS = [
    ({"text": " "}, "`text` must not be empty"),
    ({"text": None}, "`text` must be text, found null"),
    ({"text": "\ud83d"}, "lone surrogate"),
    ({"prompt": "a", "completion": ""}, "`completion` must not be empty"),
    ({"prompt": "a", "completion": 4}, "`completion` must be text, found the number 4"),
    ({"prompt": ["2+2?"], "completion": "4"}, "turn 1 of `prompt` must be an object"),
    ({"instruction": "a", "input": 3, "output": "b"}, "`input` must be text, found the number 3"),
    ({"messages": []}, "must end with a turn of the assistant, found no turns"),
    (
        {"messages": [ANSWERED, ASKED]},
        "must end with a turn of the assistant, found one of the user",
    ),
    ({"messages": "hello"}, "`messages` must be a list such as .* found the text 'hello'"),
    ({"messages": [ASKED, "4"]}, "turn 2 of `messages` must be an object, found the text '4'"),
    ({"messages": [{"content": "4"}]}, "must have `role` and `content` .* found `content`"),
    ({"messages": [{"role": "boss", "content": "4"}]}, "role of turn 1 .* found the text 'boss'"),
    ({"messages": [ASKED, {"role": "assistant", "content": None}]}, "must be text, found null"),
    (
        {"messages": [ASKED, {**ANSWERED, "tool_calls": [{}]}]},
        "a call in `tool_calls` of turn 2 .* found an object",
    ),
]


@pytest.mark.parametrize(("row", "words"), BROKEN_ROWS)
def test_a_broken_row_is_refused_with_its_place(row: object, words: str) -> None:
    with pytest.raises(DataError, match=f"^data.train: line 1 of t.jsonl: .*{words}"):
        read(write("t.jsonl", lines(row)))


def test_a_row_of_another_format_is_the_one_called_wrong() -> None:
    source = write("t.jsonl", lines({"text": "odd"}, PAIR, PAIR))
    with pytest.raises(DataError, match=r"line 1 of t.jsonl: .* here `prompt` .* found `text`"):
        read(source)


def test_unknown_columns_are_answered_with_the_formats_and_the_mend() -> None:
    source = write("t.jsonl", lines({"question": "a", "answer": "b"}))
    words = "`instruction` .* found `question`, `answer`.* data.columns: {prompt: "
    with pytest.raises(DataError, match=words):
        read(source)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"prompt": "promt", "completion": "completion"}, "did you mean `prompt`. Its columns"),
        ({"promt": "prompt"}, "found `promt`; did you mean `prompt`"),
        ({"prompt": "prompt", "output": "completion"}, "one format .* found `prompt`, `output`"),
    ],
)
def test_a_wrong_column_mapping_is_refused(columns: dict[str, str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(write("t.jsonl", lines(PAIR)), columns)


@pytest.mark.parametrize(
    "template",
    [
        "{prompt.__class__}",
        "{prompt[0]}",
        "{prompt!r}",
        "{prompt:>9}",
        "{}",
        "{promt}",
        "{",
        "none",
    ],
)
def test_a_template_that_does_more_than_name_columns_is_refused(template: str) -> None:
    with pytest.raises(DataError, match=r"^data.train: data.template "):
        read(write("t.jsonl", lines(PAIR)), template=template)


def test_all_problems_come_at_once_by_kind_with_their_count_and_places() -> None:
    source = write("t.jsonl", lines(PAIR) + "no\n" + lines(*[{"text": "a"}, PAIR, PAIR] * 3))
    with pytest.raises(DataError) as caught:
        read_examples(source, key="data.eval", reading=Reading())
    first, second = str(caught.value).split("\n")
    assert first.startswith("data.eval: line 2 of t.jsonl: must be JSON")
    assert second.startswith("data.eval: 3 rows of t.jsonl: all rows must have one format")
    assert ", found `text` in the first: lines 3, 6, 9. Fix or remove them" in second


def test_bad_rows_can_be_left_out_and_are_told() -> None:
    source = write("t.jsonl", lines(PAIR) + "no\n" + lines({"text": "a"}, PAIR, PAIR))
    found = read_examples(source, key="data.train", reading=Reading(skip_bad_rows=True))
    assert [example.place for example in found.examples] == [
        "t.jsonl line 1",
        "t.jsonl line 4",
        "t.jsonl line 5",
    ]
    assert [(why["rows"], why["places"]) for why in found.skipped] == [
        (1, "t.jsonl line 2"),
        (1, "t.jsonl line 3"),
    ]


def test_a_file_without_a_usable_row_is_refused_though_bad_rows_are_left_out() -> None:
    source = write("t.jsonl", lines({"prompt": "a", "completion": ""}))
    words = r"^data.train: no row of t.jsonl can be used: `completion` must not be empty: line 1\."
    with pytest.raises(DataError, match=words):
        read_examples(source, key="data.train", reading=Reading(skip_bad_rows=True))


def test_a_file_that_is_broken_as_a_whole_is_refused_though_bad_rows_are_left_out() -> None:
    source = write("t.csv", 'prompt,completion\na,b\na,"b\n')
    with pytest.raises(DataError, match=r"row 2 of t.csv is not CSV"):
        read_examples(source, key="data.train", reading=Reading(skip_bad_rows=True))


def test_several_files_are_read_in_their_order_each_in_its_own_form(folder: Path) -> None:
    (folder / "sub").mkdir()
    sources = [
        write("t.jsonl", lines({"instruction": "1+1?", "output": "2", "id": 3})),
        write("sub/t.jsonl", lines(PAIR)),
        write("c.csv", "prompt,completion\n3+3?,6\n"),
    ]
    found = read_examples(sources, key="data.train", reading=Reading())
    assert found.examples == [
        pair("1+1?", "2", "t.jsonl line 1"),
        pair("2+2?", "4", "sub/t.jsonl line 1"),
        pair("3+3?", "6", "c.csv row 1"),
    ]
    assert [file["rows"] for file in found.files] == [1, 1, 1]
    assert found.unread == {"id": 1}


def test_the_problems_of_all_files_are_told_with_their_names() -> None:
    sources = [write("a.jsonl", lines({"text": ""})), write("b.jsonl", ""), write("c.jsonl", "no")]
    with pytest.raises(DataError) as caught:
        read_examples(sources, key="data.train", reading=Reading())
    assert [name for name in "abc" if f"{name}.jsonl" in str(caught.value)] == ["a", "b", "c"]


def test_parquet_tools_have_no_nulls_that_arrow_added() -> None:
    tools = [
        {"name": "a", "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}},
        {"name": "b", "parameters": {"type": "object", "properties": {"y": {"type": "string"}}}},
    ]
    table = pa.table({"messages": [[ASKED, ANSWERED]], "tools": [tools]})
    [example] = read(write("t.parquet", parquet(table)))
    assert example.tool_list() == [{"type": "function", "function": tool} for tool in tools]


def test_data_system_counts_in_the_fingerprint() -> None:
    source = write("t.jsonl", lines(PAIR))
    prints = {
        fingerprint(read_examples(source, key="k", reading=Reading(system=system)).examples)
        for system in (None, "", "Be brief.")
    }
    assert len(prints) == 3


def test_a_snippet_of_a_long_broken_line_is_short() -> None:
    with pytest.raises(DataError, match=r"column 50\d\d, near '.{30,60}' \("):
        read(write("t.jsonl", '{"text": "' + "a" * 5000 + '" "b"}'))


def test_a_missing_file_is_answered_with_the_nearest_name(folder: Path) -> None:
    (folder / "data").mkdir()
    write("data/train.jsonl", lines(PAIR))
    words = "no such file: data/trian.jsonl; did you mean data/train.jsonl. .* of the YAML file"
    with pytest.raises(DataError, match=words):
        read(str(folder / "data" / "trian.jsonl"))


@pytest.mark.parametrize("name", ["nowhere/train.jsonl", "nul\0.jsonl", "n" * 300 + ".jsonl"])
def test_an_impossible_path_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"no such file|cannot be read"):
        read(str(folder / name))


def test_a_folder_is_answered_with_a_file_in_it(folder: Path) -> None:
    (folder / "data").mkdir()
    write("data/train.csv", "text\na\n")
    with pytest.raises(DataError, match=r"it is a folder. Name a file, such as data/train.csv"):
        read(str(folder / "data"))


def test_a_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "t.jsonl")
    with pytest.raises(DataError, match="a device or a pipe"):
        read(str(folder / "t.jsonl"))


def test_a_file_without_permission_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:  # not chmod: root reads everything
        raise PermissionError

    source = write("t.jsonl", lines(PAIR))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"no permission to read t.jsonl.*chmod u\+r t.jsonl"):
        read(source)


@pytest.mark.parametrize(
    ("source", "is_hub_id"),
    [
        ("HuggingFaceH4/ultrachat_200k", True),
        ("org/set-v1.5:test", True),
        ("org/set:train[:10%]", True),
        ("data/train.jsonl", False),
        ("data/train.txt", False),
        ("data/train.jsonl.gz", False),
        ("/data/train", False),
        ("./data/train", False),
        ("a/b/c", False),
        ("train", False),
    ],
)
def test_a_hub_id_is_told_from_a_path(source: str, is_hub_id: bool) -> None:
    assert looks_like_hub_id(source) is is_hub_id


def test_a_hub_data_set_is_read_split_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(name: str, split: str) -> object:
        assert (name, split) == ("org/name", "test")
        return datasets.Dataset.from_list([PAIR])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read("org/name:test") == [pair("2+2?", "4", "org/name:test row 1")]


def test_a_hub_failure_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(name: str, split: str) -> object:
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        DataError, match=r"org/name:train .* Couldn't reach .* HF_HUB_OFFLINE is set"
    ):
        read("org/name")


def test_shared_rows_are_equal_but_for_white_space_at_the_ends() -> None:
    train = [plain("a", "t 1"), plain("b", "t 2"), plain("a", "t 3"), pair("a", "b", "t 4")]
    evals = [plain(" a\n", "e 1"), plain("A", "e 2"), pair("a ", "b", "e 3"), pair("b", "a", "e 4")]
    assert shared_rows(train, evals) == [("t 1", "e 1"), ("t 4", "e 3")]


def numbered(n_rows: int, n_different: int) -> list[Example]:
    return [plain(f"text {n % n_different}", f"t.jsonl line {n}") for n in range(n_rows)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n_rows", "n_different"), [(2, 2), (10, 2), (100, 30), (100, 100)])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.999])
def test_a_split_keeps_every_row_and_shares_none(
    seed: int, n_rows: int, n_different: int, fraction: float
) -> None:
    examples = numbered(n_rows, n_different)
    train, evals = split(examples, fraction, seed)
    assert train
    assert evals
    assert not shared_rows(train, evals)
    assert sorted(map(str, train + evals)) == sorted(map(str, examples))


def test_a_split_draws_the_fraction_asked_for() -> None:
    assert len(split(numbered(200, 200), 0.1, seed=1)[1]) == 20


def places(examples: Iterable[Example]) -> list[str]:
    return sorted(example.place for example in examples)


def test_a_split_depends_on_the_seed_and_not_on_the_order() -> None:
    examples = numbered(100, 100)
    evals = split(examples, 0.2, seed=1)[1]
    assert places(split(examples[::-1], 0.2, seed=1)[1]) == places(evals)
    assert places(split(examples, 0.2, seed=2)[1]) != places(evals)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_outside_its_bounds_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="above 0 and below 1, found"):
        split(numbered(9, 9), fraction, seed=0)


@pytest.mark.parametrize("n_rows", [0, 1, 9])
def test_rows_that_are_all_equal_cannot_be_split(n_rows: int) -> None:
    with pytest.raises(DataError, match="two different training rows"):
        split(numbered(n_rows, 1), 0.5, seed=0)


def test_a_fingerprint_does_not_depend_on_places() -> None:
    assert fingerprint([plain("a", "t 1")]) == fingerprint([plain("a", "t 2")])


@pytest.mark.parametrize(
    "other", [[plain("b")], [plain("a ")], [plain("a")] * 2, [pair("a", "")], []]
)
def test_a_fingerprint_depends_on_contents(other: list[Example]) -> None:
    assert fingerprint([plain("a")]) != fingerprint(other)


def test_importing_rows_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'pyarrow', 'datasets'}"
    code = f"import sys, trials.data.examples; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", b'""\n""\n', "train.csv must hold rows, but it has none."),
        (
            "train.jsonl.gz",
            gzip.compress(b"\n" * 2_000_000, mtime=0),
            "must fit into a quarter of the free",
        ),
        ("train.jsonl", b"\n" * 2_000_000, "must fit into a quarter of the free memory (0.0 GiB)"),
    ],
)
def test_what_holds_no_rows_or_too_much_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    monkeypatch.setattr(table, "most_bytes", lambda: 1_000_000)
    with pytest.raises(DataError) as refused:
        read_examples(write(name, content), key="data.train", reading=Reading())
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.nulls(1_000_000, pa.string()), "must fit into a quarter of the free memory"),
        (
            pa.array(["long " * 20_000] * 100).dictionary_encode(),
            "must fit into a quarter of the free memory",
        ),
        (pa.array([2**62], pa.timestamp("us")), "holds a value that Python cannot: "),
        (pa.array([0], pa.timestamp("us", tz="Mars/Base")), "holds a value that Python cannot: "),
        (pa.array([2**62], pa.duration("s")), "holds a value that Python cannot: "),
    ],
    ids=["many nulls", "one text many times", "far time", "no such zone", "long duration"],
)
def test_parquet_that_unpacks_to_too_much_or_to_what_python_cannot_hold_is_refused(
    monkeypatch: pytest.MonkeyPatch, column: pa.Array, message: str
) -> None:
    monkeypatch.setattr(table, "most_bytes", lambda: 1_000_000)
    pq.write_table(pa.table({"text": column}), "train.parquet")
    with pytest.raises(DataError) as refused:
        read_examples(str(Path.cwd() / "train.parquet"), key="data.train", reading=Reading())
    assert message in str(refused.value)
