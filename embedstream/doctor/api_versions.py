"""Which requests a broker takes, in which versions, and which of those that are needed it lacks.

The client tells the versions in its log only, once for each connection, behind TLS and a password as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from embedstream.settings import ConsumerSettings

__all__ = ["VersionLog", "lacking"]

_LINE = re.compile(r"ApiKey (\w+?)(?:Request)? \(\d+\) Versions \d+\.\.(\d+)")


@dataclass(frozen=True)
class _Need:
    """A request in a version, and what for."""

    request: str
    version: int
    what_for: str


_ALWAYS = (
    _Need("Produce", 7, "zstd"),
    _Need("Fetch", 4, "isolation.level read_committed"),
    _Need("ListOffsets", 2, "end offsets of committed records"),
    _Need("InitProducerId", 0, "an idempotent producer"),
    _Need("OffsetFetch", 1, "committed offsets"),
    _Need("CreateTopics", 0, "`topics create`"),
    _Need("DescribeConfigs", 0, "`topics check`"),
)
_EXACTLY_ONCE = (
    _Need("AddPartitionsToTxn", 0, "transactions"),
    _Need("AddOffsetsToTxn", 0, "transactions"),
    _Need("EndTxn", 0, "transactions"),
    _Need("TxnOffsetCommit", 3, "offsets in a transaction that a rebalance fences (KIP-447)"),
)
_CLASSIC = (_Need("JoinGroup", 5, "static members (KIP-345)"),)
_CONSUMER = (_Need("ConsumerGroupHeartbeat", 0, "consumer.group_protocol consumer (KIP-848)"),)


class VersionLog:
    """A logger for a client with `debug=feature`: keeps the versions that brokers tell.

    Attributes:
        versions: Of each request by name, the highest; of several brokers the lowest such.
    """

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}

    def log(self, _: int, message: str, *args: object) -> None:
        """A line of the client's log."""
        found = _LINE.search(message % args if args else message)
        if found is not None:
            name, version = found[1], int(found[2])
            self.versions[name] = min(version, self.versions.get(name, version))


def lacking(versions: Mapping[str, int], consumer: ConsumerSettings) -> list[str]:
    """Which needed requests a broker lacks, each with what it is for.

    Args:
        versions: As `VersionLog` keeps them.
        consumer: Delivery and group protocol decide what is needed.
    """
    needs = [*_ALWAYS]
    needs += _EXACTLY_ONCE if consumer.delivery == "exactly-once" else ()
    needs += _CLASSIC if consumer.group_protocol == "classic" else _CONSUMER
    return [
        f"{need.request} in version {need.version} ({need.what_for})"
        for need in needs
        if versions.get(need.request, -1) < need.version
    ]
