"""Whether memory grows: short passages without end through the splitter and the encoder.

    python -m tests.bench.memory [--passages 1000000]

The model is a BERT of two layers with random weights, the tokenizer a real one, and no text comes twice. What
is printed is the memory that the process holds after each twentieth of the way, in MiB.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from consumer.model import load_encoder
from consumer.prepare import CHUNK_RECORDS
from consumer.records import Failure
from consumer.robust import encode_passages
from embedstream.logs import configure
from embedstream.settings import EncoderSettings
from tests.models import save_bert

__all__ = ["held"]

WINDOW_CHUNKS = 32
STEPS = 20
WORDS = 11


def texts(count: int) -> Iterator[str]:
    """Texts of about 20 tokens: words of the Python reference, and a number that is like no other."""
    drawn = random.Random(3)
    words = sorted({word for text in topics.values() for word in text.split() if word.isalpha()})
    for number in range(count):
        yield f"{' '.join(drawn.choices(words, k=WORDS))} {number}"


def held(passages: int, folder: Path) -> dict[str, Any]:
    """Sends so many passages through, and tells the memory held on the way."""
    encoder = load_encoder(EncoderSettings(model=str(save_bert(folder)), device="cpu"))
    process = psutil.Process()
    memory: list[float] = []
    tokens = done = 0
    started = time.monotonic()
    source = texts(passages)
    while done < passages:
        window = []
        for _ in range(WINDOW_CHUNKS):
            chunk = [text for _, text in zip(range(CHUNK_RECORDS), source, strict=False)]
            splits = encoder.splitter.split_many(chunk)
            window += [passage.token_ids for split in splits for passage in split.passages]
        outcomes, _ = encode_passages(encoder, window, stop=lambda: False)
        assert window
        assert not any(isinstance(each, Failure) for each in outcomes)
        done += len(window)
        tokens += sum(map(len, window))
        while len(memory) < STEPS * done // passages:
            memory.append(round(process.memory_info().rss / 2**20, 1))
    return {
        "passages": done,
        "mean_tokens": round(tokens / done, 1),
        "seconds": round(time.monotonic() - started, 1),
        "mebibytes": memory,
        # The first tenth fills pools and caches.
        "growth": round(memory[-1] - memory[STEPS // 10 - 1], 1),
    }


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=1_000_000)
    arguments = parser.parse_args()
    configure(level="WARNING")
    with TemporaryDirectory() as folder:
        print(json.dumps(held(arguments.passages, Path(folder)), indent=2))


if __name__ == "__main__":
    main()
