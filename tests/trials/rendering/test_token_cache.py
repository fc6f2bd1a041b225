"""What is kept of tokenised splits, and what happens when it cannot be kept or was damaged."""

from __future__ import annotations

import shutil
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from trials.data.tokens import PARTS, TokenSplit
from trials.rendering import token_cache
from trials.rendering.renderer import RowCounts

SPLIT = TokenSplit.of(
    ids=np.array([5, 6, 7], np.int32),
    supervised=np.array([False, True, True]),
    lengths=np.array([2, 1]),
)
COUNTS = RowCounts(
    turns=2, parts={"tools": [2, 1, 9]}, refused={"no": [1, "row 3"]}, refused_rows=[2]
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/sweep/tokens"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The data folder of a sweep."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def make() -> token_cache.Made:
    print("made")
    return SPLIT, COUNTS


def never() -> token_cache.Made:
    raise AssertionError("tokenised again")


def parts(path: Path) -> list[Path]:
    return [Path(f"{path}.{part}.npy") for part in PARTS]


def test_a_split_is_tokenised_once(sweep: Path) -> None:
    token_cache.place(sweep / "train", "key", make)
    again, counts = token_cache.place(sweep / "again", "key", never)
    assert counts == COUNTS
    assert again.ids.tolist() == [5, 6, 7]
    assert again.supervised.tolist() == [False, True, True]
    assert again.lengths.tolist() == [2, 1]


def test_a_sweep_shares_the_files_of_the_cache(sweep: Path, cache: Path) -> None:
    token_cache.place(sweep / "train", "key", make)
    for linked, kept in zip(parts(sweep / "train"), parts(cache / "key/rows"), strict=True):
        assert linked.samefile(kept)
        assert stat.S_IMODE(linked.stat().st_mode) == 0o444


def test_a_sweep_outlives_the_cache(sweep: Path, cache: Path) -> None:
    token_cache.place(sweep / "train", "key", make)
    shutil.rmtree(cache)
    assert TokenSplit.load(sweep / "train").ids.tolist() == [5, 6, 7]


def test_another_file_system_gets_copies(
    sweep: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    token_cache.place(sweep / "train", "key", make)
    [copied, *_], [kept, *_] = parts(sweep / "train"), parts(cache / "key/rows")
    assert copied.read_bytes() == kept.read_bytes()
    assert not copied.samefile(kept)


def cut_short(entry: Path) -> None:
    rewrite(entry / "rows.ids.npy", (entry / "rows.ids.npy").read_bytes()[:-4])


def one_byte_changed(entry: Path) -> None:
    content = bytearray((entry / "rows.ids.npy").read_bytes())
    content[-1] ^= 1
    rewrite(entry / "rows.ids.npy", bytes(content))


def rewrite(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def an_array_lost(entry: Path) -> None:
    (entry / "rows.supervised.npy").unlink()


def no_digests(entry: Path) -> None:
    (entry / "sha256.json").write_text("")


def other_counts(entry: Path) -> None:
    rewrite(entry / "counts.json", b"{}")


@pytest.mark.parametrize(
    "damage", [cut_short, one_byte_changed, an_array_lost, no_digests, other_counts]
)
def test_a_damaged_entry_is_made_anew(
    sweep: Path, cache: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    token_cache.place(sweep / "train", "key", make)
    damage(cache / "key")
    mended, _ = token_cache.place(sweep / "again", "key", make)
    assert mended.ids.tolist() == [5, 6, 7]
    assert token_cache.place(sweep / "third", "key", never)[0].ids.tolist() == [5, 6, 7]
    assert capsys.readouterr().out == "made\nmade\n"


def test_what_fails_leaves_no_entry(sweep: Path, cache: Path) -> None:
    with pytest.raises(AssertionError):
        token_cache.place(sweep / "train", "key", never)
    assert [path.name for path in cache.iterdir()] == ["key.lock"]


def test_without_a_cache_a_sweep_goes_on_and_says_so(
    sweep: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.parent.parent.write_text("a file where the cache should be")
    split, counts = token_cache.place(sweep / "train", "key", make)
    assert counts == COUNTS
    assert split.ids.tolist() == [5, 6, 7]
    said = f"continuing without the token cache, {cache}: Not a directory\nmade\n"
    assert capsys.readouterr().out == said


def test_a_full_cache_tokenises_no_second_time(
    sweep: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache, "_write", full)
    assert token_cache.place(sweep / "train", "key", make)[0].ids.tolist() == [5, 6, 7]
    said = f"made\ncontinuing without the token cache, {cache}: No space left on device\n"
    assert capsys.readouterr().out == said


def test_of_two_sweeps_at_once_one_tokenises(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = threading.Thread(target=token_cache.place, args=(sweep / "other", "key", never))

    def make_while_the_other_waits() -> token_cache.Made:
        other.start()
        while "waiting for another sweep" not in capsys.readouterr().out:
            time.sleep(0.01)
        return SPLIT, COUNTS

    token_cache.place(sweep / "train", "key", make_while_the_other_waits)
    other.join(timeout=60)
    assert TokenSplit.load(sweep / "other").ids.tolist() == [5, 6, 7]


KEY = {"rows": "a", "tokenizer": "b", "chat": True, "loss_on": "completion"}


@pytest.mark.parametrize(
    "other",
    [
        {"rows": "c"},
        {"tokenizer": "c"},
        {"chat": False},
        {"loss_on": "all"},
        {"given": '[{}, "2026-11-29"]'},
    ],
)
def test_a_key_tells_all_that_decides_the_tokens(other: dict[str, object]) -> None:
    assert token_cache.key(**KEY | other) != token_cache.key(**KEY)  # type: ignore[arg-type]


def test_equal_tokenizers_have_one_digest_wherever_they_lie() -> None:
    one, other = tiny.make_tokenizer(), tiny.make_tokenizer()
    assert token_cache.tokenizer_digest(one) == token_cache.tokenizer_digest(other)


def test_a_digest_changes_with_the_vocabulary_the_template_and_the_special_tokens() -> None:
    plain, larger, other, ends = (tiny.make_tokenizer() for _ in range(4))
    larger.add_tokens(["snowy"])
    other.chat_template = "{{ messages }}"
    ends.eos_token = ":"
    digests = [token_cache.tokenizer_digest(each) for each in (plain, larger, other, ends)]
    assert len(set(digests)) == 4


def test_a_tokenizer_without_a_digest_is_not_kept(sweep: Path, cache: Path) -> None:
    token_cache.place(sweep / "train", token_cache.tokenizer_digest(object()), make)
    assert TokenSplit.load(sweep / "train").ids.tolist() == [5, 6, 7]
    assert not cache.exists()
