"""When to stop because too many records become dead letters. Pure: no Kafka client in it.

The outcomes of all records are one sequence, in the order of delivery. At each dead letter the share of dead
letters among the last `span` records up to it, that one included, must not be over the limit. So how records
were cut into windows makes no difference, and a window is judged before anything of it is delivered.

Fewer than a tenth of the span are too few to judge by. A daemon that has just been started knows nothing of
what was before; if it let the first few through every time, a supervisor that starts it again and again would
empty the topic into the dead letters. So a share over the limit among too few records is undecided, and the
deliver stage holds such windows back until there are enough to judge by, or the ends of all partitions show
that no more are there. What gets through is bounded by that: of the records that a daemon delivered, or of
the last span of them, at most the limit's share are dead letters, unless it delivered fewer than a tenth of
the span and had reached the end of the partitions.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from consumer.outbound import ItemRecords
from consumer.records import EndOfPartition
from embedstream.errors import TooManyDeadLettersError
from schemas.dead_letter import Reason

__all__ = ["DeadLetterLimit"]

# The share of the span that is enough to judge by.
ENOUGH = 0.1
MESSAGE_CHARACTERS = 160


class DeadLetterLimit:
    """Remembers the outcomes of the last records and judges new ones by them."""

    def __init__(self, ratio: float, span: int) -> None:
        """Nothing is remembered yet.

        Args:
            ratio: Largest share of dead letters, from 0 (not even one, however few records there are) to 1
                (no limit).
            span: How many records are looked back over.
        """
        self._ratio = ratio
        self._span = span
        self._enough = max(1, int(span * ENOUGH)) if ratio else 1
        self._recent: deque[Reason | None] = deque()
        self._reasons: Counter[Reason] = Counter()

    @property
    def is_undecided(self) -> bool:
        """Whether the share is over the limit, but of too few records to stop for it."""
        return self._is_over and len(self._recent) < self._enough

    def judge(self, items: Sequence[ItemRecords]) -> None:
        """Takes in the outcomes of a window, in order.

        Raises:
            TooManyDeadLettersError: one of them is a dead letter too many; the window must not be delivered.
        """
        for each in items:
            if isinstance(each.item, EndOfPartition):
                continue
            self._add(None if each.failure is None else each.failure.reason)
            if each.failure is not None and self._is_over and len(self._recent) >= self._enough:
                source = each.item.input
                place = f"{source.topic} partition {source.partition} offset {source.offset}"
                raise self._error(f"{place}: {each.failure.message[:MESSAGE_CHARACTERS]}")

    @property
    def _is_over(self) -> bool:
        return self._reasons.total() > 0 and self._reasons.total() / len(self._recent) > self._ratio

    def _add(self, reason: Reason | None) -> None:
        if len(self._recent) == self._span:
            oldest = self._recent.popleft()
            if oldest is not None:
                self._reasons[oldest] -= 1
        self._recent.append(reason)
        if reason is not None:
            self._reasons[reason] += 1

    def _error(self, last: str) -> TooManyDeadLettersError:
        dead, count = self._reasons.total(), len(self._recent)
        ((reason, times),) = self._reasons.most_common(1)
        return TooManyDeadLettersError(
            f"{dead} of the last {count} records ({dead / count:.1%}) would be dead letters, more than"
            f" consumer.max_dead_letter_ratio {self._ratio:g} allows; the commonest reason is {reason}"
            f" ({times}), the last is {last}; nothing of their window was committed",
            "mend the corpus or the model, or let more through with --max-dead-letter-ratio (1 lets all)",
        )
