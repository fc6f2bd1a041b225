"""A base model and an adapter answer prompts in turn: `python -m trials.trying REQUEST.json`.

Each line of the input is `{"prompt": …}`; the output has `{"ready": true}` once all is loaded, then
for each prompt `{"refused": why}`, or `{"answer": …}` of the base model and then of the adapter.
SIGINT ends the answer that is being written. The end of the input ends the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trials.backends.loading import load
from trials.config import ModelConfig, UserError
from trials.data.conversation import Example
from trials.evaluation.answers import Reader
from trials.models.frozen_base import FrozenBase
from trials.models.sources import load_tokenizer
from trials.preparation.prompts import MOST_NEW_TOKENS, prompted, stop_ids_of, true_answers
from trials.rendering.renderer import Renderer
from trials.trial_folder import TOKENIZER_CONFIG


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    model: ModelConfig
    adapter: str
    """Its folder."""
    chat: bool
    """Whether a prompt becomes a turn of the chat template."""
    template_arguments: dict[str, Any]
    date: str | None
    """That the template writes for today."""
    system: str | None
    """The system turn before it."""


class Models:
    """Both models: one base, whose adapter is switched on and off."""

    def __init__(self, request: Request) -> None:
        from peft import PeftModel

        self._request, self._is_over = request, False
        renderer = Renderer(
            _tokenizer(request),
            chat=request.chat,
            loss_on="completion",
            arguments=request.template_arguments,
            day=request.date,
        )
        self._renderer = renderer
        row = prompted([self._example("Hello", "Hello")], renderer)
        self._stop_ids = stop_ids_of(row, renderer.tokenizer)
        true = true_answers(row, renderer.tokenizer, self._stop_ids, is_chat=request.chat)
        self._reader: Reader = true.reader
        self._base: FrozenBase = load(request.model)
        self._adapted = PeftModel.from_pretrained(self._base.model, request.adapter).eval()

    def tokens(self, prompt: str) -> list[int]:
        """Return what both are asked.

        Raises:
            UserError: It is too long, or cannot be rendered.
        """
        found = self._renderer.prompt(self._example(prompt, ""))
        most = self._request.model.max_length - 1
        if not found:
            raise UserError("The chat template makes no prompt of this. Ask something else.")
        if len(found) > most:
            raise UserError(
                f"A prompt must be shorter than data.max_length of the sweep, which is "
                f"{most + 1:,} tokens, but this one has {len(found):,}. Shorten it."
            )
        return found

    def answer(self, prompt: list[int], *, is_adapted: bool) -> str:
        """Answer greedily, in no more tokens than a row of the sweep may have."""
        self._is_over = False
        n_new = min(MOST_NEW_TOKENS, self._request.model.max_length - len(prompt))
        off = contextlib.nullcontext() if is_adapted else self._adapted.disable_adapter()
        with off:
            (ids,) = self._base.generate(
                [prompt],
                stop_ids=self._stop_ids,
                max_new_tokens=n_new,
                is_over=lambda: self._is_over,
            )
        return self._reader.shown(prompt, ids, is_cut=self._is_over or len(ids) == n_new)

    def stop(self, *_: object) -> None:
        """End the answer that is being written."""
        self._is_over = True

    def _example(self, prompt: str, completion: str) -> Example:
        return Example(
            messages=None,
            prompt=prompt,
            completion=completion,
            text=None,
            place="",
            system=self._request.system if self._request.chat else None,
        )


def _tokenizer(request: Request) -> Any:
    """The adapter's has the chat template that it was trained with; older ones have none."""
    if not (Path(request.adapter) / TOKENIZER_CONFIG).exists():
        return load_tokenizer(request.model)
    from transformers import AutoTokenizer

    code = request.model.trust_remote_code
    return AutoTokenizer.from_pretrained(request.adapter, trust_remote_code=code)


def main(request_path: str) -> None:
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    asked = json.loads(Path(request_path).read_text(encoding="utf-8"))
    models = Models(Request(**{**asked, "model": ModelConfig(**asked["model"])}))
    signal.signal(signal.SIGINT, models.stop)

    def say(**words: object) -> None:
        print(json.dumps(words), file=output, flush=True)

    say(ready=True)
    while True:
        try:
            prompt = models.tokens(json.loads(lines.get())["prompt"])
        except UserError as error:
            say(refused=str(error))
            continue
        for is_adapted in (False, True):
            say(answer=models.answer(prompt, is_adapted=is_adapted))


def _read(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # whoever asks is gone


if __name__ == "__main__":
    main(*sys.argv[1:])
