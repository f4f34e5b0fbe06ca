"""When a window closes: pure logic, with the clock passed in."""

from __future__ import annotations

import itertools

from consumer.records import Item, SplitDocument, Window, polled

__all__ = ["WindowBuilder"]


class WindowBuilder:
    """Gathers items in the order they were read, and closes a window when it holds enough.

    Enough is about `seconds` of encoding at the rate measured so far, or `size` bytes of input. A window that
    is smaller closes after `linger` seconds, but only when the encoder has nothing to do: while it is busy, a
    larger window costs no time and saves a commit, and a commit takes 50 to 100 ms whatever it holds.
    """

    def __init__(self, *, seconds: float, size: int, linger: float, first_tokens: int) -> None:
        """Sets the limits.

        Args:
            seconds: Encoding time that a window should hold.
            size: Most bytes of input in a window.
            linger: Longest wait, in seconds, for more input while the encoder is idle.
            first_tokens: Tokens of a window as long as no rate has been measured.
        """
        self._seconds = seconds
        self._size_limit = size
        self._linger = linger
        self._token_limit = first_tokens
        self._items: list[Item] = []
        self._tokens = 0
        self._size = 0
        self._since = 0.0
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._items)

    def measured(self, tokens_per_second: float) -> None:
        """Sets the token limit from a measured rate."""
        self._token_limit = max(1, int(tokens_per_second * self._seconds))

    def add(self, item: Item, now: float) -> Window | None:
        """Adds an item; returns the window if this one fills it."""
        if not self._items:
            self._since = now
        self._items.append(item)
        # A refused record travels on to the dead letters: its bytes count, its tokens don't.
        self._size += polled(item).size
        if isinstance(item, SplitDocument):
            for passage in item.passages:
                self._tokens += passage.token_count
        full = self._tokens >= self._token_limit or self._size >= self._size_limit
        return self._close() if full else None

    def idle(self, now: float) -> Window | None:
        """Called when the encoder has nothing waiting; returns the window if it has lingered long enough."""
        if not self._items:
            return None
        return self._close() if now - self._since >= self._linger else None

    def seconds_left(self, now: float) -> float | None:
        """How long until `idle` would close the window, in seconds; None while there is none."""
        return max(0.0, self._since + self._linger - now) if self._items else None

    def _close(self) -> Window:
        window = Window(next(self._numbers), tuple(self._items), self._size)
        self._items, self._tokens, self._size = [], 0, 0
        return window
