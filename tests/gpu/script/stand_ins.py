"""Stand-ins for large packages that Unsloth imports and does not use here, where they are absent.

Unsloth 2026.10.7 imports datasets (unsloth_zoo/tokenizer_utils.py), and TRL's SFTTrainer imports
pyarrow and pandas (trl/data_utils.py, trl/trainer/utils.py): 250 MB of files that no trial uses.
"""

from __future__ import annotations

from importlib import util
from pathlib import Path

LARGE = ("datasets", "pyarrow", "pandas")
VERSION = "4.3.0"
"""One of datasets that Unsloth takes (unsloth/import_fixes.py, patch_datasets)."""

SOURCE = f'''\
"""In place of a package that is not here: each name is an empty class, each module is there."""

import sys
import types
from importlib.machinery import ModuleSpec

__version__ = "{VERSION}"


class _Part(types.ModuleType):
    __path__ = ()
    __version__ = __version__

    def __getattr__(self, name):
        return _named(name)


class _Parts:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.startswith(__name__ + ".") else None

    def create_module(self, spec):
        return _Part(spec.name)

    def exec_module(self, module):
        pass


def _named(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), dict())


def __getattr__(name):
    return _named(name)


sys.meta_path.append(_Parts())
'''


def written(folder: Path) -> list[str]:
    """Write a stand-in for each that is absent, for PYTHONPATH; return their names."""
    absent = [name for name in LARGE if util.find_spec(name) is None]
    for name in absent:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(SOURCE)
        about = folder / f"{name}-{VERSION}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {VERSION}\n"
        )
    return absent
