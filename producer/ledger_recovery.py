"""Takes what the topic holds into the ledger: its tail after a run that was killed, or all of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from confluent_kafka import Message

from embedstream.logs import get_logger
from embedstream.settings import KafkaSettings
from embedstream.topic_reader import message_headers, read_partition
from producer.documents import hash_of_metadata
from producer.ledger import FROM_TOPIC, Ledger, Place, Rows
from schemas.deletion import deletion_version
from schemas.records import Document
from schemas.wire import WireError, decode_document

__all__ = ["recover"]

_ROWS_AT_A_TIME = 1000

_log = get_logger("producer")


def recover(
    kafka: KafkaSettings,
    ledger: Ledger,
    starts: dict[int, int],
    ends: dict[int, int],
    stopped: Callable[[], bool],
) -> int:
    """Bring the ledger up to what the topic holds; return how many documents were taken in.

    A document of which a segment is missing counts as not sent: the run that sent it was killed in between.

    Args:
        kafka: Where the topic is.
        ledger: Open. What is known of a partition before the start is taken as right.
        starts: Of each partition, the offset to read from.
        ends: Of each partition, the offset to read up to.
        stopped: Whether to end early; what was read until then is in the ledger.

    Raises:
        ServiceUnavailableError: No broker answers any more.
    """
    taken = 0
    for partition, end in sorted(ends.items()):
        found = _Partition(ledger)
        messages = read_partition(
            kafka, kafka.documents_topic, partition, start=starts.get(partition, 0), end=end
        )
        with closing(messages):
            for message in messages:
                found.add(message)
                if len(found.places) + len(found.deletions) >= _ROWS_AT_A_TIME:
                    taken += found.write()
                if stopped():
                    break
        taken += found.write()
        if stopped():
            return taken
        rows = Rows(offsets={partition: end})
        ledger.write(rows)
    if taken:
        _log.info("ledger_recovered", documents=taken)
    return taken


class _Partition:
    """What was read of one partition and is not in the ledger yet.

    Attributes:
        places: By id, the newest version that is complete.
        deletions: By id, the version of the newest.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.places: dict[str, Place] = {}
        self.deletions: dict[str, int] = {}
        self._ledger = ledger
        # Of versions that are not complete, which segments were seen.
        self._segments: dict[tuple[str, int], set[int]] = {}

    def add(self, message: Message) -> None:
        """Take in a record; one that no producer of ours has written is passed over."""
        key, value = message.key(), message.value()
        if value is None:
            version = deletion_version(message_headers(message))
            if isinstance(key, bytes) and version is not None:
                self._delete(key.decode(errors="replace"), version)
            return
        try:
            document = decode_document(value if isinstance(value, bytes) else value.encode())
        except WireError:
            return
        if self._completes(document):
            self._take(document)

    def write(self) -> int:
        """Write it all to the ledger; return how many documents there were."""
        known = self._ledger.places([*self.places, *self.deletions])
        rows = Rows()
        displaced = []
        for document_id, version in self.deletions.items():
            for place in known.get(document_id, ()):
                if place.version is not None and place.version <= version:
                    rows.removed.append((document_id, place.file))
            rows.highest_version = max(rows.highest_version, version)
        taken = 0
        for document_id, place in self.places.items():
            assert place.version is not None
            rows.highest_version = max(rows.highest_version, place.version)
            last = max((each.version or 0 for each in known.get(document_id, ())), default=0)
            if place.version > last:
                rows.places.append(place)
                rows.elsewhere.append((document_id, FROM_TOPIC))
                displaced += [each.file for each in known.get(document_id, ())]
                taken += 1
        # Before the rest: a kill in between has them found again.
        self._ledger.read_again(displaced)
        self._ledger.write(rows)
        self.places, self.deletions = {}, {}
        return taken

    def _delete(self, document_id: str, version: int) -> None:
        place = self.places.get(document_id)
        if place is not None and (place.version or 0) <= version:
            del self.places[document_id]
        self.deletions[document_id] = max(version, self.deletions.get(document_id, 0))

    def _completes(self, document: Document) -> bool:
        """Return whether the record is the last that its document's version lacked."""
        if document.segment.count == 1:
            return True
        name = (document.id, document.version)
        seen = self._segments.setdefault(name, set())
        seen.add(document.segment.index)
        if len(seen) < document.segment.count:
            return False
        del self._segments[name]
        return True

    def _take(self, document: Document) -> None:
        last = self.places.get(document.id)
        if last is not None and (last.version or 0) > document.version:
            return
        if self.deletions.get(document.id, -1) >= document.version:
            return
        self.places[document.id] = Place(
            document.id,
            FROM_TOPIC,
            bytes.fromhex(document.content_hash),
            hash_of_metadata(document.metadata),
            document.version,
            0,
            document.source,
        )
