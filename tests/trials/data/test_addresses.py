"""Data that does not lie beside the space."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from sweep.errors import SpaceError
from sweep.space.loading import load_space
from trials.config import DataError
from trials.data.examples import Example, Reading, read_examples

ROWS = [{"prompt": f"{n} + {n} =", "completion": f" {2 * n}"} for n in range(20)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """An S3 server on this machine, with one file; yields its endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    endpoint = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="rows")
        client.put_object(Bucket="rows", Key="a/train.jsonl", Body=LINES.encode())
        client.put_object(Bucket="rows", Key="a/notes.txt", Body=b"hello")
        yield endpoint
    server.stop()


def in_store(store: str, name: str) -> str:
    return f"s3://rows/a/{name}?endpoint_override={store}&region=us-east-1"


def read(source: str) -> list[Example]:
    return read_examples(source, key="data.train", reading=Reading()).examples


def test_rows_are_read_out_of_an_object_store(store: str) -> None:
    examples = read(in_store(store, "train.jsonl"))
    assert [example.completion for example in examples] == [row["completion"] for row in ROWS]
    assert examples[0].place == "train.jsonl line 1"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.jsonl", "data.train: s3://rows/a/gone.jsonl: no such file"),
        ("notes.txt", "the suffix of s3://rows/a/notes.txt must be .jsonl"),
    ],
)
def test_what_is_not_there_is_said(store: str, name: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(in_store(store, name))


def test_a_store_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    address = "s3://rows/train.jsonl?endpoint_override=http://127.0.0.1:9&region=us-east-1"
    with pytest.raises(DataError, match="s3://rows/train.jsonl cannot be fetched: .* credentials"):
        read(address)


def test_a_file_of_other_machines_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "my rows.jsonl").write_text(LINES)
    address = f"file://{tmp_path}/my%20rows.jsonl"
    assert len(read(address)) == len(ROWS)


def space_with(folder: Path, train: str, base_model: str) -> Path:
    space = folder / "a.yaml"
    space.write_text(
        f"base_model: {base_model}\ndata: {{train: {train!r}, eval: 0.1}}\nsearch: {{rank: 8}}\n"
    )
    return space


def test_a_space_may_name_what_only_other_machines_have(tmp_path: Path) -> None:
    space = load_space(space_with(tmp_path, "s3://rows/a.jsonl", "file:///shared/models/llama"))
    assert space.source("train") == "s3://rows/a.jsonl"


@pytest.mark.parametrize(
    ("train", "base_model", "words"),
    [
        ("ftp://host/a.jsonl", "smollm2-135m", "data.train: ftp:// is not read; an address here"),
        ("s3://rows", "smollm2-135m", "data.train: must name a bucket and a file in it"),
        ("s3://rows/a.jsonl", "s3://models/llama", "base_model: s3:// is not read; .* file:///"),
        ("file://rows.jsonl", "smollm2-135m", "file:// needs an absolute path"),
    ],
)
def test_other_addresses_are_refused(
    tmp_path: Path, train: str, base_model: str, words: str
) -> None:
    with pytest.raises(SpaceError, match=words):
        load_space(space_with(tmp_path, train, base_model))
