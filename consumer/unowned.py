"""Finds partitions that no member of the group has, which the classic protocol can leave behind for ever.

A cooperative rebalance takes two rounds: members give partitions away in the first and ask for the second,
in which others get them. A static member that dies in between and is started again is handed what the first
round left it, without a rebalance, and does not know that it owes the group a second. If all of those that
gave something away die like this, nobody asks, and the broker has no reason to.

Any member that leaves and joins again starts a rebalance, so one is enough: the one with the least to lose.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping

from confluent_kafka.admin import AdminClient

from embedstream.group_members import classic_group

__all__ = ["Unowned", "shares_of", "watch"]

LOOKS = 3


class Unowned:
    """How long partitions have been without an owner, from one look at the group to the next."""

    def __init__(self, patience: float) -> None:
        """Nothing was seen yet.

        Args:
            patience: seconds that a partition may be without an owner; a revoke takes a part of them.
        """
        self.patience = patience
        self._since: dict[int, float] = {}

    def seen(
        self,
        member: str | None,
        shares: Mapping[str, Collection[int]] | None,
        partitions: Collection[int],
        now: float,
    ) -> list[int]:
        """Takes a look's result; returns the partitions for whose sake we are to join again, if any.

        Args:
            member: our own id in the group; None before it has let us in.
            shares: the partitions of each member, by its id; None while the group rebalances.
            partitions: all that the topic has.
            now: seconds of any clock that only goes forward.
        """
        if shares is None or member not in shares:
            self._since.clear()
            return []
        free = set(partitions).difference(*shares.values())
        self._since = {each: self._since.get(each, now) for each in free}
        overdue = sorted(each for each, since in self._since.items() if now - since >= self.patience)
        chosen = min(shares, key=lambda name: (len(shares[name]), name))
        if not overdue or chosen != member:
            return []
        self._since.clear()
        return overdue


def watch(
    unowned: Unowned,
    member: Callable[[], str | None],
    look: Callable[[], Mapping[str, Collection[int]] | None],
    partitions: Callable[[], Collection[int]],
    join_again: Callable[[list[int]], None],
    *,
    ending: threading.Event,
) -> None:
    """Looks a few times within the patience, until the daemon ends, and has it join again where needed."""
    while not ending.wait(unowned.patience / LOOKS):
        found = unowned.seen(member(), look(), partitions(), time.monotonic())
        if found:
            join_again(found)


def shares_of(admin: AdminClient, group: str, topic: str) -> dict[str, set[int]] | None:
    """Return the partitions of each member of a group; None if it is not settled, or nobody says."""
    found = classic_group(admin, group, topic)
    if found is None or not found.is_settled:
        return None
    return {member.id: set(member.partitions) for member in found.members}
