"""An estimate as it is told, to a person and to a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedstream.costs import ModelShape, Speed
from embedstream.sampling import Total
from embedstream.size_text import size_text

if TYPE_CHECKING:
    from producer.refusals import Refusal

__all__ = ["Estimate", "GpuCost", "Hosted", "about", "dollars_text", "gpu_json", "hours_text"]

Range = tuple[float, float, float]
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class GpuCost:
    """What one kind of GPU takes: low, likely and high hours of the clock, and dollars for all pods."""

    gpu: str
    price: float
    speed: Speed
    hours: Range
    dollars: Range


@dataclass(frozen=True, slots=True)
class Hosted:
    """What a hosted service takes: low, likely and high dollars."""

    name: str
    dollars: Range
    source: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """All that is told.

    Attributes:
        files: How many, of known kinds.
        bytes: Their size as they lie there.
        totals: What the whole corpus holds, by name; `packed` is the text as zstd makes it.
        sampled: The same counts of the sample, with `units` and `bytes`.
        unreadable: Folders that could not be read.
        shape: Of the model.
        basis: Where tokenizer and shape come from.
        pods: GPUs at work at the same time.
        costs: For each GPU.
        hosted: For each hosted service.
        bought: For each GPU that is bought instead.
        prices_from: Which prices, and their date.
        replication: Copies that the broker keeps.
        record_bytes: Of an embedding record beside vector and text.
    """

    files: int
    bytes: int
    totals: Mapping[str, Total]
    sampled: Mapping[str, int]
    unreadable: tuple[Refusal, ...]
    shape: ModelShape
    basis: str
    pods: int
    costs: tuple[GpuCost, ...]
    hosted: tuple[Hosted, ...]
    bought: tuple[GpuCost, ...]
    prices_from: str
    replication: int
    record_bytes: int

    @property
    def disk(self) -> dict[str, float]:
        """Bytes on the broker before replication: vectors taken not to compress, text as in the sample."""
        text = self.totals["packed"].value
        passages = self.totals["passages"].value
        ratio = text / max(self.totals["text_bytes"].value, 1.0)
        vectors = passages * self.shape.dim * _FLOAT_BYTES
        return {
            "documents": text,
            "vectors": vectors,
            "passages_text": text + passages * self.record_bytes * ratio,
            "all": 2 * text + vectors + passages * self.record_bytes * ratio,
        }

    @property
    def network(self) -> dict[str, float]:
        """Bytes that cross the network: into the broker, between its copies, to the GPUs and back."""
        disk = self.disk
        return {
            "producer_to_broker": disk["documents"],
            "broker_to_gpus": disk["documents"],
            "gpus_to_broker": disk["all"] - disk["documents"],
            "between_brokers": disk["all"] * (self.replication - 1),
        }

    @property
    def network_per_pod(self) -> dict[str, float]:
        """Bytes that each pod reads from the broker and writes to it, if all are equally fast."""
        network = self.network
        return {
            "reads": network["broker_to_gpus"] / self.pods,
            "writes": network["gpus_to_broker"] / self.pods,
        }

    def to_json(self) -> dict[str, object]:
        """Return the estimate as what `json.dumps` takes; a range is low, likely, high."""
        return {
            "files": self.files,
            "bytes": self.bytes,
            **{
                name: {"low": round(each.low), "likely": round(each.value), "high": round(each.high)}
                for name, each in self.totals.items()
                if name != "packed"
            },
            "sampled": dict(self.sampled),
            "unreadable": [{"path": each.path, "message": each.message} for each in self.unreadable],
            "model": self.shape.name,
            "architecture": self.shape.architecture,
            "window": self.shape.window,
            "dim": self.shape.dim,
            "basis": self.basis,
            "pods": self.pods,
            "gpus": [gpu_json(each) for each in self.costs],
            "hosted": [_hosted_json(each) for each in self.hosted],
            "bought": [gpu_json(each) for each in self.bought],
            "prices": self.prices_from,
            "replication": self.replication,
            "disk_bytes": {name: round(size) for name, size in self.disk.items()},
            "disk_bytes_replicated": round(self.disk["all"] * self.replication),
            "network_bytes": {name: round(size) for name, size in self.network.items()},
            "network_bytes_per_pod": {name: round(size) for name, size in self.network_per_pod.items()},
        }

    def lines(self) -> Iterator[str]:
        """Yield the estimate for a person to read."""
        yield f"{self.files:,} files, {size_text(self.bytes)}; each likely value with its range in brackets"
        for name in ("documents", "refused", "text_bytes", "tokens", "passages"):
            yield f"  {name.replace('_', ' '):<12} {about(self.totals[name])}"
        for refusal in self.unreadable[:10]:
            yield f"  not counted: {refusal.path}: {refusal.message}"
        told = f"{self.pods} GPUs" if self.pods > 1 else "one GPU"
        yield f"{self.shape.name}, {self.shape.window} tokens, {self.shape.dim} dimensions, on {told}:"
        for cost in self.costs:
            taken = f"{hours_text(cost.hours)}, {dollars_text(cost.dollars)}"
            yield f"  {cost.gpu} at ${cost.price:.2f}/h: {taken}"
            yield f"    {cost.speed.likely:,.0f} tokens/s each: {cost.speed.basis}"
        yield f"instead, by {self.prices_from}:"
        for service in self.hosted:
            yield f"  {service.name}: {dollars_text(service.dollars)}"
        for cost in self.bought:
            yield f"  {cost.gpu}: {dollars_text(cost.dollars)}, {hours_text(cost.hours)}"
        disk = self.disk
        yield (
            f"broker: {size_text(disk['documents'])} documents, {size_text(disk['vectors'])} vectors,"
            f" {size_text(disk['passages_text'])} text of passages: {size_text(disk['all'])},"
            f" with {self.replication} copies {size_text(disk['all'] * self.replication)}"
        )
        yield "network: " + ", ".join(
            f"{size_text(n)} {k.replace('_', ' ')}" for k, n in self.network.items()
        )
        if self.pods > 1:
            pod = self.network_per_pod
            yield f"  each pod reads {size_text(pod['reads'])} and writes {size_text(pod['writes'])}"
        yield (
            f"rests on {self.sampled['documents']:,} documents of {size_text(self.sampled['bytes'])}"
            f" in {self.sampled['units']:,} places; tokens by {self.basis}; the range of a count holds"
            " 95% of samples, hours add that of the speed; vectors are taken not to compress;"
            " exact duplicates, which produce leaves out, are counted in"
        )


def gpu_json(cost: GpuCost) -> dict[str, object]:
    """Return it as what `json.dumps` takes."""
    return {
        "gpu": cost.gpu,
        "price_per_hour": cost.price,
        "tokens_per_second": {
            "low": round(cost.speed.low),
            "likely": round(cost.speed.likely),
            "high": round(cost.speed.high),
        },
        "measured": cost.speed.measured,
        "basis": cost.speed.basis,
        "hours": _range_json(cost.hours),
        "dollars": _range_json(cost.dollars),
    }


def _hosted_json(service: Hosted) -> dict[str, object]:
    return {"name": service.name, "dollars": _range_json(service.dollars), "source": service.source}


def _range_json(found: Range) -> dict[str, float]:
    low, likely, high = (round(each, 4) for each in found)
    return {"low": low, "likely": likely, "high": high}


def about(total: Total) -> str:
    """Return a total for a person to read, with its range."""
    if not total.error:
        return f"{total.value:,.0f}"
    return f"{total.value:,.0f} ({total.low:,.0f} to {total.high:,.0f})"


def hours_text(found: Range) -> str:
    """Return hours for a person to read, with their range."""
    low, likely, high = found
    return f"{_digits(likely)} h ({_digits(low)} to {_digits(high)})"


def dollars_text(found: Range) -> str:
    """Return dollars for a person to read, with their range."""
    low, likely, high = found
    likely_told = f"${_digits(likely)}"
    return likely_told if low == high else f"{likely_told} (${_digits(low)} to ${_digits(high)})"


def _digits(found: float) -> str:
    """Return two decimals, or two digits where that would be nothing."""
    return f"{found:,.2f}" if found >= 0.1 or not found else f"{found:.2g}"
