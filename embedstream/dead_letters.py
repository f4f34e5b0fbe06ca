"""Reads the dead letters: what failed, grouped by reason, one of them in full.

letters = read_letters(settings.kafka, Filter(reason=Reason.TOO_LARGE))
print(*summarize(letters, retried).lines())
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from confluent_kafka import IsolationLevel, Message

from embedstream.errors import UsageError
from embedstream.kafka import make_admin, topic_partitions
from embedstream.offsets import end_offsets, start_offsets
from embedstream.settings import KafkaSettings
from embedstream.topic_reader import message_headers, read_partition
from schemas.dead_letter import DeadLetter, Reason
from schemas.headers import read_headers, read_number
from schemas.records import SourcePosition
from schemas.wire import WireError, decode_document

__all__ = [
    "Filter",
    "Letter",
    "Summary",
    "parse_since",
    "parse_time",
    "position",
    "read_letter",
    "read_letters",
    "summarize",
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_EXCERPT_CHARS = 500


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Attributes:
        at: Where it lies: TOPIC/PARTITION/OFFSET.
        timestamp: When it was written, milliseconds since the epoch.
        letter: What its headers say; None where they are none of this program.
        key: Of the record that failed.
        value: Of the record that failed; None where it was left out.
        omitted_bytes: How many bytes that value had where it was too large to be kept; else None.
    """

    at: str
    timestamp: int
    letter: DeadLetter | None
    key: bytes | None
    value: bytes | None
    omitted_bytes: int | None

    @property
    def reason(self) -> str:
        """Why the record failed."""
        return "not a dead letter" if self.letter is None else self.letter.error_class.value

    def to_json(self) -> dict[str, object]:
        """Return it as what `json.dumps` takes, with the beginning of the document where it can be read."""
        told: dict[str, object] = {"at": self.at, "time": _time(self.timestamp), "reason": self.reason}
        if self.letter is not None:
            letter = self.letter
            told |= {
                "message": letter.error_message,
                "source": position(letter.source),
                "document": letter.document_id,
                "document_version": letter.document_version,
                "model": letter.model,
                "model_fingerprint": letter.model_fingerprint,
                "attempts": letter.attempts,
            }
        told["value_bytes"] = len(self.value or b"")
        if self.omitted_bytes is not None:
            told["value_omitted_bytes"] = self.omitted_bytes
        try:
            told["text"] = decode_document(self.value or b"").content[:_EXCERPT_CHARS]
        except WireError:
            told["value"] = (self.value or b"")[:64].hex(" ")
        return told

    def lines(self) -> Iterator[str]:
        """Yield it for a person to read."""
        yield from (f"{name}: {value}" for name, value in self.to_json().items())


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant.

    Attributes:
        reason: Of this reason only; None for any.
        since: Written at this time or later, milliseconds since the epoch.
    """

    reason: Reason | None = None
    since: int = 0

    def takes(self, letter: Letter) -> bool:
        """Whether a letter is meant."""
        return letter.timestamp >= self.since and self.reason in (None, letter.reason)


@dataclass(frozen=True)
class Summary:
    """How many dead letters there are of each reason.

    Attributes:
        groups: By reason: how many, how many of them were sent back, the times of the first and the last
            (milliseconds since the epoch), and where and why the last one is.
    """

    groups: dict[str, dict[str, object]]

    def to_json(self) -> dict[str, object]:
        """Return it as what `json.dumps` takes."""
        return {"dead_letters": sum(_count(each) for each in self.groups.values()), "reasons": self.groups}

    def lines(self) -> Iterator[str]:
        """Yield it for a person to read."""
        for reason, group in sorted(self.groups.items(), key=lambda item: -_count(item[1])):
            yield (
                f"{_count(group):>9,}  {reason:<16}  {group['first']} to {group['last']},"
                f" {group['retried']:,} sent back"
            )
            yield f"{'':>9}  {group['example']}: {group['message']}"
        if not self.groups:
            yield "no dead letters"


def read_letters(kafka: KafkaSettings, wanted: Filter) -> Iterator[Letter]:
    """Yield the dead letters that are meant, as far as they go by now, each partition in order.

    Raises:
        ConfigError: The topic does not exist.
        ServiceUnavailableError: No broker answers.
        TryAgainError: A transaction stayed open.
    """
    topic, admin = kafka.dead_letters_topic, make_admin(kafka)
    partitions = range(topic_partitions(admin, topic, "kafka.dead_letters_topic"))
    starts = start_offsets(admin, topic, partitions)
    ends = end_offsets(admin, topic, partitions, IsolationLevel.READ_COMMITTED)
    for each in partitions:
        messages = read_partition(kafka, topic, each, start=starts[each], end=ends[each])
        with closing(messages):
            for message in messages:
                letter = _letter(message)
                if wanted.takes(letter):
                    yield letter


def read_letter(kafka: KafkaSettings, at: str) -> Letter:
    """Return the dead letter at PARTITION/OFFSET, or TOPIC/PARTITION/OFFSET as the list names it.

    Raises:
        UsageError: `at` is no such place, or nothing is there.
        ConfigError: The topic does not exist.
        ServiceUnavailableError: No broker answers.
    """
    topic, admin = kafka.dead_letters_topic, make_admin(kafka)
    found = re.fullmatch(r"(?:(.*)/)?(\d{1,9})/(\d{1,18})", at)
    if found is None or found[1] not in (None, topic):
        raise UsageError(f"{at} is no dead letter of {topic}", "write PARTITION/OFFSET as `dlq list` does")
    partition, offset = int(found[2]), int(found[3])
    if partition < topic_partitions(admin, topic, "kafka.dead_letters_topic"):
        end = end_offsets(admin, topic, [partition], IsolationLevel.READ_COMMITTED)[partition]
        with closing(read_partition(kafka, topic, partition, start=offset, end=min(end, offset + 1))) as one:
            for message in one:
                return _letter(message)
    raise UsageError(f"{topic} holds no record at {partition}/{offset}", "`dlq list` names some")


def summarize(letters: Iterable[Letter], retried: Collection[str]) -> Summary:
    """Group dead letters by reason.

    Args:
        letters: The dead letters.
        retried: Positions of the input records that were sent back.
    """
    counts: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    times: dict[str, tuple[int, int]] = {}
    last: dict[str, Letter] = {}
    for each in letters:
        counts[each.reason] += 1
        sent[each.reason] += each.letter is not None and position(each.letter.source) in retried
        low, high = times.get(each.reason, (each.timestamp, -1))
        times[each.reason] = (min(low, each.timestamp), max(high, each.timestamp))
        if each.timestamp >= high:
            last[each.reason] = each
    groups: dict[str, dict[str, object]] = defaultdict(dict)
    for reason, count in counts.most_common():
        letter = last[reason].letter
        groups[reason] = {
            "count": count,
            "retried": sent[reason],
            "first": _time(times[reason][0]),
            "last": _time(times[reason][1]),
            "example": last[reason].at,
            "message": "" if letter is None else letter.error_message,
        }
    return Summary(dict(groups))


def parse_since(text: str) -> int:
    """Return `parse_time` of what `--since` was given."""
    return parse_time(text, "--since", "write 90s, 15m, 6h, 7d, or 2026-01-31T12:00:00Z")


def parse_time(text: str, flag: str, mend: str) -> int:
    """Return the milliseconds since the epoch of a time in ISO 8601, or of so long ago: 90s, 15m, 6h, 7d.

    A time without an offset is in UTC.

    Args:
        text: The time.
        flag: What it was given to, for the error.
        mend: What else to write, for the error.

    Raises:
        UsageError: It is neither.
    """
    ago = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if ago is not None:
        return int((time.time() - int(ago[1]) * _UNITS[ago[2]]) * 1000)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{flag} {text} is no time", mend) from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def position(source: SourcePosition) -> str:
    """Return a record's position as TOPIC/PARTITION/OFFSET."""
    return f"{source.topic}/{source.partition}/{source.offset}"


def _letter(message: Message) -> Letter:
    headers = message_headers(message)
    try:
        letter = DeadLetter.from_headers(headers)
    except ValueError:
        letter = None
    return Letter(
        at=f"{message.topic()}/{message.partition()}/{message.offset()}",
        timestamp=message.timestamp()[1],
        letter=letter,
        key=message.key(),
        value=message.value(),
        omitted_bytes=read_number(read_headers(headers), "value.omitted.bytes"),
    )


def _count(group: dict[str, object]) -> int:
    count = group["count"]
    assert isinstance(count, int)
    return count


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
