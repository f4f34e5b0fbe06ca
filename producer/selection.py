"""A sample of a corpus: the same documents every time, spread over all of it.

Every document has a number that its path (and its line, in a file of many) decides; a sample is all documents
whose number is below a bound. A larger sample contains the smaller one, and a document that is added changes
nothing about the others. To find the bound, the corpus is walked once more: files of many documents are read
for it, but not parsed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALL", "BoundFinder", "Selection", "number_of"]

_END = 1 << 64
_BUFFER = 100_000


@dataclass(frozen=True, slots=True)
class Selection:
    """Which documents are wanted.

    Attributes:
        below: Those whose number is below this.
    """

    below: int = _END

    def takes(self, relative: str, line: int | None = None) -> bool:
        """Return whether a document is wanted.

        Args:
            relative: Path of its file relative to the root.
            line: Its line or row, from 1; None in a file that is one document.
        """
        return self.below == _END or number_of(relative, line) < self.below


ALL = Selection()
"""Everything."""


def number_of(relative: str, line: int | None = None) -> int:
    """Return the number of a document, spread evenly from 0 to 2**64."""
    name = relative if line is None else f"{relative}#{line}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


class BoundFinder:
    """Finds the bound below which the documents together weigh what is asked for.

    Only the documents that may still be below it are remembered: 16 bytes for each.
    """

    def __init__(self, target: int) -> None:
        """Begin.

        Args:
            target: What the documents are to weigh together; at least 1.
        """
        self._target = target
        self._numbers: NDArray[np.uint64] = np.empty(_BUFFER, np.uint64)
        self._weights: NDArray[np.int64] = np.empty(_BUFFER, np.int64)
        self._count = 0
        self._below = _END

    def add(self, number: int, weight: int) -> None:
        """Look at one document."""
        if number >= self._below:
            return
        if self._count == len(self._numbers):
            self._shrink()
        self._numbers[self._count] = number
        self._weights[self._count] = weight
        self._count += 1

    def below(self) -> int:
        """Return the bound: those below it weigh at least the target, or are all there are."""
        self._shrink()
        return self._below

    def _shrink(self) -> None:
        order = np.argsort(self._numbers[: self._count], kind="stable")
        numbers, weights = self._numbers[: self._count][order], self._weights[: self._count][order]
        enough = int(np.searchsorted(np.cumsum(weights), self._target)) + 1
        if enough <= self._count:
            self._below = int(numbers[enough - 1]) + 1
        self._count = min(enough, self._count)
        size = max(_BUFFER, 2 * self._count)
        self._numbers, self._weights = np.empty(size, np.uint64), np.empty(size, np.int64)
        self._numbers[: self._count] = numbers[: self._count]
        self._weights[: self._count] = weights[: self._count]
