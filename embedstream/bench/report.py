"""What was measured: for people, for programs, and for `embedstream estimate`."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embedstream import __version__
from embedstream.bench.measure import Encoding, Tokenising
from embedstream.bench.sample import Sample
from embedstream.bench.through_kafka import KafkaRun
from embedstream.costs import ModelShape
from embedstream.errors import ConfigError

__all__ = ["Bench", "record"]


@dataclass(frozen=True)
class Bench:
    """A measurement of one machine with one model.

    Attributes:
        machine: What it is: `device`, `cores`, `torch` and so on.
        model: The model and how it runs here, as `consumer.encoder.ModelInfo` has it.
        token_budget: Tokens of a batch.
        shape: The model's, where it is known.
        peak: Floating-point operations a second of a large product of matrices.
        kafka: None where there is no broker; then `kafka_missing` says why.
        price_per_hour: Dollars; None where none was given.
        corpus_tokens: Size of the corpus that is asked about, None if none is.
    """

    machine: dict[str, Any]
    sample: Sample
    model: dict[str, Any]
    token_budget: int
    shape: ModelShape | None
    peak: float
    tokenising: Tokenising
    encoding: Encoding
    kafka: KafkaRun | None
    kafka_missing: str | None = None
    price_per_hour: float | None = None
    corpus_tokens: float | None = None

    @property
    def share_of_peak(self) -> float | None:
        """What the model's own operations are of the peak, padding not counted; None for unknown shapes."""
        if self.shape is None:
            return None
        done = sum(length * self.shape.flop_per_token(length) for length in self.encoding.lengths)
        return done / self.encoding.seconds / self.peak

    @property
    def tokens_per_second(self) -> float:
        """What a corpus would be read at: Kafka to Kafka where measured, else the encoder alone."""
        if self.kafka is not None and self.kafka.seconds > 0:
            return min(self.kafka.tokens / self.kafka.seconds, self.encoding.tokens_per_second)
        return self.encoding.tokens_per_second

    @property
    def costs(self) -> dict[str, float]:
        """Hours and dollars, as far as the price and the corpus are known."""
        found = {}
        if self.price_per_hour is not None:
            found["dollars_per_million_tokens"] = 1e6 / self.tokens_per_second / 3600 * self.price_per_hour
        if self.corpus_tokens is not None:
            found["corpus_tokens"] = self.corpus_tokens
            found["corpus_hours"] = self.corpus_tokens / self.tokens_per_second / 3600
            if self.price_per_hour is not None:
                found["corpus_dollars"] = found["corpus_hours"] * self.price_per_hour
        return found

    def with_corpus_bytes(self, size: float) -> Bench:
        """The same, asked about a corpus of so many bytes of text like the sample's."""
        return replace(self, corpus_tokens=size * self.tokenising.tokens / self.tokenising.bytes)

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        encoding, tokenising, kafka = self.encoding, self.tokenising, self.kafka
        return {
            "embedstream": __version__,
            "machine": self.machine,
            "sample": {
                "name": self.sample.name,
                "documents": len(self.sample.texts),
                "bytes": self.sample.bytes,
            },
            "model": {**self.model, "token_budget": self.token_budget},
            "peak_flop_per_second": self.peak,
            "share_of_peak": self.share_of_peak,
            "tokenising": {
                "tokens_per_second": tokenising.tokens / tokenising.seconds,
                "passages_per_second": tokenising.passages / tokenising.seconds,
            },
            "encoding": {
                "passages": len(encoding.lengths),
                "tokens": sum(encoding.lengths),
                "mean_tokens": sum(encoding.lengths) / len(encoding.lengths),
                "seconds": encoding.seconds,
                "batches": encoding.batches,
                "padding": encoding.padding,
                "tokens_per_second": encoding.tokens_per_second,
                "passages_per_second": len(encoding.lengths) / encoding.seconds,
            },
            "kafka": None
            if kafka is None
            else {
                "documents": kafka.documents,
                "passages": kafka.passages,
                "tokens": kafka.tokens,
                "seconds": kafka.seconds,
                "tokens_per_second": kafka.tokens / kafka.seconds,
                "passages_per_second": kafka.passages / kafka.seconds,
                "share_of_encoding": kafka.tokens / kafka.seconds / encoding.tokens_per_second,
            },
            "kafka_missing": self.kafka_missing,
            "price_per_hour": self.price_per_hour,
            "costs": self.costs,
        }

    def rows(self) -> Iterator[tuple[str, str]]:
        """What and how much, line by line, for a table."""
        encoding, tokenising, model = self.encoding, self.tokenising, self.model
        seconds = encoding.seconds
        yield "machine", ", ".join(f"{each}" for each in self.machine.values())
        yield (
            "sample",
            f"{self.sample.name}: {len(self.sample.texts):,} documents, {self.sample.bytes:,} bytes",
        )
        yield "model", f"{model['name']}, {model['precision']}, attention {model['attention']}"
        yield "token budget", f"{self.token_budget:,}"
        yield (
            "tokenising",
            f"{tokenising.tokens / tokenising.seconds:,.0f} tokens/s,"
            f" {tokenising.passages / tokenising.seconds:,.0f} passages/s",
        )
        yield (
            "encoding",
            f"{encoding.tokens_per_second:,.0f} tokens/s, {len(encoding.lengths) / seconds:,.1f} passages/s"
            f" of {sum(encoding.lengths) / len(encoding.lengths):.0f} tokens",
        )
        yield "padding", f"{encoding.padding:.1%} of the tokens computed"
        share = self.share_of_peak
        known = "unknown: the model is of no known shape" if share is None else f"{share:.1%}"
        yield "of the peak", f"{known} ({self.peak / 1e12:,.2f} TFLOP/s measured in {model['precision']})"
        if self.kafka is None:
            yield "Kafka to Kafka", f"not measured: {self.kafka_missing}"
        else:
            rate = self.kafka.tokens / self.kafka.seconds
            yield (
                "Kafka to Kafka",
                f"{rate:,.0f} tokens/s, {self.kafka.passages / self.kafka.seconds:,.1f} passages/s:"
                f" {rate / encoding.tokens_per_second:.0%} of encoding",
            )
        costs = self.costs
        if "dollars_per_million_tokens" in costs:
            yield "a million tokens", f"${costs['dollars_per_million_tokens']:,.4f}"
        if "corpus_hours" in costs:
            money = f", ${costs['corpus_dollars']:,.2f}" if "corpus_dollars" in costs else ""
            yield (
                "the corpus",
                f"{costs['corpus_tokens']:,.0f} tokens: {costs['corpus_hours']:,.1f} hours{money}",
            )


def record(bench: Bench, path: Path) -> None:
    """Add the speed to a file that `embedstream estimate --speeds` reads, in place of an older one like it.

    Raises:
        ConfigError: The model has no known shape, or the file can't be read or written.
    """
    if bench.shape is None:
        raise ConfigError("--record needs a model of known shape", "leave it out for this model")
    device = str(bench.machine["device"])
    length = round(sum(bench.encoding.lengths) / len(bench.encoding.lengths))
    entry = {
        "gpu": device,
        "architecture": bench.shape.architecture,
        "precision": bench.model["precision"],
        "measured": True,
        "tokens_per_second": {str(length): round(bench.tokens_per_second, 1)},
        "share_of_peak": bench.share_of_peak,
        "source": f"embedstream bench {__version__}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        speeds = list(document.get("speeds", ()))
        same = ("gpu", "architecture", "precision")
        for each in speeds:
            if all(each.get(name) == entry[name] for name in same):
                entry["tokens_per_second"] = each["tokens_per_second"] | entry["tokens_per_second"]
        speeds = [each for each in speeds if any(each.get(name) != entry[name] for name in same)]
        text = json.dumps({**document, "speeds": [*speeds, entry]}, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"--record {path} can't be added to ({error})", "name another file") from None
