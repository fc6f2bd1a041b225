"""Texts → token ids, with the tokens of each span that is learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

from trials.rendering.spans import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedRow:
    ids: list[int]
    spans: list[tuple[int, int]]
    """(first token, behind the last) of each span."""
    is_split: bool = False
    """Whether a token lay across a border of a span, so that the text was tokenised in two."""


def opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the beginning of sequence, if the tokenizer puts one before a text by itself."""
    tokens: list[int] = tokenizer("").input_ids[:1]
    return tokens if tokens == [tokenizer.bos_token_id] else []


class Encoder:
    """Tokenises each text once, as inference does, and maps spans of characters to tokens.

    A tokenizer without offsets (one written in Python) gets the stretches between the borders of
    spans, each on its own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        # First, since its plain call takes away what the file says of padding and cutting.
        self.opening = opening(tokenizer)
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._added = frozenset(tokenizer.added_tokens_decoder)
        self._known: dict[tuple[str, str], bool] = {}
        self._prefix = self._prefix_of_texts() if self._backend else ""

    def ids(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return tokens

    def rows(self, rows: Sequence[Rendered]) -> Iterator[EncodedRow]:
        if self._backend is None:
            yield from map(self._in_stretches, rows)
            return
        texts = list(dict.fromkeys(row.text for row in rows))
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        encoded = dict(zip(texts, encodings, strict=True))
        for row in rows:
            yield self._mapped(row, encoded[row.text])

    def _mapped(self, row: Rendered, encoding: Any) -> EncodedRow:
        whole = [_Piece(0, len(row.text), encoding)]
        borders = [span.start for span in row.spans if span.departs_from is None]
        crossed = [
            place
            for place in borders
            if place and (_may_cross(encoding, place) or self._looks_ahead(row.text, place))
        ]
        ends = (span.stop for span in row.spans if span.stop < len(row.text))
        crossed += [place for place in ends if self._runs_on(encoding, place)]
        if crossed:
            stretches = pairwise([0, *sorted(set(crossed)), len(row.text)])
            pieces = [self._piece(row.text, begin, end) for begin, end in stretches]
            ids = list(chain.from_iterable(p.ids for p in pieces))
            return EncodedRow(ids, self._spans(row, pieces, ids), ids != encoding.ids)
        ids = encoding.ids  # a list made anew at each asking
        return EncodedRow(ids, self._spans(row, whole, ids))

    def _runs_on(self, encoding: Any, place: int) -> bool:
        """Whether the token that ends a turn holds a part of what follows.

        A special token may, which takes white space along.
        """
        last = encoding.char_to_token(place - 1)
        if last is None or last != encoding.char_to_token(place):
            return False
        return encoding.ids[last] not in self._added

    def _looks_ahead(self, text: str, place: int) -> bool:
        """Whether white space before a border has other tokens for what follows.

        Of several such characters, GPT-2's pattern leaves the last to what stands behind them.
        """
        if not text[max(0, place - 2) : place].isspace() or place < 2 or place >= len(text):
            return False
        return self._changes(text[max(0, place - 16) : place], text[place])

    def _changes(self, before: str, behind: str) -> bool:
        """Whether a text has other tokens where a character follows: asked once for each."""
        if (before, behind) not in self._known:
            alone, longer = (
                self._backend.encode(text, add_special_tokens=False).ids
                for text in (before, before + behind)
            )
            self._known[before, behind] = longer[: len(alone)] != alone
        return self._known[before, behind]

    def _piece(self, text: str, begin: int, end: int) -> _Piece:
        prefix = self._prefix if begin else ""
        encoding = self._backend.encode(prefix + text[begin:end], add_special_tokens=False)
        skipped = len(self._backend.encode(prefix, add_special_tokens=False).ids) if prefix else 0
        return _Piece(begin, end, encoding, len(prefix), skipped)

    def _spans(self, row: Rendered, pieces: list[_Piece], ids: list[int]) -> list[tuple[int, int]]:
        found = []
        for span in row.spans:
            first, behind = _first_token(pieces, span.start), _behind_last(pieces, span.stop)
            if span.departs_from is not None:
                # Within the prompt: from the first token that is not the prompt's.
                prompt = self._backend.encode(span.departs_from, add_special_tokens=False).ids
                shared = (n for n, pair in enumerate(zip(prompt, ids)) if pair[0] != pair[1])  # noqa: B905
                first = min(first, next(shared, first))
            found.append((first, behind))
        return found

    def _in_stretches(self, row: Rendered) -> EncodedRow:
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        place = 0
        for span in row.spans:
            for begin, end in ((place, span.start), (span.start, span.stop)):
                first, text = len(ids), row.text[begin:end]
                ids += self._tokenizer(text, add_special_tokens=False).input_ids if text else []
            spans.append((first, len(ids)))
            place = span.stop
        rest = row.text[place:]
        ids += self._tokenizer(rest, add_special_tokens=False).input_ids if rest else []
        return EncodedRow(ids, spans)

    def _prefix_of_texts(self) -> str:
        """What keeps a later piece from being tokenised as the beginning of a text.

        SentencePiece's tokenizers put a space before a text; behind a line break they put none.
        """
        alone, behind = (
            self._backend.encode(text, add_special_tokens=False).ids for text in ("a", "\na")
        )
        line_break = self._backend.encode("\n", add_special_tokens=False).ids
        is_whole = behind[: len(line_break)] == line_break
        return "\n" if is_whole and behind[len(line_break) :] != alone else ""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of a text, tokenised on its own."""

    begin: int
    end: int
    """In characters of the text."""
    encoding: Any
    n_prefix: int = 0
    """Characters that were put before it."""
    n_skipped: int = 0
    """Their tokens."""

    @property
    def ids(self) -> list[int]:
        tokens: list[int] = self.encoding.ids
        return tokens[self.n_skipped :]

    def first_token(self, place: int) -> int:
        """The first token that begins at or behind a character, or holds it."""
        for at in range(place, self.end):
            token = self.encoding.char_to_token(at - self.begin + self.n_prefix)
            if token is not None:
                return int(token) - self.n_skipped
        return len(self.ids)

    def behind_last(self, place: int) -> int:
        """Behind the last token that begins before a character."""
        for at in range(place - 1, self.begin - 1, -1):
            token = self.encoding.char_to_token(at - self.begin + self.n_prefix)
            if token is not None:
                # A character may be several tokens.
                while (chars := self.encoding.token_to_chars(token + 1)) and (
                    chars[0] < place - self.begin + self.n_prefix
                ):
                    token += 1
                return int(token) + 1 - self.n_skipped
        return 0


def _first_token(pieces: list[_Piece], place: int) -> int:
    before = 0
    for piece in pieces:
        if place < piece.end:
            return before + piece.first_token(place)
        before += len(piece.ids)
    return before


def _behind_last(pieces: list[_Piece], place: int) -> int:
    before = 0
    for piece in pieces:
        if place <= piece.end:
            return before + piece.behind_last(place)
        before += len(piece.ids)
    return before


def _may_cross(encoding: Any, place: int) -> bool:
    """Whether a token may lie across; white space may belong to no token at all."""
    before, behind = encoding.char_to_token(place - 1), encoding.char_to_token(place)
    if before is None or behind is None or before == behind:
        return True
    # Bytes of unknown characters in a row are tokens that all begin at the first of these.
    return bool(encoding.token_to_chars(behind)[0] < place)
