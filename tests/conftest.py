"""What many tests share: few threads, a tiny base model that really learns and overfits."""

from __future__ import annotations

import os

# Before torch is imported: more threads than cores slow a step down by an order of magnitude.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_TRACKING_URI"] = os.environ["MLFLOW_EXPERIMENT_NAME"] = ""

import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from sweep.workers.signals import ENDING
from tests import tiny
from trials.config import TrialConfig
from trials.models.smollm2 import FOLDER

# A shell's `&` and nohup ignore them, and what is started here would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(_number, signal.SIG_DFL)


def _cache_of_our_own() -> tempfile.TemporaryDirectory[str]:
    """Let every process of the tests cache in a folder that goes with them.

    The built-in model alone is taken from the user's cache, where it is: it takes a download.
    """
    folder = tempfile.TemporaryDirectory(prefix="sweep-tests-")
    model_dir = user_cache_path("sweep") / FOLDER
    os.environ["XDG_CACHE_HOME"] = folder.name
    if model_dir.is_dir():
        (Path(folder.name) / "sweep").mkdir()
        (Path(folder.name) / "sweep" / FOLDER).symlink_to(model_dir)
    return folder


_CACHE = _cache_of_our_own()


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A command ignores them once it ends, also one that was called from here."""
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a pre-trained base model of 0.2 M parameters, with its tokenizer."""
    return tiny.make_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def tiny_data(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set so small that a trial soon knows it by heart."""
    return tiny.prepared_data(tiny_base, tmp_path_factory.mktemp("data"), n_train=48, n_eval=64)


@pytest.fixture
def config(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Callable[..., TrialConfig]:
    """Makes the configuration of a trial on the tiny model; name what should differ."""

    def make(number: int = 0, **changes: object) -> TrialConfig:
        folder = changes.pop("output_dir", tmp_path / "trials" / f"{number:03d}")
        return tiny.trial_config(tiny_base, tiny_data, Path(str(folder)), number=number, **changes)

    return make
