"""What a replay will cost, from a sample of the topic itself: what `replay --dry-run` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstream.costs import ModelShape, load, speed_of
from embedstream.estimate import Question, gpu_cost, hourly_prices
from embedstream.estimate_report import GpuCost, about, dollars_text, gpu_json, hours_text
from embedstream.model_shape import open_model
from embedstream.replay_start import Start
from embedstream.sampling import Total, ratio_total
from embedstream.settings import Settings
from embedstream.topic_sample import sample_topic
from schemas.wire import WireError, decode_document

if TYPE_CHECKING:
    from consumer.split import Splitter

__all__ = ["ReplayEstimate", "estimate_replay"]

_COUNTED = ("deletions", "unreadable", "text_bytes", "passages", "tokens")


@dataclass(frozen=True)
class ReplayEstimate:
    """What is left to be embedded, and what that takes.

    Attributes:
        output: The topic that it would go to.
        group: The consumer group.
        resumes: Whether the replay has begun, so that only what it has left counts.
        records: Offsets to be read.
        totals: What they hold: `bytes` of values, `text_bytes`, `passages`, `tokens` (special ones included),
            `deletions`, `unreadable`.
        sampled: How many records were looked at.
        shape: Of the model.
        basis: Where its tokenizer and shape come from.
        pods: GPUs at work at the same time.
        costs: For each GPU.
    """

    output: str
    group: str
    resumes: bool
    records: int
    totals: Mapping[str, Total]
    sampled: int
    shape: ModelShape
    basis: str
    pods: int
    costs: tuple[GpuCost, ...]

    def to_json(self) -> dict[str, object]:
        """Return it as what `json.dumps` takes; a range is low, likely, high."""
        return {
            "output": self.output,
            "group": self.group,
            "resumes": self.resumes,
            "records": self.records,
            **{
                name: {"low": round(each.low), "likely": round(each.value), "high": round(each.high)}
                for name, each in self.totals.items()
            },
            "sampled": self.sampled,
            "model": self.shape.name,
            "window": self.shape.window,
            "dim": self.shape.dim,
            "basis": self.basis,
            "pods": self.pods,
            "gpus": [gpu_json(each) for each in self.costs],
        }

    def lines(self) -> Iterator[str]:
        """Yield it for a person to read."""
        left = " that are left" if self.resumes else ""
        yield f"{self.records:,} records{left}, into {self.output} by group {self.group}; nothing was done"
        for name in ("bytes", "text_bytes", "tokens", "passages", "deletions", "unreadable"):
            yield f"  {name.replace('_', ' '):<12} {about(self.totals[name])}"
        told = f"{self.pods} GPUs" if self.pods > 1 else "one GPU"
        yield f"{self.shape.name}, {self.shape.window} tokens, {self.shape.dim} dimensions, on {told}:"
        for cost in self.costs:
            taken = f"{hours_text(cost.hours)}, {dollars_text(cost.dollars)}"
            yield f"  {cost.gpu} at ${cost.price:.2f}/h: {taken}"
            yield f"    {cost.speed.likely:,.0f} tokens/s each: {cost.speed.basis}"
        yield (
            f"rests on {self.sampled:,} records from all over the topic; tokens by {self.basis};"
            " the range of a count holds 95% of samples, hours add that of the speed"
        )


def estimate_replay(settings: Settings, start: Start, question: Question, *, resumes: bool) -> ReplayEstimate:
    """Read a sample of what is to be embedded, count it with the model's tokenizer, and reckon.

    Args:
        settings: Of the replay's daemons.
        start: What is to be read.
        question: For which GPUs.
        resumes: Whether the replay has begun.

    Raises:
        UsageError: A GPU is unknown, or a price is missing.
        ConfigError: The model is not to be had.
        ServiceUnavailableError: No broker answers.
    """
    hourly = hourly_prices(question, load("prices", question.prices))
    speeds = load("speeds", question.speeds)
    splitter, shape, basis = open_model(settings.encoder)
    stretches = sample_topic(
        settings.kafka, start.begin, start.ends, lambda values: _counted(values, splitter)
    )
    sizes = [float(each.looked_at) for each in stretches]
    chances = [each.looked_at / each.size for each in stretches]

    def total(counted: Sequence[float]) -> Total:
        return ratio_total(counted, sizes, chances, start.records)

    totals = {"bytes": total([each.bytes for each in stretches])}
    for name in _COUNTED:
        totals[name] = total([each.counted.get(name, 0) for each in stretches])
    length = totals["tokens"].value / max(totals["passages"].value, 1.0)
    costs = tuple(
        gpu_cost(gpu, price, totals["tokens"], speed_of(gpu, shape, max(length, 1.0), speeds), question.pods)
        for gpu, price in hourly.items()
    )
    return ReplayEstimate(
        output=settings.kafka.embeddings_topic,
        group=settings.consumer.group,
        resumes=resumes,
        records=start.records,
        totals=totals,
        sampled=sum(each.records for each in stretches),
        shape=shape,
        basis=basis,
        pods=question.pods,
        costs=costs,
    )


def _counted(values: Sequence[bytes | None], splitter: Splitter) -> Counter[str]:
    counted: Counter[str] = Counter()
    texts = []
    for value in values:
        if value is None:
            counted["deletions"] += 1
            continue
        try:
            texts.append(decode_document(value).content)
        except WireError:
            counted["unreadable"] += 1
    counted["text_bytes"] = sum(len(text.encode()) for text in texts)
    for split in splitter.split_many(texts):
        counted["passages"] += len(split.passages)
        counted["tokens"] += sum(passage.token_count for passage in split.passages)
    return counted
