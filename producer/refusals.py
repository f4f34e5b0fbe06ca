"""Why something of the corpus is not in the topic: a closed set of reasons, and how they are counted."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Reason", "Refusal", "RefusedError", "Tally", "printable"]


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
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"
    VANISHED = "vanished"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    NOT_DELIVERED = "not_delivered"

    HIDDEN = "hidden"
    UNKNOWN_SUFFIX = "unknown_suffix"
    NOT_A_FILE = "not_a_file"
    SYMLINK_LOOP = "symlink_loop"
    METADATA_CUT = "metadata_cut"

    @property
    def is_notice(self) -> bool:
        """Whether it is about what was never meant to be a document, or was sent all the same."""
        return self in _NOTICES


_NOTICES = frozenset(
    {Reason.HIDDEN, Reason.UNKNOWN_SUFFIX, Reason.NOT_A_FILE, Reason.SYMLINK_LOOP, Reason.METADATA_CUT}
)


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
        self._limit = examples_per_reason

    @property
    def counts(self) -> dict[str, int]:
        """How many there were of each reason, the most frequent first."""
        return dict(self._counts.most_common())

    def add(self, refusal: Refusal) -> None:
        """Count one more."""
        self._counts[refusal.reason.value] += 1
        if self._counts[refusal.reason.value] <= self._limit:
            self.examples.append(refusal)


def printable(path: str) -> str:
    r"""Return a path as text that UTF-8 can hold: bytes of a name that are not UTF-8 become `\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
