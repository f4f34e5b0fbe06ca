"""The daemon's Kafka clients, with the properties that its guarantees rest on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from confluent_kafka import Producer

from consumer.deliver import Delivery
from consumer.outbound import OutputLayout
from consumer.ownership import Ownership
from consumer.plain_commit import PlainDelivery
from consumer.poll import Poller
from consumer.position import place
from consumer.queues import BoundedQueue
from consumer.records import Polled
from consumer.topics import MESSAGE_MAX_BYTES
from consumer.transaction import PENDING_TIMEOUTS, TransactionalDelivery
from embedstream.kafka import make_consumer, make_producer
from embedstream.metrics import Metrics
from embedstream.settings import Settings

__all__ = ["REVOKE_SECONDS", "make_delivery", "make_poller"]

# A revoke waits at most so long for encoded windows to be delivered.
REVOKE_SECONDS = 2.0
STATISTICS_SECONDS = 1.0
# The Kafka client's own default for what it sends to a partition at once.
BATCH_BYTES = 1_000_000


def make_poller(
    all_settings: Settings,
    inputs: BoundedQueue[Polled],
    ownership: Ownership,
    metrics: Metrics,
    told: Callable[[str], None],
) -> Poller:
    """Make the poller with its consumer, which connects to nothing yet.

    Args:
        all_settings: `kafka` and `consumer` are used.
        inputs: Takes what is polled.
        ownership: Takes the assignments.
        metrics: The daemon's.
        told: Takes the client's statistics, about once a second.
    """
    settings = all_settings.consumer
    group: dict[str, Any] = {
        "group_id": settings.group,
        "max_poll_interval_ms": int(settings.max_poll_interval_seconds * 1000),
        "client_id": f"embedstream-{settings.instance_id}",
        "statistics_interval_ms": int(STATISTICS_SECONDS * 1000),
        "stats_cb": told,
        # Where to begin is decided in consumer.position, never by the client.
        "auto_offset_reset": "error",
        # How soon partitions that were added are noticed; the client's default is five minutes.
        "topic_metadata_refresh_interval_ms": 30_000,
    }
    if settings.group_protocol == "consumer":
        group["group_protocol"] = "consumer"
    else:
        group |= {
            "group_protocol": "classic",
            "partition_assignment_strategy": "cooperative-sticky",
            "session_timeout_ms": int(settings.session_timeout_seconds * 1000),
            "heartbeat_interval_ms": int(min(3.0, settings.session_timeout_seconds / 5) * 1000),
        }
        if settings.delivery == "exactly-once":
            # Whom the group fences can only be told by the transactional id that goes with it.
            group["group_instance_id"] = settings.instance_id
    return Poller(
        make_consumer(all_settings.kafka, **group),
        all_settings.kafka.documents_topic,
        inputs,
        ownership,
        metrics,
        revoke_seconds=REVOKE_SECONDS,
        max_poll_seconds=settings.max_poll_interval_seconds,
        pending_seconds=PENDING_TIMEOUTS * settings.transaction_timeout_seconds,
        place=partial(
            place,
            group=settings.group,
            skip_expired=settings.expired_offsets == "skip",
            metrics=metrics,
        ),
    )


def make_delivery(
    all_settings: Settings,
    poller: Poller,
    ownership: Ownership,
    layout: OutputLayout,
    fingerprint: str,
    chosen: Mapping[int, int],
    *,
    stopping: Callable[[], bool],
) -> Delivery:
    """Make what delivers windows, as `consumer.delivery` says.

    Args:
        all_settings: `kafka` and `consumer` are used.
        poller: Whose records are delivered.
        ownership: What may still be delivered.
        layout: Where output goes.
        fingerprint: The model's.
        chosen: See `consumer.offsets.offsets_of`.
        stopping: Ends waiting for brokers.
    """
    settings, kafka = all_settings.consumer, all_settings.kafka
    name = f"embedstream-{settings.group}-{settings.instance_id}"
    common = {
        "message_max_bytes": MESSAGE_MAX_BYTES,
        # A batch that is too large for its topic is refused whole, however small its records.
        "batch_size": max(1, min(BATCH_BYTES, layout.batch_bytes)),
        "client_id": name,
    }
    if settings.delivery == "at-least-once":
        return PlainDelivery(
            lambda: make_producer(kafka, **common), poller, fingerprint=fingerprint, chosen=chosen
        )
    timeout_ms = int(settings.transaction_timeout_seconds * 1000)

    def producer() -> Producer:
        return make_producer(kafka, transactional_id=name, transaction_timeout_ms=timeout_ms, **common)

    return TransactionalDelivery(
        producer,
        poller,
        ownership,
        topic=kafka.documents_topic,
        transactional_id=name,
        fingerprint=fingerprint,
        chosen=chosen,
        timeout_seconds=settings.transaction_timeout_seconds,
        stopping=stopping,
    )
