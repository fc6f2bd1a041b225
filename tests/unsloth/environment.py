"""A virtual environment with Unsloth and triton, beside all that the tests run in.

They are not in the `test` extra: Unsloth would bring torchvision, xformers and more, and patches
what it is imported with. pip keeps their wheels, so the environment is made anew each time.
"""

import os
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("unsloth", "unsloth_zoo", "triton")


class CannotInstall(Exception):
    """Why there is no such environment on this machine."""


def make_environment(folder: Path) -> Path:
    """Make it in `folder`; return its Python.

    Raises:
        CannotInstall: With the words of venv or pip: there is no network, no wheel, no room.
    """
    _run(sys.executable, "-m", "venv", str(folder))
    python = folder / "bin" / "python"
    # --system-site-packages would show the packages of the Python that a virtual environment is of.
    path = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    (Path(path) / "running.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    constraints = ROOT / "constraints.txt"
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "-c", str(constraints))
    _run(str(python), *pip, *PACKAGES)
    return python


def _run(*command: str) -> None:
    # The tests have a cache of their own, and pip's is to be found again.
    environment = {k: value for k, value in os.environ.items() if k != "XDG_CACHE_HOME"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).splitlines()
        errors = [line for line in said if line.startswith("ERROR:")]
        raise CannotInstall(next(iter(errors or said), f"it ended with {done.returncode}"))
