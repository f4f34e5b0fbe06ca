"""Proves from the topics alone that every record of the documents topic has its outcome, once.

    report = verify(settings, group="embedstream")
    print(report.ok, *report.lines())

An outcome is all passages of the record in the embeddings topic, or a dead letter, or for a deletion that it
was passed on. Every record before the group's committed offsets must have one; those after are pending. No
model and no tokenizer is asked: `source` and `passage` of an embedding say where it belongs.

Memory does not grow with the topics. The price: a document that was sent again is not told from one that was
not (each of its records has an outcome of its own, and readers keep the newest); and where two models write
to one embeddings topic, a deletion that both have passed on is double.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass

from confluent_kafka import Message

from embedstream.errors import ConfigError
from embedstream.kafka import make_admin, topic_partitions
from embedstream.logs import get_logger
from embedstream.offsets import committed_offsets, end_offsets, start_offsets
from embedstream.settings import KafkaSettings, Settings
from embedstream.topic_reader import STALL_SECONDS, message_headers, read_partition
from embedstream.verify_merge import InputRecord, Kind, PartitionMerge, Tally
from embedstream.verify_report import Report
from schemas.dead_letter import DeadLetter
from schemas.deletion import deletion_source
from schemas.records import SourcePosition
from schemas.wire import WireError, decode_embedding_fields

__all__ = ["Report", "verify"]

# Read ahead by all clients together, in KiB, and the least that each gets.
_BUFFERS_KBYTES = 48 * 1024
_BUFFER_KBYTES = 1024

_events = get_logger("verify")


def verify(settings: Settings, *, group: str, stall_seconds: float = STALL_SECONDS) -> Report:
    """Check every input record before the group's committed offsets.

    Args:
        settings: `kafka` is used.
        group: The consumer group whose work is checked.
        stall_seconds: How long to wait where an open transaction holds records back.

    Raises:
        ConfigError: The group has committed nothing, or a topic does not exist.
        ServiceUnavailableError: No broker answers.
        TryAgainError: A transaction stayed open.
    """
    started = time.monotonic()
    check = _Check(settings.kafka, group, stall_seconds)
    check.run()
    tally, kafka = check.tally, settings.kafka
    return Report(
        group=group,
        documents_topic=kafka.documents_topic,
        embeddings_topic=kafka.embeddings_topic,
        dead_letters_topic=kafka.dead_letters_topic,
        model_fingerprints=tuple(sorted(set(check.fingerprints.values()))),
        records=tally.records,
        pending=check.pending,
        embeddings=tally.embeddings,
        dead_letters=tally.dead_letters,
        deletions=tally.deletions,
        ahead=tally.ahead,
        expired=tally.expired,
        unread=tally.unread,
        other_models=check.other_models,
        missing=tally.counts[Kind.MISSING],
        double=tally.counts[Kind.DOUBLE],
        out_of_order=tally.counts[Kind.OUT_OF_ORDER],
        unexpected=tally.counts[Kind.UNEXPECTED],
        findings=tuple(each for kind in Kind for each in tally.listed[kind]),
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class _Log:
    """A topic, and the first offset and the high watermark of each of its partitions."""

    topic: str
    starts: dict[int, int]
    ends: dict[int, int]


class _Check:
    """One run over the topics: the offsets as of its start, and what was found so far."""

    def __init__(self, kafka: KafkaSettings, group: str, stall_seconds: float) -> None:
        self.tally = Tally()
        self.other_models = 0
        self._buffer_kbytes = _BUFFER_KBYTES
        self._kafka = kafka
        self._stall_seconds = stall_seconds
        self._admin = make_admin(kafka)
        # What is promised, before how far the topics go: all output of a committed offset lies before that.
        inputs = range(topic_partitions(self._admin, kafka.documents_topic, "kafka.documents_topic"))
        promised = committed_offsets(kafka, group, kafka.documents_topic, inputs)
        self._documents = self._log("documents_topic")
        self._embeddings = self._log("embeddings_topic")
        self._letters = self._log("dead_letters_topic")
        starts, ends = self._documents.starts, self._documents.ends
        if not promised and starts != ends:
            raise ConfigError(
                f"the group {group!r} has committed no offsets of {kafka.documents_topic!r}",
                "name the group that `embedstream consume` used with --group, or run it first",
            )
        for each, promise in promised.items():
            if promise.offset > ends[each]:
                self.tally.add(
                    Kind.UNEXPECTED,
                    f"{self._documents.topic}/{each}/{promise.offset}",
                    f"a committed offset beyond the partition's end, {ends[each]}: was the topic made anew?",
                )
            if promise.offset < starts[each]:
                count = starts[each] - promise.offset
                self.tally.add(
                    Kind.MISSING,
                    f"{self._documents.topic}/{each}/{promise.offset}",
                    f"up to {count} records were deleted before the group read them",
                    count,
                )
        # Where nothing is committed nothing needs an outcome.
        reached = starts | {each: promise.offset for each, promise in promised.items()}
        self._committed = {each: max(starts[each], min(reached[each], ends[each])) for each in inputs}
        self.pending = sum(ends[each] - self._committed[each] for each in inputs)
        # The consumer commits the model's fingerprint beside each offset.
        self.fingerprints = {each: promise.metadata for each, promise in promised.items() if promise.metadata}

    def run(self) -> None:
        """Check one output partition after the other, with the input partitions that map to it."""
        for partition in self._embeddings.ends:
            self._check_output(partition)
        for partition in self._letters.ends:
            # Those that no input partition maps to.
            if partition not in self._committed:
                for _ in self._letters_of(None, partition):
                    pass

    def _check_output(self, partition: int) -> None:
        inputs = [each for each in self._committed if each % len(self._embeddings.ends) == partition]
        clients = 2 * len(inputs) + 1
        self._buffer_kbytes = max(_BUFFER_KBYTES, _BUFFERS_KBYTES // clients)
        with ExitStack() as stack:
            merges = {each: self._merge(each, stack) for each in inputs}
            messages = self._read(self._embeddings, partition, self._embeddings.ends[partition])
            for message in stack.enter_context(closing(messages)):
                self._take(message, merges)
            for merge in merges.values():
                merge.finish()
        _events.debug("partition_verified", partition=partition, inputs=inputs, records=self.tally.records)

    def _merge(self, partition: int, stack: ExitStack) -> PartitionMerge:
        letters = self._letters_of(partition, partition % len(self._letters.ends))
        return PartitionMerge(
            f"{self._documents.topic}/{partition}",
            stack.enter_context(closing(self._records(partition))),
            stack.enter_context(closing(letters)),
            first=self._documents.starts[partition],
            committed=self._committed[partition],
            end=lambda: end_offsets(self._admin, self._documents.topic, [partition])[partition],
            tally=self.tally,
        )

    def _records(self, partition: int) -> Generator[InputRecord]:
        with closing(self._read(self._documents, partition, self._committed[partition])) as messages:
            for message in messages:
                yield InputRecord(_offset(message), message.value() is None)

    def _letters_of(self, partition: int | None, own: int) -> Generator[int]:
        """Yield the input offsets that the dead letters of an input partition name, as they lie in `own`.

        Dead letters that belong to no input partition there are told of by the first that reads them.
        """
        is_first = partition in (None, own)
        with closing(self._read(self._letters, own, self._letters.ends[own])) as messages:
            for message in messages:
                at = f"{self._letters.topic}/{own}/{_offset(message)}"
                try:
                    letter = DeadLetter.from_headers(message_headers(message))
                except ValueError as error:
                    if is_first:
                        self.tally.add(Kind.UNEXPECTED, at, f"no dead letter of this program: {error}")
                    continue
                source = letter.source
                if source.partition == partition and source.topic == self._documents.topic:
                    if self._is_of_model(source.partition, letter.model_fingerprint):
                        yield source.offset
                elif is_first:
                    self._tell_stray(source, at, own, len(self._letters.ends))

    def _take(self, message: Message, merges: dict[int, PartitionMerge]) -> None:
        """Give an output record to the input partition that it comes from."""
        partition = message.partition() or 0
        at = f"{self._embeddings.topic}/{partition}/{_offset(message)}"
        value = message.value()
        if value is None:
            source = deletion_source(message_headers(message))
            if source is None:
                self.tally.add(Kind.UNEXPECTED, at, "a null value whose headers name no source")
            elif source.partition in merges and source.topic == self._documents.topic:
                merges[source.partition].deletion(source.offset)
            else:
                self._tell_stray(source, at, partition, len(self._embeddings.ends))
            return
        try:
            fields = decode_embedding_fields(value)
        except WireError as error:
            self.tally.add(Kind.UNEXPECTED, at, f"no embedding: {error}")
            return
        source = SourcePosition(**fields["source"])
        if source.partition not in merges or source.topic != self._documents.topic:
            self._tell_stray(source, at, partition, len(self._embeddings.ends))
        elif self._is_of_model(source.partition, fields["model_fingerprint"]):
            merges[source.partition].passage(source.offset, **fields["passage"])

    def _is_of_model(self, partition: int, fingerprint: str) -> bool:
        """Whether output is of the model that the group committed; where it named none, of the first seen."""
        if self.fingerprints.setdefault(partition, fingerprint) == fingerprint:
            return True
        self.other_models += 1
        return False

    def _tell_stray(self, source: SourcePosition, at: str, partition: int, count: int) -> None:
        """Tell of output that is not where its source says, unless another input partition will take it."""
        position = f"{source.topic}/{source.partition}/{source.offset}"
        if source.topic != self._documents.topic:
            self.tally.add(Kind.UNEXPECTED, position, f"{at} comes from another topic")
        elif source.partition not in self._committed:
            self.tally.add(Kind.UNEXPECTED, position, f"{at} comes from a partition that does not exist")
        elif source.partition % count != partition:
            self.tally.add(
                Kind.UNEXPECTED, position, f"{at} belongs into partition {source.partition % count}"
            )

    def _read(self, log: _Log, partition: int, end: int) -> Generator[Message]:
        return read_partition(
            self._kafka,
            log.topic,
            partition,
            start=log.starts[partition],
            end=end,
            buffer_kbytes=self._buffer_kbytes,
            stall_seconds=self._stall_seconds,
        )

    def _log(self, setting: str) -> _Log:
        topic: str = getattr(self._kafka, setting)
        partitions = range(topic_partitions(self._admin, topic, f"kafka.{setting}"))
        return _Log(
            topic,
            start_offsets(self._admin, topic, partitions),
            end_offsets(self._admin, topic, partitions),
        )


def _offset(message: Message) -> int:
    """The offset, which every record that was read has."""
    offset = message.offset()
    return -1 if offset is None else offset
