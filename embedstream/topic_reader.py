"""Reads a stretch of one partition in order, to its very end, outside of any consumer group."""

from __future__ import annotations

import time
from collections.abc import Generator

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from embedstream.errors import ConfigError, EmbedstreamError, TryAgainError
from embedstream.kafka import explain, make_consumer
from embedstream.settings import KafkaSettings

__all__ = ["STALL_SECONDS", "message_headers", "read_partition"]

STALL_SECONDS = 90.0
"""How long a reader waits for a next record: longer than a dead daemon's transaction, with the defaults.

A broker ends such a transaction after its time-out (30 s) at its next look (every 10 s), or when the daemon
comes back; with a time-out of 60 s it took 64.
"""

_POLL_SECONDS = 0.5


def read_partition(
    kafka: KafkaSettings,
    topic: str,
    partition: int,
    *,
    start: int,
    end: int,
    buffer_kbytes: int = 16_384,
    stall_seconds: float = STALL_SECONDS,
) -> Generator[Message]:
    """Yield the committed records from offset `start` to before `end`, in order.

    Ends when everything before `end` was read, be it records, aborted records or transaction markers. While
    an open transaction keeps records before `end` from being read, it waits. The client lives as long as the
    iterator: close that (`contextlib.closing`) where it may be left before its end.

    Args:
        kafka: How to connect.
        topic: The topic to read.
        partition: The partition to read.
        start: Offset of the first record.
        end: At most the high watermark.
        buffer_kbytes: What the client reads ahead, in KiB; it may exceed it by one fetch.
        stall_seconds: How long to wait for a next record.

    Raises:
        TryAgainError: A transaction stayed open for `stall_seconds`.
        ConfigError: The broker does not allow the topic to be read.
        ServiceUnavailableError: No broker answered for `stall_seconds`.
    """
    if start >= end:
        return
    consumer = make_consumer(
        kafka,
        # A group has to be named, but no group is joined and nothing is committed.
        group_id="embedstream-reader",
        queued_max_messages_kbytes=buffer_kbytes,
        queued_min_messages=1000,
        fetch_message_max_bytes=min(1024, buffer_kbytes) * 1024,
        # How soon to fetch again after the buffer was full: by default it then stays empty for a second.
        fetch_queue_backoff_ms=20,
        # How long the broker holds back the answer that the end was reached.
        fetch_wait_max_ms=100,
    )
    try:
        consumer.assign([TopicPartition(topic, partition, start)])
        reached = start
        deadline = time.monotonic() + stall_seconds
        trouble: EmbedstreamError = explain(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
        while reached < end:
            message = consumer.poll(_POLL_SECONDS)
            if message is None:
                if time.monotonic() > deadline:
                    raise trouble
                continue
            error, offset = message.error(), message.offset() or 0
            if error is None:
                if offset < end:
                    yield message
                reached = max(reached, offset + 1)
                deadline = time.monotonic() + stall_seconds
            elif error.code() == KafkaError._PARTITION_EOF:
                # After the last record there may be aborted records and transaction markers.
                reached = max(reached, offset)
                trouble = TryAgainError(
                    f"an open transaction holds readers of {topic}/{partition} back at offset {reached}",
                    "try again when the daemon that began it has ended it, or the broker has timed it out",
                )
            else:
                trouble = explain(KafkaException(error))
                if error.fatal() or isinstance(trouble, ConfigError):
                    raise trouble
    finally:
        consumer.close()


def message_headers(message: Message) -> list[tuple[str, bytes | str | None]]:
    """Return the headers as the list that the client returns, whatever its types say."""
    headers = message.headers() or []
    return list(headers.items()) if isinstance(headers, dict) else headers
