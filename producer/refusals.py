"""Why something of the corpus is not in the topic: a closed set of reasons, and how they are counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "LASTING",
    "Reason",
    "Refusal",
    "RefusedError",
    "Tally",
    "printable",
    "refusal_lines",
    "refusals_json",
]


class Reason(StrEnum):
    """Why a document was refused, or, from `HIDDEN` on, what else is worth knowing about the corpus."""

    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    NESTED_TOO_DEEP = "nested_too_deep"
    NO_CONTENT = "no_content"
    EMPTY = "empty"
    CONTENT_NOT_TEXT = "content_not_text"
    NOT_UTF8 = "not_utf8"
    LONE_SURROGATE = "lone_surrogate"
    WRONG_HASH = "wrong_hash"
    BAD_ID = "bad_id"
    BAD_FRONT_MATTER = "bad_front_matter"
    BAD_SIDECAR = "bad_sidecar"
    NO_COLUMN = "no_column"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"
    VANISHED = "vanished"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    EXPANDS_TOO_MUCH = "expands_too_much"
    CHANGED = "changed"
    EXTRA_MISSING = "extra_missing"
    NOT_DELIVERED = "not_delivered"

    HIDDEN = "hidden"
    UNKNOWN_SUFFIX = "unknown_suffix"
    NOT_A_FILE = "not_a_file"
    SYMLINK_LOOP = "symlink_loop"
    METADATA_CUT = "metadata_cut"
    NO_METADATA_COLUMN = "no_metadata_column"
    SIDECAR = "sidecar"
    EXCLUDED = "excluded"
    REPEATED_ID = "repeated_id"
    NOT_PRUNED = "not_pruned"

    @property
    def is_notice(self) -> bool:
        """Whether it is about what was never meant to be a document, or was sent all the same."""
        return self in _NOTICES


_NOTICES = frozenset(
    {
        Reason.HIDDEN,
        Reason.UNKNOWN_SUFFIX,
        Reason.NOT_A_FILE,
        Reason.SYMLINK_LOOP,
        Reason.METADATA_CUT,
        Reason.NO_METADATA_COLUMN,
        Reason.SIDECAR,
        Reason.EXCLUDED,
        Reason.REPEATED_ID,
        Reason.NOT_PRUNED,
    }
)

LASTING = frozenset(
    {
        Reason.NOT_JSON,
        Reason.NOT_AN_OBJECT,
        Reason.NESTED_TOO_DEEP,
        Reason.NO_CONTENT,
        Reason.EMPTY,
        Reason.CONTENT_NOT_TEXT,
        Reason.NOT_UTF8,
        Reason.LONE_SURROGATE,
        Reason.WRONG_HASH,
        Reason.BAD_ID,
        Reason.BAD_FRONT_MATTER,
        Reason.BAD_SIDECAR,
        Reason.NO_COLUMN,
        Reason.TRUNCATED,
        Reason.CORRUPT,
        Reason.METADATA_CUT,
        Reason.NO_METADATA_COLUMN,
        Reason.REPEATED_ID,
    }
)
"""What a file is refused for as long as it stays as it is, whatever becomes of disk, topic and limits."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One document, file or folder that was refused or skipped.

    Attributes:
        reason: Why.
        path: Where: a path that can be printed; in JSON Lines with `:` and the line's number.
        message: What exactly is wrong, in one line.
    """

    reason: Reason
    path: str
    message: str


class RefusedError(Exception):
    """A document can't be taken; whoever knows where it lies makes a `Refusal` of it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def at(self, path: str) -> Refusal:
        """Return the refusal of what lies at `path`."""
        return Refusal(self.reason, printable(path), " ".join(self.message.split()))


class Tally:
    """Counts refusals by reason and keeps the first few of each: a million bad files take no more memory.

    Attributes:
        examples: The first refusals of each reason, in the order they came.
    """

    def __init__(self, examples_per_reason: int = 10) -> None:
        self.examples: list[Refusal] = []
        self._counts: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._limit = examples_per_reason

    @property
    def counts(self) -> dict[str, int]:
        """How many there were of each reason, the most frequent first."""
        return dict(self._counts.most_common())

    @property
    def total(self) -> int:
        """How many there were."""
        return self._counts.total()

    def add(self, refusal: Refusal, count: int = 1) -> None:
        """Count one more, or several that are told by one."""
        reason = refusal.reason.value
        self._counts[reason] += count
        if self._kept[reason] < self._limit:
            self._kept[reason] += 1
            self.examples.append(refusal)

    def weighted(self) -> Iterator[tuple[Refusal, int]]:
        """Yield the examples, each with how many it stands for: what `add` makes the same tally of."""
        rest = self._counts - self._kept
        for each in self.examples:
            yield each, 1 + rest.pop(each.reason.value, 0)


def refusals_json(examples: Sequence[Refusal]) -> list[dict[str, str]]:
    """Return refusals as what `json.dumps` takes."""
    return [{"reason": each.reason.value, "path": each.path, "message": each.message} for each in examples]


def refusal_lines(title: str, counts: Mapping[str, int], examples: Sequence[Refusal]) -> Iterator[str]:
    """Yield each reason with its count and examples, for a person to read."""
    for reason, count in counts.items():
        yield f"{title}: {reason}: {count:,}"
        yield from (_one_line(f"  {each.path}: {each.message}") for each in examples if each.reason == reason)


def _one_line(text: str) -> str:
    """Return text without what moves a terminal's cursor: the name of a file may hold anything."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable(path: str) -> str:
    r"""Return a path as text that UTF-8 can hold: bytes of a name that are not UTF-8 become `\xNN`."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "backslashreplace")
