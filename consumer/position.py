"""Where to read a partition on that has no offset to go on from, or one that its log does not hold.

The Kafka client is told never to choose by itself (`auto.offset.reset=error`): its choice would skip records
without a word, or read a topic that was made again from somewhere in its middle.
"""

from __future__ import annotations

import time
from typing import NoReturn

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from consumer.topics import NEW_INPUT_MEND
from embedstream.errors import ConfigError
from embedstream.kafka import describe_error
from embedstream.logs import get_logger
from embedstream.metrics import Metrics

__all__ = ["END_LOOKS", "LOOK_SECONDS", "place", "refuse_beyond", "refuse_expired"]

# On the poll thread: far below any poll interval.
WATERMARK_SECONDS = 3.0
# How often an end is looked at that lies before what is known of its partition, and how far apart.
END_LOOKS = 5
LOOK_SECONDS = 1.0

_log = get_logger("position")


def place(
    consumer: Consumer,
    topic: str,
    partition: int,
    offset: int | None,
    *,
    group: str,
    skip_expired: bool,
    metrics: Metrics,
) -> TopicPartition:
    """Finds where to go on with a partition that the client has stopped to fetch.

    Args:
        consumer: owns the partition.
        topic: the documents topic.
        partition: of it.
        offset: what the broker does not hold; None where the group has committed none, which begins at the
            beginning.
        group: for what is told.
        skip_expired: whether to go on after records that were deleted unread.
        metrics: counts those.

    Returns:
        The partition, with the offset to assign it at.

    Raises:
        ConfigError: the offset lies beyond the end, or before the beginning and nothing may be skipped.
    """
    start = OFFSET_BEGINNING
    if offset is not None and offset >= 0:
        start = offset
        try:
            low, high = _watermarks(consumer, TopicPartition(topic, partition), offset)
        except KafkaException as exception:
            # Fetched again at the same offset, the broker refuses it again.
            _log.warning("offset_not_looked_up", partition=partition, error=describe_error(exception.args[0]))
        else:
            if offset > high:
                refuse_beyond(topic, partition, offset, high, group)
            if offset < low:
                if not skip_expired:
                    refuse_expired(topic, partition, offset, low, group)
                _log.warning(
                    "records_skipped", partition=partition, offset=offset, to=low, count=low - offset
                )
                metrics.expired_records_total.labels(partition=partition).inc(low - offset)
                start = low
    return TopicPartition(topic, partition, start)


def _watermarks(consumer: Consumer, partition: TopicPartition, offset: int) -> tuple[int, int]:
    """Where the log begins and ends; looked at again where that is before the offset.

    A broker that comes back believes for a moment that it leads what it led, and tells the end of then.
    """
    for _ in range(END_LOOKS):
        low, high = consumer.get_watermark_offsets(partition, timeout=WATERMARK_SECONDS)
        if offset <= high:
            break
        time.sleep(LOOK_SECONDS)
    return low, high


def refuse_expired(topic: str, partition: int, offset: int, low: int, group: str) -> NoReturn:
    """Ends the daemon where records were deleted before the group has read them.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"{topic!r} partition {partition} begins at offset {low}, and consumer.group {group!r} goes on at"
        f" {offset}: up to {low - offset} records were deleted unread",
        "start with --expired-offsets skip to go on without them",
    )


def refuse_beyond(topic: str, partition: int, offset: int, high: int, group: str) -> NoReturn:
    """Ends the daemon where an offset lies beyond the end: the topic is another, or has lost records.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"{topic!r} partition {partition} ends at offset {high}, and consumer.group {group!r} goes on at"
        f" {offset}: the topic was made again, or has lost records",
        NEW_INPUT_MEND,
    )
