"""A queue between two threads, bounded by what its items cost."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["BoundedQueue", "Closed"]

T = TypeVar("T")


class Closed(Exception):
    """The queue is closed: nothing more comes, or nothing more is taken."""


class BoundedQueue(Generic[T]):
    """First in, first out; holds items up to a total cost, and at least one whatever it costs.

    The standard library's queue counts items and can't be closed; here a cost is bytes or one an item.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[tuple[T, int]] = deque()
        self._cost = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def cost(self) -> int:
        """The cost of all items in it."""
        return self._cost

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def capacity(self) -> int:
        """The most that it holds."""
        return self._capacity

    def try_put(self, item: T, cost: int = 1) -> bool:
        """Adds an item if there is room; never waits.

        Raises:
            Closed: the queue was closed.
        """
        with self._changed:
            if self._closed:
                raise Closed
            if self._items and self._cost + cost > self._capacity:
                return False
            self._items.append((item, cost))
            self._cost += cost
            self._changed.notify_all()
            return True

    def put_some(self, items: deque[T], cost: Callable[[T], int]) -> None:
        """Moves items from the front of `items` into it as long as there is room; never waits.

        Raises:
            Closed: the queue was closed.
        """
        with self._changed:
            if self._closed:
                raise Closed
            while items:
                each = cost(items[0])
                if self._items and self._cost + each > self._capacity:
                    break
                self._items.append((items.popleft(), each))
                self._cost += each
            self._changed.notify_all()

    def put(self, item: T, cost: int = 1) -> None:
        """Adds an item, waiting for room.

        Raises:
            Closed: the queue was closed, before or while waiting.
        """
        while not self.try_put(item, cost):
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._cost + cost <= self._capacity, 0.5)

    def get(self, timeout: float | None = None) -> T | None:
        """Takes the first item; None when none came within `timeout` seconds.

        Raises:
            Closed: the queue is closed and empty.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._items:
                if self._closed:
                    raise Closed
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            item, cost = self._items.popleft()
            self._cost -= cost
            self._changed.notify_all()
            return item

    def get_some(self, timeout: float, most: int, cost: int) -> list[T]:
        """Takes what is there, up to `most` items and until they cost `cost`; waits for the first one only.

        Raises:
            Closed: the queue is closed and empty.
        """
        first = self.get(timeout)
        if first is None:
            return []
        taken = [first]
        with self._changed:
            spent = 0
            while self._items and len(taken) < most and spent < cost:
                item, each = self._items.popleft()
                taken.append(item)
                spent += each
            self._cost -= spent
            self._changed.notify_all()
        return taken

    def close(self, *, discard: bool = False) -> None:
        """Takes no more items; those in it can still be taken unless they are discarded."""
        with self._changed:
            self._closed = True
            if discard:
                self._items.clear()
                self._cost = 0
            self._changed.notify_all()
