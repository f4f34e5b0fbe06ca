"""Runs the measurements one after the other; torch is imported here, when they begin."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from embedstream.bench.measure import Encoding, Tokenising, measure_encoding, measure_peak, measure_tokenising
from embedstream.bench.report import Bench
from embedstream.bench.sample import Sample
from embedstream.bench.through_kafka import KafkaRun, measure_kafka
from embedstream.costs import ModelShape
from embedstream.errors import ConfigError, ServiceUnavailableError
from embedstream.kafka import make_admin, topics_answer
from embedstream.model_shape import open_model
from embedstream.settings import EncoderSettings, Settings

__all__ = ["run_bench"]

T = TypeVar("T")


def run_bench(settings: Settings, sample: Sample, *, seconds: float, say: Callable[[str], None]) -> Bench:
    """Measure this machine with the model that the settings name.

    Args:
        settings: `encoder`, `kafka` (a broker that does not answer is left out) and `cost` are used.
        sample: The texts.
        seconds: About how long encoding, and then Kafka to Kafka, may take.
        say: Told what is measured next.

    Raises:
        ConfigError: The model is not to be had, or does not run here as it is asked to.
        TryAgainError: A passage can't be encoded.
    """
    # Each in a thread of its own: torch's threads on a CPU belong to the thread that has computed.
    measured = _in_a_thread(lambda: _alone(settings, sample, seconds, say))
    info, budget, tokenising, encoding, peak, used = measured
    kafka, missing = _kafka(settings, sample, used, say)
    return Bench(
        machine=_machine(str(info["device"])),
        sample=sample,
        model=info,
        token_budget=budget,
        shape=_shape(settings.encoder),
        peak=peak,
        tokenising=tokenising,
        encoding=encoding,
        kafka=kafka,
        kafka_missing=missing,
        price_per_hour=settings.cost.price_per_hour,
    )


def _alone(
    settings: Settings, sample: Sample, seconds: float, say: Callable[[str], None]
) -> tuple[dict[str, Any], int, Tokenising, Encoding, float, int]:
    """All that needs no broker; last, how many texts were encoded."""
    from consumer.model import load_encoder

    say("loading the model")
    encoder = load_encoder(settings.encoder, settings.consumer.overflow)
    say("tokenising")
    tokenising, splits = measure_tokenising(encoder, sample.texts)
    say("encoding")
    passages = [passage.token_ids for split in splits for passage in split.passages]
    encoding = measure_encoding(encoder, passages, seconds)
    say("a large product of matrices")
    info = asdict(encoder.info)
    peak = measure_peak(encoder.info.device, encoder.info.precision)
    left = len(encoding.lengths)

    def fits(count: int) -> bool:
        nonlocal left
        left -= count
        return left >= 0

    used = sum(1 for _ in takewhile(fits, (len(split.passages) for split in splits)))
    return info, encoder.token_budget, tokenising, encoding, peak, max(1, used)


def _kafka(
    settings: Settings, sample: Sample, texts: int, say: Callable[[str], None]
) -> tuple[KafkaRun | None, str | None]:
    if not topics_answer(make_admin(settings.kafka)):
        return None, f"no broker answers at {settings.kafka.bootstrap_servers}"
    say("Kafka to Kafka")
    try:
        return measure_kafka(settings, sample.texts[:texts]), None
    except ServiceUnavailableError as error:
        return None, str(error)


def _shape(settings: EncoderSettings) -> ModelShape | None:
    try:
        return open_model(settings)[1]
    except ConfigError:
        # A model of another kind than BERT's runs all the same; only its operations are not known.
        return None


def _in_a_thread(call: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def _machine(device: str) -> dict[str, Any]:
    import torch

    name = _cpu_name()
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(torch.device(device))
    return {
        "device": name,
        "cores": f"{len(os.sched_getaffinity(0))} cores",
        "python": f"Python {platform.python_version()}",
        "torch": f"torch {torch.__version__}",
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
