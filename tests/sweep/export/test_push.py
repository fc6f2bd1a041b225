"""`sweep export --push`, against a stand-in of the hub that speaks its HTTP API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from sweep.cli.commands import app
from sweep.errors import ExportError
from sweep.export.push import check_hub, push
from tests.sweep.export.hub import TOKEN, Hub, serving_hub
from tests.sweep.reviewed import make_config, point, result, write_sweep

# huggingface_hub gives httpx the bytes of a large file in an older way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its server is no HTTP API
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def sweeps(tmp_path: Path) -> Path:
    """A folder with a sweep `mine`, whose winner has an adapter."""
    curve = [point(1, 1.5)]
    folder = write_sweep(tmp_path / "mine", [(make_config(0), result("completed", curve), curve)])
    adapter = folder / "trials" / "000" / "adapter"
    adapter.mkdir(parents=True)
    about = {"base_model_name_or_path": "org/base", "r": 8, "peft_type": "LORA"}
    (adapter / "adapter_config.json").write_text(json.dumps(about))
    (adapter / "adapter_model.safetensors").write_bytes(b"weights" * 1000)
    return tmp_path


def test_an_export_becomes_a_private_repository(hub: Hub, sweeps: Path) -> None:
    arguments = ["export", "mine", "--output", str(sweeps), "--no-check", "--push"]
    done = CliRunner().invoke(app, [*arguments, "my-team/mine"], catch_exceptions=False)
    assert (done.exit_code, done.output) == (
        0,
        f"Pushed to {hub.address}/my-team/mine (private).\n",
    )
    assert hub.private == {"my-team/mine": True}
    assert hub.files["my-team/mine/adapter_model.safetensors"] == b"weights" * 1000
    card = hub.files["my-team/mine/README.md"].decode()
    assert 'PeftModel.from_pretrained(base, "my-team/mine")' in card
    assert "hf download my-team/mine --local-dir adapter" in card
    assert "--lora-modules mine=adapter" in card
    assert "THIS_FOLDER" not in card
    assert [path.name for path in sweeps.iterdir()] == ["mine"]


def test_a_repository_that_was_there_stays_as_visible_as_it_was(hub: Hub, tmp_path: Path) -> None:
    hub.private["me/mine"] = False
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "README.md").write_text("new")
    said = push(tmp_path / "made", "me/mine", "title")
    assert said.endswith("/me/mine (it was there: who may see it stays as it was).")
    assert (hub.private, hub.files["me/mine/README.md"]) == ({"me/mine": False}, b"new")


def test_a_place_that_the_token_may_not_write_to_is_said(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="403, You may not create a model under others") as raised:
        push(tmp_path, "others/mine", "title")
    assert str(raised.value).endswith("Take a token that may write there, or another ORG.")


def test_a_token_that_may_read_alone_is_refused_before_anything_is_made(hub: Hub) -> None:
    hub.role = "read"
    with pytest.raises(ExportError, match="but this one may read alone"):
        check_hub("me/mine")


@pytest.mark.parametrize("token", ["hf_wrong", "wrong\x01token"])
def test_a_wrong_token_is_said_without_it(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ExportError, match="does not know this token|cannot be used") as raised:
        check_hub("me/mine")
    assert token not in str(raised.value)


def test_without_a_token_it_is_said_how_to_get_one(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ExportError, match=r"none is there\. Log in with `hf auth login`"):
        check_hub("me/mine")


def test_a_hub_that_is_away_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ExportError, match=r"cannot be used: .*refused.* Look at the network"):
        check_hub("me/mine")


def test_offline_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ExportError, match=r"HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set\."):
        check_hub("me/mine")


@pytest.mark.parametrize("repo", ["mine", "me/mine/too", "me/my own", "me/..", "/mine"])
def test_what_is_no_name_of_a_repository_is_refused(hub: Hub, repo: str) -> None:
    with pytest.raises(ExportError, match="must be ORG/NAME"):
        check_hub(repo)


def test_an_export_goes_somewhere(sweeps: Path) -> None:
    done = CliRunner().invoke(app, ["export", "mine", "--output", str(sweeps)])
    assert done.exit_code == 2
    assert "needs --to DIR, or --push ORG/NAME, or both." in done.output
