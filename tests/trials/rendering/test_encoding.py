"""Texts → tokens, beside one call of the tokenizer and beside what inference is given."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from trials.rendering.encoding import EncodedRow, Encoder
from trials.rendering.spans import Rendered, Span

TALK = "<s>[INST] Hi there[/INST] Hello you 👩‍🚀</s>[INST]Bye[/INST]Good bye</s>"
ANSWERS = (" Hello you 👩‍🚀</s>", "Good bye</s>")
PIECES = ["▁", "▁Hello", "▁Hi", "▁there", "▁you", "Hello", "Good", "▁bye", "Bye", "▁Bye"]
PIECES += ["H", "e", "l", "o", "i", "y", "u", "G", "d", "b", "B", "a", "P", "r", "s", "\n", ":"]
MARKS = ["<s>", "</s>", "[INST]", "[/INST]"]


def rendered(text: str, *answers: str, departs_from: str | None = None) -> Rendered:
    """The text, of which the answers are learnt."""
    place, spans = 0, []
    for answer in answers:
        start = text.index(answer, place)
        place = start + len(answer)
        spans.append(Span(start, place, departs_from))
    return Rendered(text, spans)


def encoded(tokenizer: Any, row: Rendered) -> EncodedRow:
    [found] = Encoder(tokenizer).rows([row])
    return found


def plain(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def tokens_of(row: Rendered, found: EncodedRow, tokenizer: Any) -> list[list[str]]:
    return [tokenizer.convert_ids_to_tokens(found.ids[a:b]) for a, b in found.spans]


def sentencepiece(scheme: str, model: str) -> Any:
    """A tokenizer as Llama 2 (always, BPE), Mistral (first) or T5 (Unigram) have it."""
    known = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    if model == "unigram":
        scores = [(piece, -2.0 - (len(piece) == 1)) for piece in known]
        core = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    else:
        merges, vocabulary = [], dict.fromkeys(known)
        for piece in PIECES:
            for n in range(2, len(piece) + 1):
                vocabulary |= dict.fromkeys((piece[: n - 1], piece[n - 1], piece[:n]))
                merges.append((piece[: n - 1], piece[n - 1]))
        ids = {piece: n for n, piece in enumerate(vocabulary)}
        core = Tokenizer(
            models.BPE(ids, list(dict.fromkeys(merges)), unk_token="<unk>", byte_fallback=True)
        )
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=model == "unigram")
    core.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)]
    )
    core.add_special_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def byte_level(built_in: Any, **settings: bool) -> Any:
    changed = copy.deepcopy(built_in)
    changed.add_tokens(MARKS, special_tokens=True)
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(**settings)]
    )
    changed.backend_tokenizer.pre_tokenizer = split
    return changed


@pytest.fixture(
    scope="module",
    params=[
        "always-bpe", "first-bpe", "never-bpe", "always-unigram", "first-unigram",
        "bytes", "bytes-trimmed", "bytes-prefixed",
    ]
)  # fmt: skip
def tokenizer(request: pytest.FixtureRequest, built_in: Any) -> Any:
    first, _, second = request.param.partition("-")
    if first != "bytes":
        return sentencepiece(first, second)
    return byte_level(built_in, add_prefix_space=second == "prefixed", trim_offsets=second != "")


def test_a_conversation_has_the_tokens_of_one_call(tokenizer: Any) -> None:
    row = rendered(TALK, *ANSWERS)
    found = encoded(tokenizer, row)
    assert not found.is_split
    assert found.ids == plain(tokenizer, TALK)


def test_a_turn_begins_behind_its_prompt_and_ends_with_its_mark(tokenizer: Any) -> None:
    row = rendered(TALK, *ANSWERS)
    found = encoded(tokenizer, row)
    for span, (first, behind) in zip(row.spans, found.spans, strict=True):
        assert found.ids[:first] == plain(tokenizer, TALK[: span.start])
        assert found.ids[:behind] == plain(tokenizer, TALK[: span.stop])
        assert found.ids[behind - 1] == tokenizer.eos_token_id or tokenizer.convert_ids_to_tokens(
            found.ids[behind - 1]
        ) == "</s>"  # fmt: skip


@pytest.mark.parametrize("text", ["👩‍🚀", "𝔘é", "e\u0301", "Good 👩‍🚀👩‍🚀"])
def test_a_character_of_several_tokens_is_learnt_whole(tokenizer: Any, text: str) -> None:
    row = Rendered(f"[INST]a[/INST]{text}", [Span(14, 14 + len(text))])
    found = encoded(tokenizer, row)
    [(first, behind)] = found.spans
    assert behind == len(found.ids)
    assert found.ids[:first] == plain(tokenizer, "[INST]a[/INST]")


def test_a_stretch_in_the_middle_of_the_text_is_learnt_alone(tokenizer: Any) -> None:
    text = "[INST]👩‍🚀[/INST]👩‍🚀[INST]👩‍🚀"
    row = rendered(text, "[/INST]👩‍🚀")
    found = encoded(tokenizer, row)
    [(first, behind)] = found.spans
    assert found.ids[first:behind] == plain(tokenizer, text)[first:behind]
    assert found.ids[:first] == plain(tokenizer, "[INST]👩‍🚀")
    assert tokenizer.convert_ids_to_tokens(found.ids[behind]) == "[INST]"


def test_a_token_across_a_border_is_cut_and_counted(built_in: Any) -> None:
    """`Answer: ` and `Paris`: the model is given the space, so it never writes ` Paris`."""
    row = rendered("Answer: Paris", "Paris")
    found = encoded(built_in, row)
    assert found.is_split
    assert found.ids == plain(built_in, "Answer: ") + plain(built_in, "Paris")
    assert found.ids != plain(built_in, "Answer: Paris")
    assert found.spans == [(len(plain(built_in, "Answer: ")), len(found.ids))]


def test_a_border_between_tokens_is_not_counted(built_in: Any) -> None:
    row = rendered("Answer: Paris", " Paris")
    found = encoded(built_in, row)
    assert not found.is_split
    assert found.ids == plain(built_in, "Answer: Paris")
    assert tokens_of(row, found, built_in) == [["ĠParis"]]


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_a_cut_puts_no_space_before_an_answer(scheme: str) -> None:
    """SentencePiece begins each text with a space: a piece of a text is none."""
    tokenizer = sentencepiece(scheme, "bpe")
    row = rendered("Hi Hello", "Hello")
    found = encoded(tokenizer, row)
    assert found.is_split
    assert tokens_of(row, found, tokenizer) == [["Hello"]]
    first = found.spans[0][0]
    assert tokenizer.convert_ids_to_tokens(found.ids[:first]) == ["▁Hi", "▁"]


def test_several_borders_in_one_row_are_cut(built_in: Any) -> None:
    text = "A: Paris\nA: Rome\n"
    row = rendered(text, "Paris\n", "Rome\n")
    found = encoded(built_in, row)
    assert found.is_split
    parts = ["A: ", "Paris\nA: ", "Rome\n"]
    assert found.ids == [token for part in parts for token in plain(built_in, part)]
    assert [built_in.decode(found.ids[a:b]) for a, b in found.spans][1] == "Rome\n"


def test_a_turn_that_departs_within_the_prompt_begins_at_the_first_other_token(
    built_in: Any,
) -> None:
    """The prompt ends with a token that the turn, going on otherwise, does not have."""
    prompt, text = "q\nassistant\n", "q\nassistant\n\n\nYes"
    row = rendered(text, "\n\nYes", departs_from=prompt + "<think>")
    found = encoded(built_in, row)
    given = plain(built_in, prompt + "<think>")
    shared = next(n for n, (a, b) in enumerate(zip(given, found.ids, strict=False)) if a != b)
    assert found.ids == plain(built_in, text)
    assert found.spans == [(shared, len(found.ids))]


@pytest.mark.parametrize("side", ["lstrip", "rstrip"])
def test_a_mark_that_takes_white_space_with_it(built_in: Any, side: str) -> None:
    """Phi-3's `<|assistant|>` takes the line break behind it."""
    tokenizer = copy.deepcopy(built_in)
    tokenizer.add_tokens([AddedToken("<|assistant|>", special=True, normalized=False, rstrip=True)])
    tokenizer.add_tokens([AddedToken("<|end|>", special=True, normalized=False, **{side: True})])
    text = "<|user|>\nq<|end|>\n<|assistant|>\n Yes \n<|end|>\n"
    prompt = text[: text.index(" Yes")]
    found = encoded(tokenizer, Rendered(text, [Span(len(prompt), len(text) - 1)]))
    [(first, behind)] = found.spans
    assert found.ids[:first] == plain(tokenizer, prompt)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert found.ids[behind - 1] == end
    rest = found.ids[first : behind - 1]
    assert tokenizer.decode(rest).strip() == "Yes"
    assert behind >= len(found.ids) - 1


class Letters(PreTrainedTokenizer):  # type: ignore[misc]
    """A tokenizer in Python, which tells no offsets: each character is a token."""

    vocab_size = 0x1100

    def get_vocab(self) -> dict[str, int]:
        return {**{chr(n): n for n in range(self.vocab_size)}, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **_: object) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return min(ord(token), self.vocab_size - 1)

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)


def test_a_tokenizer_without_offsets_gets_the_stretches() -> None:
    tokenizer = Letters(eos_token="</s>")
    row = rendered("ask: yes</s> more: no</s>\n", "yes</s>", "no</s>")
    found = encoded(tokenizer, row)
    assert found.ids == plain(tokenizer, row.text)
    end = tokenizer.eos_token_id
    learnt = [found.ids[a:b] for a, b in found.spans]
    assert learnt == [[*map(ord, "yes"), end], [*map(ord, "no"), end]]


def test_rows_keep_their_order_and_equal_texts_their_own_spans(built_in: Any) -> None:
    rows = [rendered("a b", "b"), rendered("c", "c"), rendered("a b", "a b"), Rendered("")]
    found = list(Encoder(built_in).rows(rows))
    assert [len(row.spans) for row in found] == [1, 1, 1, 0]
    assert found[0].spans[0][0] == 2 and found[2].spans == [(0, 2)]
    assert found[3].ids == []


STRETCHES = ["x", " x", "👩‍🚀 ", "12", "\n\n", "e\u0301"]


@pytest.mark.parametrize("before", STRETCHES)
@pytest.mark.parametrize("answer", STRETCHES)
def test_no_token_is_lost_or_doubled(tokenizer: Any, before: str, answer: str) -> None:
    """A border that is cut loses no token; the prompt's are those of inference."""
    text = f"[INST]{before}{answer}</s>"
    start = len(f"[INST]{before}")
    found = encoded(tokenizer, Rendered(text, [Span(start, len(text))]))
    [(first, behind)] = found.spans
    prompt = plain(tokenizer, text[:start])
    assert found.ids[:first] == prompt
    assert behind == len(found.ids)
    assert found.is_split == (found.ids != plain(tokenizer, text))
    assert tokenizer.convert_ids_to_tokens(found.ids)[-1] == "</s>"
