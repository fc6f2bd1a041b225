"""Text of rows, models, servers and libraries steers no terminal and tells no secret."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.screen.console import CleanConsole
from trials.config import TrialResult
from trials.foreign_text import all_cleaned, cleaned
from trials.trial_folder import log_tail

TOKEN = "hf_" + "aB3" * 11
TITLE, CLEAR, LINK = "\x1b]0;mine\x07", "\x1b[2J", "\x1b]8;;http://x\x1b\\"


@pytest.mark.parametrize("text", [TITLE, CLEAR, LINK, "\x9b2J", "a\rb", "\x08", "\u202emine"])
def test_what_steers_a_terminal_is_shown_instead(text: str) -> None:
    assert not set(cleaned(text)) & set("\x1b\x07\x08\x9b\r\u202e")
    assert "\ufffd" in cleaned(text)


@pytest.mark.parametrize("text", ["a\tb\r\nc", "κ é 語", "１　２", "👩\u200d🚀", "می\u200cخواهم"])
def test_text_of_all_languages_stays_as_it_is(text: str) -> None:
    assert cleaned(text) == text


def test_what_json_has_brought_is_cleaned_in_all_its_depth() -> None:
    told = {f"a{CLEAR}": [{"b": CLEAR}, 1, None]}
    assert all_cleaned(told) == {"a\ufffd[2J": [{"b": "\ufffd[2J"}, 1, None]}


def test_a_console_shows_foreign_text_and_keeps_its_own_colours() -> None:
    file = io.StringIO()
    console = CleanConsole(file=file, force_terminal=True, color_system="standard", highlight=False)
    console.print(f"{TITLE}{CLEAR}a row", style="red")
    assert file.getvalue() == "\x1b[31m\ufffd]0;mine\ufffd[2Ja row\x1b[0m\n"


def test_a_failure_tells_neither_a_token_nor_a_password_in_any_of_its_words() -> None:
    words = f"401 for {TOKEN} at https://me:hunter2@host{CLEAR}"
    result = TrialResult(outcome="failed", reason=words, cause=words)
    for told in (result.reason, result.cause or ""):
        assert told == "401 for hf_… at https://host\ufffd[2J"


RAISES = f"""
import logging, sys
from pathlib import Path
from trials.trial_folder import logged
import traceback
with logged(Path(sys.argv[1])):
    print("loading 10%\\rloading 20%")
    try:
        raise RuntimeError("no access with {TOKEN}" + chr(27) + "[2J")
    except RuntimeError:
        traceback.print_exc()
"""


def test_a_log_that_is_followed_has_neither(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", RAISES, str(tmp_path)], check=True)
    log = (tmp_path / "log.txt").read_text()
    assert log.splitlines()[:2] == ["loading 10%", "loading 20%"]
    assert log.endswith("RuntimeError: no access with hf_…\ufffd[2J\n")


def test_the_end_of_a_log_is_clean_whoever_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(f"{CLEAR}from C\n{TOKEN}\n")
    assert log_tail(tmp_path) == "\ufffd[2Jfrom C\nhf_…"
