"""Cuts texts into passages that fit a model's window, tokenising each text once.

    splitter = Splitter(Tokenizer.from_file("tokenizer.json"), max_tokens=512)
    [split] = splitter.split_many(["A long text. ..."])
    split.passages[0].token_ids  # ready for the model

The ids of the whole text are cut, not the text: what a passage reads is what the tokenizer made of it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

__all__ = ["SPLITTER_VERSION", "Passage", "Split", "Splitter"]

SPLITTER_VERSION = 1
"""Raised whenever the same text may be cut differently; part of the model fingerprint."""

# Few texts hold fewer characters a token: those of one script, and those that mix them.
CHARS_PER_TOKEN_ASCII = 4
CHARS_PER_TOKEN = 2

# A sentence ends after its mark and what closes with it (CJK writes no space after), a paragraph before an
# empty line. The repeats are bounded, and each starts at one place only, so that no text makes this slow.
_SENTENCE_END = re.compile(
    r"""
    (?<=[.!?…؟۔।॥։።]) ["'”’»)\]]{0,4} (?=\s)
    | (?<=[。！？｡]) ["'”’»)\]」』）】]{0,4}
    | (?<!\n) (?=\n[^\S\n]{0,99}\n)
    """,
    re.VERBOSE,
)


class Passage(NamedTuple):
    """A stretch of a text that fits the model's window.

    Attributes:
        start_char: Where it starts in the text, in characters.
        end_char: Where it ends (exclusive); the next passage starts here.
        token_ids: int32, shape (n,): what the model reads, special tokens and document prompt included.
        token_count: How many those are.
    """

    start_char: int
    end_char: int
    token_ids: NDArray[np.int32]
    token_count: int


class Split(NamedTuple):
    """The passages of one text, and whether any of it was left out."""

    passages: tuple[Passage, ...]
    truncated: bool


class Splitter:
    """Cuts texts to one model's window. Threads may share it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        overflow: Literal["split", "truncate"] = "split",
        prompt: str = "",
    ) -> None:
        """Prepares for a model.

        Args:
            tokenizer: The model's; it is copied, since others change its truncation as they like.
            max_tokens: The window, special tokens and prompt included.
            overflow: What becomes of a text longer than the window: `split` keeps all of it, `truncate` its
                first passage.
            prompt: What the model wants before every document; its tokens stand before each passage's.

        Raises:
            ValueError: The special tokens and the prompt leave no room for text.
        """
        # A copy through JSON is the one way the library offers.
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        before, after = _special_tokens(self._tokenizer)
        if prompt:
            before += self._tokenizer.encode(prompt, add_special_tokens=False).ids
        self._before_ids, self._after_ids = before, after
        self._before = np.array(before, dtype=np.int32)
        self._after = np.array(after, dtype=np.int32)
        self._room = max_tokens - len(before) - len(after)
        self._overflow = overflow
        if self._room < 1:
            raise ValueError(
                f"a window of {max_tokens} tokens has no room beside {len(before) + len(after)} of"
                " special tokens and prompt"
            )

    @property
    def prefix_length(self) -> int:
        """Tokens before each passage's own: special tokens and prompt."""
        return len(self._before)

    @property
    def special_length(self) -> int:
        """Tokens of each passage that are not its text's: special tokens and prompt."""
        return len(self._before) + len(self._after)

    def split_many(self, texts: Sequence[str]) -> list[Split]:
        """Cuts texts, which the tokenizer's threads share.

        Returns:
            For each text its passages, which together cover it from its first to its last character, white
            space included. A text that the tokenizer makes nothing of, or only white space, has none.

        Raises:
            TypeError: A text is not valid Unicode (it holds half of a surrogate pair).
        """
        few, many = self._room * CHARS_PER_TOKEN, self._room * CHARS_PER_TOKEN_ASCII
        short = [len(text) <= (many if text.isascii() else few) for text in texts]
        # Without the places of the tokens in the text, which take a quarter of the time: a text in one piece
        # needs none of them. A wrong guess costs time, nothing else.
        quick = iter(self._encodings(texts, short, self._tokenizer.encode_batch_fast))
        splits: list[Split | None] = [None] * len(texts)
        for index, text in enumerate(texts):
            if short[index]:
                ids = next(quick).ids
                if len(ids) <= self._room:
                    splits[index] = self._whole(text, ids)
        rest = [each is None for each in splits]
        encodings = iter(self._encodings(texts, rest, self._tokenizer.encode_batch))
        return [each or self._split(text, next(encodings)) for text, each in zip(texts, splits, strict=True)]

    def _encodings(
        self, texts: Sequence[str], chosen: Sequence[bool], encode: Callable[..., list[Encoding]]
    ) -> list[Encoding]:
        wanted = list(compress(texts, chosen))
        return encode(wanted, add_special_tokens=False) if wanted else []

    def _whole(self, text: str, ids: list[int]) -> Split:
        if not ids or text.isspace():
            return Split((), truncated=False)
        token_ids = np.array([*self._before_ids, *ids, *self._after_ids], dtype=np.int32)
        return Split((Passage(0, len(text), token_ids, len(token_ids)),), truncated=False)

    def _split(self, text: str, encoding: Encoding) -> Split:
        ids = np.array(encoding.ids, dtype=np.int32)
        if not len(ids) or text.isspace():
            return Split((), truncated=False)
        cuts = _Cuts(text, encoding)
        passages: list[Passage] = []
        token = start = 0
        while token < len(ids):
            if passages and self._overflow == "truncate":
                return Split(tuple(passages), truncated=True)
            limit = min(token + self._room, len(ids))
            cut = cuts.best(token, limit, start) if limit < len(ids) else cuts.end
            own = ids[token : min(cut.token, limit)]
            token_ids = np.concatenate((self._before, own, self._after))
            passages.append(Passage(start, cut.char, token_ids, len(token_ids)))
            token, start = cut.token, cut.char
        return Split(tuple(passages), truncated=False)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A place between two passages: the index of the token after it, and the character."""

    token: int
    char: int


class _Cuts:
    """The places where a tokenised text may be cut.

    Offsets are asked for token by token, near the cuts only: a list of them all costs more than all the rest
    of splitting.
    """

    def __init__(self, text: str, encoding: Encoding) -> None:
        self._text = text
        self._encoding = encoding
        self.end = _Cut(len(encoding), len(text))

    def best(self, first: int, limit: int, start: int) -> _Cut:
        """The best cut after token `first` and up to `limit`, for a passage that starts at character `start`.

        Only where one character alone has more tokens than fit does the cut lie behind `limit`.
        """
        late = max(first + 1, limit - (limit - first) // 4)
        return (
            self._sentence_end(late, limit, start)
            or self._word_start(late, limit, start)
            or self._part_start(first, limit, start)
            or self._character(first, limit, start)
        )

    def _offsets(self, token: int) -> tuple[int, int]:
        offsets = self._encoding.token_to_chars(token)
        assert offsets is not None  # tokens of special ids alone have none, and there are none of those here
        return offsets

    def _at(self, token: int, start: int) -> _Cut | None:
        """The cut before a token; None within a character, or where no text would lie before it.

        White space goes with what follows it: byte-level tokenizers see a word's space as part of the word.
        Anything else that became no token (accents, control characters) stays with what it follows.
        """
        char, following = self._offsets(token - 1)[1], self._offsets(token)[0]
        if following < char:
            return None
        while char < following and not self._text[char].isspace():
            char += 1
        return _Cut(token, char) if char > start else None

    def _sentence_end(self, late: int, limit: int, start: int) -> _Cut | None:
        # One character more, for the space that must follow the mark.
        zone = self._offsets(late - 1)[0], self._offsets(limit - 1)[1] + 1
        ends = [match.end() for match in _SENTENCE_END.finditer(self._text, *zone)]
        for end in reversed(ends):
            token = late + bisect_left(range(late, limit + 1), end, key=lambda t: self._offsets(t)[0])
            if token <= limit and self._offsets(token - 1)[1] <= end:
                cut = self._at(token, start)
                if cut:
                    return cut
        return None

    def _word_start(self, late: int, limit: int, start: int) -> _Cut | None:
        for token in range(limit, late - 1, -1):
            cut = self._at(token, start)
            if cut and (self._text[cut.char].isspace() or self._text[cut.char - 1].isspace()):
                return cut
        return None

    def _part_start(self, first: int, limit: int, start: int) -> _Cut | None:
        """The last cut between what the tokenizer takes for words: also ideographs and punctuation."""
        for token in range(limit, first, -1):
            if self._encoding.token_to_word(token) != self._encoding.token_to_word(token - 1):
                cut = self._at(token, start)
                if cut:
                    return cut
        return None

    def _character(self, first: int, limit: int, start: int) -> _Cut:
        """The last cut between two characters, else the first one after the limit."""
        tokens = chain(range(limit, first, -1), range(limit + 1, self.end.token))
        return next(filter(None, (self._at(token, start) for token in tokens)), self.end)


def _special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the model wants before and after a text, as the tokenizer's post-processor adds them."""
    framed = tokenizer.encode("a")
    own = [i for i, special in enumerate(framed.special_tokens_mask) if not special]
    if not own:
        return framed.ids, []
    return framed.ids[: own[0]], framed.ids[own[-1] + 1 :]
