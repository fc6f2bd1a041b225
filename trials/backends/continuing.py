"""Prompts that a model continues greedily, each as it would alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteriaList

from trials.backends.rows_apart import padding_is_unseen


class Continuing:
    """Continues prompts in batches, or one at a time where padding would be seen.

    Args:
        dtype: Of the matrix products.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype

    def continued(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        stop_ids: list[int],
        max_new_tokens: int,
        is_over: Callable[[], bool] = lambda: False,
    ) -> list[list[int]]:
        is_padded = len({len(prompt) for prompt in prompts}) > 1
        # Padding shifts where Llama 4's chunks begin.
        chunk = getattr(self._model.config.get_text_config(), "attention_chunk_size", None)
        is_cut = chunk is not None and max(map(len, prompts)) + max_new_tokens > chunk
        one_by_one = is_padded and (is_cut or not self._padding_is_unseen)
        batches = [[prompt] for prompt in prompts] if one_by_one else [prompts]
        return [
            tokens
            for batch in batches
            for tokens in self._continued(batch, stop_ids, max_new_tokens, is_over)
        ]

    def _continued(
        self,
        prompts: Sequence[Sequence[int]],
        stop_ids: list[int],
        max_new_tokens: int,
        is_over: Callable[[], bool],
    ) -> list[list[int]]:
        def all_over(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return torch.full((len(ids),), is_over(), device=ids.device)

        longest = max(map(len, prompts))
        pads = [longest - len(prompt) for prompt in prompts]
        rows = [[stop_ids[0]] * n + list(prompt) for n, prompt in zip(pads, prompts, strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in pads]
        found = self._greedy(
            torch.tensor(rows),
            torch.tensor(mask),
            over=all_over,
            max_new_tokens=max_new_tokens,
            eos_token_id=stop_ids,
            pad_token_id=stop_ids[0],
        )
        return [_until(row[longest:], stop_ids) for row in found.tolist()]

    def _greedy(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        allowed: Any = None,
        over: Any = None,
        **settings: Any,
    ) -> Any:
        greedy = GenerationConfig(do_sample=False, num_beams=1, **settings)
        # Whatever its makers would sample with (a penalty on repetition, say) is left out.
        own, self._model.generation_config = self._model.generation_config, GenerationConfig()
        try:
            is_16_bit = self._dtype is not torch.float32
            with torch.autocast(self._model.device.type, self._dtype, enabled=is_16_bit):
                return self._model.generate(
                    input_ids=ids.to(self._model.device),
                    attention_mask=mask.to(self._model.device),
                    generation_config=greedy,
                    prefix_allowed_tokens_fn=allowed,
                    stopping_criteria=StoppingCriteriaList([over] if over else []),
                )
        finally:
            self._model.generation_config = own

    @functools.cached_property
    def _padding_is_unseen(self) -> bool:
        """Seen once, and only where prompts are continued."""
        asked = {"max_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True}

        def logits(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            # Always the token 0: where two are as likely, rounding would choose another text.
            found = self._greedy(ids, mask, lambda *_: [0], **asked)
            return torch.cat(found.logits)

        is_unseen = padding_is_unseen(self._model, logits)
        if not is_unseen:
            print(
                "answers are generated one at a time: this model takes the padding of a batch for "
                "a part of the prompt",
                flush=True,
            )
        return is_unseen


def _until(tokens: list[int], stop_ids: Sequence[int]) -> list[int]:
    ends = [index for index, token in enumerate(tokens) if token in stop_ids]
    return tokens[: ends[0]] if ends else tokens
