"""Which partitions are this daemon's, so that nothing is committed for one that was taken away.

Fresh group metadata does not prove ownership: a member that was stopped past its session, resumed and
rejoined may commit offsets of partitions that another has read meanwhile, and the broker accepts it. So every
assignment of a partition has a number; a record carries the number under which it was read, and a transaction
covers only records whose number is today's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TypeVar

from consumer.records import Item, Polled, polled

__all__ = ["Ownership"]

T = TypeVar("T", bound=Item)
Partition = tuple[str, int]


class Ownership:
    """The numbers of today's assignments, and whether a transaction is open under them.

    The poll thread changes the numbers (in the group's callbacks), the deliver thread opens and closes
    transactions. Both happen under one lock, so that a transaction either began before a partition was taken
    away, in which case the callback waits for its end, or does not contain that partition's records.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers: dict[Partition, int] = {}
        self._next_number = 1
        self._open = False
        self._lost = False

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Gives each partition a new number."""
        with self._changed:
            for partition in partitions:
                self._numbers[partition] = self._next_number
                self._next_number += 1

    def withdraw(self, partitions: Iterable[Partition], *, lost: bool = False) -> None:
        """Takes partitions away; with `lost`, an open transaction must not commit any more."""
        with self._changed:
            for partition in partitions:
                self._numbers.pop(partition, None)
            self._lost = self._lost or (lost and self._open)

    def number(self, partition: Partition) -> int | None:
        """The number of today's assignment, or None if the partition is not ours."""
        return self._numbers.get(partition)

    @property
    def partitions(self) -> frozenset[Partition]:
        """The partitions that are ours today."""
        with self._changed:
            return frozenset(self._numbers)

    def current(self, inputs: Sequence[Polled]) -> list[Polled]:
        """Those inputs that were read under today's assignments; the others are for their new owners."""
        with self._changed:
            return [each for each in inputs if self._is_current(each)]

    def owned(self, items: Sequence[T]) -> list[T]:
        """Those items whose partitions are still ours, under the same assignment."""
        with self._changed:
            return self._owned(items)

    def open_transaction(self, items: Sequence[T]) -> list[T]:
        """Opens a transaction over the items that are still ours, and returns them.

        Until `close_transaction`, no callback of the group returns. Nothing is opened for no items.
        """
        with self._changed:
            kept = self._owned(items)
            self._open = bool(kept)
            self._lost = False
            return kept

    def close_transaction(self) -> None:
        """The transaction was committed or aborted, or its producer thrown away."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    @property
    def is_lost(self) -> bool:
        """Whether partitions were lost (not revoked) since the open transaction began."""
        return self._lost

    @property
    def transaction_open(self) -> bool:
        """Whether a transaction is open."""
        return self._open

    def _owned(self, items: Sequence[T]) -> list[T]:
        return [item for item in items if self._is_current(polled(item))]

    def _is_current(self, source: Polled) -> bool:
        return self._numbers.get((source.topic, source.partition)) == source.assignment
