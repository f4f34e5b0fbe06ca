r"""What a corpus will cost before anything is rented: documents, tokens, passages, hours, dollars, disk.

    estimate = run_estimate(["corpus"], settings, Question(gpus=("RTX 4090",), price=0.50, pods=4))
    print(*estimate.lines(), sep="\n")

Sizes are known from a walk of all files; what they hold is counted in a sample, with the model's tokenizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zstandard

from embedstream.costs import ModelShape, Speed, explained, gpu_named, gpu_peaks, load, speed_of
from embedstream.errors import UsageError
from embedstream.estimate_report import Estimate, GpuCost, Hosted
from embedstream.model_shape import open_model
from embedstream.sampling import Total, ratio_total
from embedstream.settings import Settings

if TYPE_CHECKING:
    from consumer.split import Splitter
    from producer.corpus import Corpus
    from producer.survey import Kind, Unit

__all__ = ["Question", "gpu_cost", "hourly_prices", "run_estimate"]

COUNTED = ("documents", "refused", "text_bytes", "characters", "tokens", "passages", "model_tokens", "packed")

# Avro's fields beside vector and text, before compression: ids, hashes, source, model, metadata, offsets.
_RECORD_BYTES = 450
_DOCUMENTS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Question:
    """What an estimate is asked for.

    Attributes:
        gpus: Names; none for those that the price file has.
        price: Dollars an hour of one GPU; None for the price file's.
        pods: GPUs at work at the same time.
        sample_bytes: About how much of the corpus to read, as it lies on the disk.
        replication: Copies of each record that the broker keeps.
        prices: A price file instead of the shipped one.
        speeds: A file of measured speeds instead of the shipped one.
    """

    gpus: tuple[str, ...] = ()
    price: float | None = None
    pods: int = 1
    sample_bytes: int = 16_000_000
    replication: int = 3
    prices: Path | None = None
    speeds: Path | None = None


def run_estimate(paths: Sequence[str | Path], settings: Settings, question: Question) -> Estimate:
    """Estimate.

    Args:
        paths: As for `produce`.
        settings: `producer` and `encoder` are used.
        question: What for.

    Raises:
        UsageError: A path does not exist, a GPU is unknown, or a price is missing.
        ConfigError: The model is not to be had, a file can't be read, or an extra is missing.
        ServiceUnavailableError: S3 does not answer.
    """
    prices, speeds = load("prices", question.prices), load("speeds", question.speeds)
    hourly = hourly_prices(question, prices)
    splitter, shape, basis = open_model(settings.encoder)
    from producer.corpus import open_corpus
    from producer.survey import survey

    corpus = open_corpus(paths, settings.producer.model_copy(update={"sample": None, "limit": None}))
    kinds, unreadable = survey(corpus, question.sample_bytes)
    totals, sampled = _totals(kinds, corpus, splitter)
    length = totals["model_tokens"].value / max(totals["passages"].value, 1.0)
    costs = [
        gpu_cost(
            gpu, price, totals["model_tokens"], speed_of(gpu, shape, max(length, 1.0), speeds), question.pods
        )
        for gpu, price in hourly.items()
    ]
    with explained("prices"):
        hosted = _hosted(prices, totals)
        bought = _bought(prices, shape, length, totals["model_tokens"], speeds)
    return Estimate(
        files=sum(kind.files for kind in kinds),
        bytes=sum(kind.bytes for kind in kinds),
        totals=totals,
        sampled=dict(sampled),
        unreadable=tuple(unreadable),
        shape=shape,
        basis=basis,
        pods=question.pods,
        costs=tuple(costs),
        hosted=hosted,
        bought=bought,
        prices_from=f"{question.prices or 'the shipped prices'} of {prices.get('date', 'no date')}",
        replication=question.replication,
        record_bytes=_RECORD_BYTES,
    )


def _totals(
    kinds: Sequence[Kind], corpus: Corpus, splitter: Splitter
) -> tuple[dict[str, Total], Counter[str]]:
    """Return what the whole corpus holds, by the names in `COUNTED`, and what its sample does."""
    from producer.survey import sample_of

    totals = dict.fromkeys(COUNTED, Total(0.0))
    sampled = Counter(dict.fromkeys((*COUNTED, "units", "bytes"), 0))
    for kind in kinds:
        units = []
        for unit in sample_of(kind, corpus):
            counted = _counted(unit, splitter)
            units.append((unit, counted))
            unit.documents.clear()
            sampled.update(counted, units=1, bytes=round(unit.size * unit.share))
        for name in COUNTED:
            # Of files that are one document it is the number that is known, not only the size.
            by_files = kind.is_single and name in ("documents", "refused")
            totals[name] += ratio_total(
                [counted[name] / unit.share for unit, counted in units],
                [1 if by_files else unit.size for unit, _ in units],
                [unit.chance for unit, _ in units],
                kind.files if by_files else kind.bytes,
            )
    return totals, sampled


def _counted(unit: Unit, splitter: Splitter) -> Counter[str]:
    """Count what the sample is about, in one unit."""
    counted: Counter[str] = Counter(documents=len(unit.documents), refused=unit.refused)
    packer = zstandard.ZstdCompressor(level=3)
    for first in range(0, len(unit.documents), _DOCUMENTS_AT_ONCE):
        texts = [document.content for document in unit.documents[first : first + _DOCUMENTS_AT_ONCE]]
        encoded = "".join(texts).encode()
        counted["text_bytes"] += len(encoded)
        counted["characters"] += sum(map(len, texts))
        # As the producer's client packs them: a batch of documents at a time.
        counted["packed"] += len(packer.compress(encoded))
        for split in splitter.split_many(texts):
            counted["passages"] += len(split.passages)
            counted["model_tokens"] += sum(passage.token_count for passage in split.passages)
    counted["tokens"] = counted["model_tokens"] - splitter.special_length * counted["passages"]
    return counted


def hourly_prices(question: Question, prices: dict[str, Any]) -> dict[str, float]:
    """Return the dollars an hour of each GPU that is asked for.

    Raises:
        UsageError: A GPU is unknown, or a price is missing.
        ConfigError: The price file has a wrong entry.
    """
    peaks = gpu_peaks()
    with explained("prices"):
        per_hour = prices["gpu_per_hour"].items()
        known = {gpu_named(name, peaks): float(each["price"]) for name, each in per_hour}
    if not question.gpus:
        if question.price is not None:
            raise UsageError("--price without --gpu", "name the GPU that it is the price of")
        return known
    hourly = {}
    for asked in question.gpus:
        name = gpu_named(asked, peaks)
        price = question.price if question.price is not None else known.get(name)
        if price is None:
            raise UsageError(f"there is no price for --gpu {name!r}", "give --price DOLLARS_AN_HOUR")
        hourly[name] = price
    return hourly


def gpu_cost(gpu: str, price: float, tokens: Total, speed: Speed, pods: int) -> GpuCost:
    """Return what a GPU costs: fewest tokens at the highest speed, to most tokens at the lowest."""
    hours = (
        tokens.low / speed.high / 3600 / pods,
        tokens.value / speed.likely / 3600 / pods,
        tokens.high / speed.low / 3600 / pods,
    )
    low, likely, high = (each * pods * price for each in hours)
    return GpuCost(gpu, price, speed, hours, (low, likely, high))


def _hosted(prices: dict[str, Any], totals: dict[str, Total]) -> tuple[Hosted, ...]:
    found = []
    for each in prices.get("hosted", ()):
        if "per_million_tokens" in each:
            unit, total = float(each["per_million_tokens"]), totals["tokens"]
        else:
            unit, total = float(each["per_million_characters"]), totals["characters"]
        dollars = (total.low * unit / 1e6, total.value * unit / 1e6, total.high * unit / 1e6)
        found.append(Hosted(str(each["name"]), dollars, str(each.get("source", ""))))
    return tuple(found)


def _bought(
    prices: dict[str, Any], shape: ModelShape, length: float, tokens: Total, speeds: dict[str, Any]
) -> tuple[GpuCost, ...]:
    found = []
    for each in prices.get("bought", ()):
        speed = speed_of(gpu_named(each["gpu"], gpu_peaks()), shape, length, speeds)
        cost = gpu_cost(str(each["name"]), 0.0, tokens, speed, 1)
        price = float(each["price"])
        found.append(GpuCost(cost.gpu, 0.0, speed, cost.hours, (price, price, price)))
    return tuple(found)
