"""One way to embed texts, in a process of its own, for `tests.bench.encoders`.

    python encoder_worker.py WAY MODEL_FOLDER

Reads requests from stdin, a JSON object a line: `texts` (a file, a JSON list), `vectors` (where to save the
answer as float32, shape (texts, dim)) and, for some ways, `batch_size`. Answers each with a line: `seconds`.
Any interpreter may run it that has what the way needs: only ours imports embedstream.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 8
# The plain loop's: texts at a time, in the order they come.
LOOP_TEXTS = 256

Embed = Callable[[Sequence[str], int], Any]


def sentence_transformers(folder: str, kind: str) -> Embed:
    """`encode()` over the whole list, which sorts it by length itself."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": getattr(torch, kind)})

    def embed(texts: Sequence[str], batch_size: int) -> Any:
        return model.encode(list(texts), batch_size=batch_size, normalize_embeddings=True)

    return embed


def plain_loop(folder: str) -> Embed:
    """What most scripts do: some texts at a time, in fp32."""
    encode = sentence_transformers(folder, "float32")

    def embed(texts: Sequence[str], _: int) -> Any:
        parts = [texts[start : start + LOOP_TEXTS] for start in range(0, len(texts), LOOP_TEXTS)]
        return np.concatenate([encode(part, LOOP_TEXTS) for part in parts])

    return embed


def ours(folder: str, precision: str) -> Embed:
    """Split, batch and encode, with the token budget that is measured at start."""
    from consumer.model import load_encoder
    from consumer.robust import encode_passages
    from embedstream.logs import configure
    from embedstream.settings import load

    configure(level="WARNING")
    flags = {"encoder.model": folder, "encoder.device": "cpu", "encoder.precision": precision}
    encoder = load_encoder(load(flags=flags).encoder)

    def embed(texts: Sequence[str], batch_size: int) -> Any:
        splits = encoder.splitter.split_many(list(texts))
        passages = [split.passages for split in splits]
        assert all(len(each) == 1 for each in passages)
        outcomes, _ = encode_passages(encoder, [each[0].token_ids for each in passages], stop=lambda: False)
        return np.stack(outcomes)  # type: ignore[arg-type]

    return embed


def infinity(folder: str) -> Embed:
    """infinity-emb's engine in this process, on torch."""
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs  # type: ignore[import-not-found,unused-ignore]

    def embed(texts: Sequence[str], batch_size: int) -> Any:
        async def run() -> Any:
            arguments = EngineArgs(
                model_name_or_path=folder,
                engine="torch",
                device="cpu",
                dtype="float32",
                batch_size=batch_size,
                bettertransformer=False,
                model_warmup=False,
            )
            async with AsyncEmbeddingEngine.from_args(arguments) as engine:
                await engine.embed(sentences=list(texts[:WARM_UP]))
                started = time.perf_counter()
                vectors, _ = await engine.embed(sentences=list(texts))
                return np.asarray(vectors, np.float32), time.perf_counter() - started

        return asyncio.run(run())

    return embed


WAYS: dict[str, Callable[[str], Embed]] = {
    "loop": plain_loop,
    "st-fp32": lambda folder: sentence_transformers(folder, "float32"),
    "st-bf16": lambda folder: sentence_transformers(folder, "bfloat16"),
    "infinity": infinity,
    "ours-fp32": lambda folder: ours(folder, "fp32"),
    "ours-bf16": lambda folder: ours(folder, "bf16"),
}


def main(way: str, folder: str) -> None:
    """Answers requests until stdin ends."""
    # What the libraries print must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    embed = WAYS[way](folder)
    for line in sys.stdin:
        request = json.loads(line)
        texts = json.loads(Path(request["texts"]).read_text())
        if way != "infinity":
            embed(texts[:WARM_UP], WARM_UP)
        started = time.perf_counter()
        result = embed(texts, request["batch_size"])
        seconds = time.perf_counter() - started
        # Its engine is started and warmed up anew for each batch size; it says what embedding took.
        vectors, seconds = result if isinstance(result, tuple) else (result, seconds)
        np.save(request["vectors"], np.asarray(vectors, np.float32))
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
