"""What is learnt under each of TRL's chat templates, beside TRL's own training version of it.

`X_training.jinja` marks with `{% generation %}` what TRL learns. Three kinds of difference are
right, and each pair's are listed: (a) the training version renders other text (thoughts in earlier
turns, the mark behind GLM's last turn); (b) it counts a part of the prompt that the model is given;
(c) it counts a line break or an end of sequence behind the end of the turn.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from trials.data.conversation import Example, Message
from trials.rendering.renderer import Renderer

_SPEC = importlib.util.find_spec("trl")
assert _SPEC is not None and _SPEC.origin is not None
FOLDER = Path(_SPEC.origin).parent / "chat_templates"
MARK = re.compile(r"<\|[^|<>\s']{1,40}\|>|<\|?/?[A-Za-z_:]+\|?>|<｜[^｜]+｜>|\[/?[A-Z_]{2,}\]")
THOUGHT = re.compile(r"<think>.*?</think>\s*|^\s*</think>\s*", re.DOTALL)

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city."}},
            "required": ["city"],
        },
    },
}
CALL = {
    "type": "function",
    "id": "abcdefghi",
    "function": {"name": "get_weather", "arguments": {"city": "Rome"}},
}
USER, THANKS = Message("user", "What is 2+2?"), Message("user", "And 3+3?")
CALLING = Message("assistant", "", tool_calls=json.dumps([CALL]))
ANSWER = Message("tool", "Sunny, 21", name="get_weather", tool_call_id="abcdefghi")


def talk(*messages: Message, tools: str | None = None) -> Example:
    return Example(messages, None, None, None, "row 1", tools)


ROWS = {
    "pair": talk(USER, Message("assistant", "It is 4.")),
    "system": talk(Message("system", "Be brief."), USER, Message("assistant", "It is 4.")),
    "turns": talk(
        USER,
        Message("assistant", "It is 4."),
        THANKS,
        Message("assistant", "Six it is."),
        Message("user", "Bye now?"),
        Message("assistant", "Farewell."),
    ),
    "thoughts": talk(
        USER,
        Message("assistant", "It is 4.", reasoning="Add them."),
        THANKS,
        Message("assistant", "Six it is.", reasoning="Sum them."),
    ),
    "tools": talk(
        Message("user", "Weather in Rome?"),
        CALLING,
        ANSWER,
        Message("assistant", "Sunny in Rome."),
        tools=json.dumps([TOOL]),
    ),
    "untold": talk(
        Message("user", "Weather in Rome?"), CALLING, ANSWER, Message("assistant", "Sunny in Rome.")
    ),
    "call": talk(Message("user", "Weather in Rome?"), CALLING, tools=json.dumps([TOOL])),
}
"""Forms of rows."""

NO_MORE = "thoughts tools untold call"
"""Of templates that know only texts."""
PAIRS = {
    "cohere": ("", NO_MORE),
    "cohere2": ("", NO_MORE),
    "deepseek_r1_distill": ("b", "thoughts tools call"),
    "deepseekv3": ("b", "thoughts tools call"),
    "diffusion_gemma": ("c", ""),
    "gemma": ("c", "system " + NO_MORE),
    "gemma3": ("c", NO_MORE),
    "glm4moe": ("", ""),
    "gptoss": ("b", ""),
    "idefics3": ("c", NO_MORE),
    "lfm2": ("c", NO_MORE),
    "lfm2_v2": ("c", "thoughts"),
    "llama3": ("", NO_MORE),
    "llava_next": ("", NO_MORE),
    "muse_glimmer": ("b", ""),
    "nemotron_3_5_lightning": ("bc", ""),
    "nemotron_3_nano": ("bc", ""),
    "nemotron_3_super": ("bc", ""),
    "nemotron_3_ultra": ("bc", ""),
    "phi3": ("c", NO_MORE),
    "phi3_5": ("c", NO_MORE),
    "qwen2_5": ("bc", "thoughts"),
    "qwen2_5_vl": ("c", NO_MORE),
    "qwen3": ("ac", ""),
    "qwen3_5_nothink": ("abc", ""),
    "qwen3_5_think": ("abc", ""),
    "qwen3_6": ("abc", ""),
    "qwen3_8": ("bc", ""),
    "qwen3_instruct_2507": ("c", "thoughts"),
    "qwen3_vl": ("c", "thoughts"),
    "smolvlm": ("c", NO_MORE),
}
"""Template → (kinds of difference, forms that it refuses or leaves a part of out)."""


@pytest.fixture(scope="module")
def tokenizer(built_in: Any) -> Any:
    """The built-in one, with the marks of all templates as tokens."""
    found = copy.deepcopy(built_in)
    texts = (path.read_text(encoding="utf-8") for path in FOLDER.glob("*.jinja"))
    found.add_tokens(sorted({m for text in texts for m in MARK.findall(text)}), special_tokens=True)
    return found


def runs(tokenizer: Any, ids: list[int], mask: list[Any]) -> list[str]:
    """The text of each stretch of tokens that is learnt."""
    found: list[list[int]] = []
    for before, token, is_learnt in zip([False, *mask], ids, mask, strict=False):
        if is_learnt:
            if not before:
                found.append([])
            found[-1].append(token)
    return [tokenizer.decode(each) for each in found]


def differences(ours: str, twin: str, before: str, prompt: str) -> str:
    """The kinds in which a turn differs from TRL's, and that nothing else does.

    Args:
        before: The rendered text up to our turn.
        prompt: What the model is given to generate it.
    """
    for behind in ("", "\n", "<|im_end|>", "\n<|im_end|>"):
        if twin.endswith(ours + behind):
            kinds, extra = "c" if behind else "", twin[: len(twin) - len(ours + behind)]
            break
    else:
        without = [THOUGHT.sub("", text).removesuffix("\n").strip() for text in (ours, twin)]
        assert without[0] == without[1], (ours, twin)
        return "a"
    if not extra:
        return kinds
    if before.endswith(extra) and extra in prompt:
        return f"{kinds}b"
    assert not THOUGHT.sub("", extra).strip(), (ours, twin)
    return f"{kinds}a"


def marked(tokenizer: Any, turns: list[dict[str, Any]], row: Example) -> Any:
    """Token ids and TRL's own mask."""
    return tokenizer.apply_chat_template(
        turns, tools=row.tool_list(), return_dict=True, return_assistant_tokens_mask=True
    )


@pytest.mark.parametrize("name", sorted(p.name[:-15] for p in FOLDER.glob("*_training.jinja")))
def test_what_is_learnt_is_what_trl_learns(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    renderer = Renderer(tokenizer, chat=True, loss_on="completion")
    twin = copy.copy(tokenizer)
    twin.chat_template = (FOLDER / f"{name}_training.jinja").read_text(encoding="utf-8")
    kinds, refused = set(), []
    for form, row in ROWS.items():
        split, counts = renderer.tokenized([row])
        if counts.refused or any(n == lost for k, (n, lost, _) in counts.parts.items()):
            refused.append(form)
            continue
        rendered = renderer.render(row)
        messages = row.conversation()
        # Some leave calls out unless there is no content at all.
        turns = [
            m.for_template() | {"content": renderer.template.turn(m)["content"]} for m in messages
        ]
        if renderer.template.takes_parts:
            turns = [{**t, "content": [{"type": "text", "text": t["content"]}]} for t in turns]
        try:
            theirs = marked(twin, turns, row)
        except TypeError:  # DeepSeek's older one wants arguments as text
            theirs = marked(twin, [renderer.template.turn(m) for m in messages], row)
        ours = runs(tokenizer, split.ids.tolist(), split.supervised.tolist())
        beside = runs(tokenizer, theirs["input_ids"], theirs["assistant_masks"])
        assert len(ours) == len(beside) == len(rendered.spans)
        answers = [n for n, m in enumerate(row.conversation()) if m.role == "assistant"]
        for index, mine, other, span in zip(answers, ours, beside, rendered.spans, strict=True):
            prompt = renderer.template.render(
                [renderer.template.turn(m) for m in row.conversation()[:index]],
                row.tool_list(),
                prompt=True,
            )
            start = rendered.text.index(mine, max(0, span.start - 20))
            kinds |= set(differences(mine, other, rendered.text[:start], prompt))
    assert ("".join(sorted(kinds)), " ".join(refused)) == PAIRS[name]
