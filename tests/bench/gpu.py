"""Encoders beside each other on a GPU: sentence-transformers in fp16, and ours, plain and compiled.

    python -m tests.bench.gpu [--rounds 3] [--device cuda] [--precision fp16] [--json]

BERTs of the architectures of bge-large-en-v1.5 and of both MiniLMs, with random weights, which change nothing
about the speed. Passages of about 128 and 512 tokens and of mixed lengths, from the corpus beside the
checkout or from the Python reference. One process, the ways in turn, medians. sentence-transformers has the
batch size that is best for it, and tokenises itself; so does `texts to vectors`, one after the other, while
`ours` has its tokens ready, as in the daemon, where other threads tokenise. The peak is that of a large
product of matrices in the same precision, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from consumer.device import device_name
from consumer.encoder import Encoder
from consumer.model import load_encoder
from consumer.robust import encode_passages
from embedstream.bench.measure import measure_peak
from embedstream.logs import configure
from embedstream.model_shape import shape_of
from embedstream.settings import load
from tests.bench.passages import PassageSet, full_passages, mixed_passages
from tests.models import save_bert

__all__ = ["CASES", "Case", "compare"]

BATCH_SIZES = (16, 32, 64, 128, 256, 512)
MIXED = "mixed"
# Work of each run: seconds for bge-large, on a small GPU too; no more tokens for a small model.
FLOP, MOST_TOKENS = 4e14, 2e6
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

Way = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """An architecture and the passages that it gets: tokens of each, or `mixed`."""

    name: str
    pooling: str
    layers: int
    hidden: int
    heads: int
    length: int | str

    @property
    def sizes(self) -> Mapping[str, Any]:
        """What transformers calls them."""
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "intermediate_size": 4 * self.hidden,
        }


LARGE = partial(Case, "bge-large", "cls", 24, 1024, 16)
CASES = (
    *(LARGE(length) for length in (512, 128, MIXED)),
    Case("MiniLM-L12", "mean", 12, 384, 12, 128),
    Case("MiniLM-L6", "mean", 6, 384, 12, MIXED),
)


def compare(
    case: Case, device: str, precision: str, rounds: int, *, flop: float = FLOP, compiled: bool = True
) -> dict[str, Any]:
    """Runs all ways of a case in turn.

    Returns:
        By way `tokens_per_second` (the median), `share` of the peak and, of ours, `lowest_cosine` to
        sentence-transformers; with the case, the peak and how ours was run.
    """
    from sentence_transformers import SentenceTransformer

    with TemporaryDirectory() as name:
        folder = save_bert(Path(name), case.pooling, positions=512, sizes=case.sizes)
        flags = {"encoder.model": str(folder), "encoder.device": device, "encoder.precision": precision}
        if isinstance(case.length, int):
            flags["encoder.max_tokens"] = str(case.length)
        settings = load(flags=flags).encoder
        encoders = {"ours": load_encoder(settings)}
        if compiled:
            encoders["ours, compiled"] = load_encoder(settings.model_copy(update={"compile": True}))
        passages = _passages(case, encoders["ours"], flop / shape_of(settings).flop_per_token(300))
        theirs = SentenceTransformer(str(folder), device=device, model_kwargs={"dtype": DTYPES[precision]})
        theirs.max_seq_length = settings.max_tokens or 512
        shape = shape_of(settings)
    ways: dict[str, Way] = {
        "sentence-transformers": partial(_encode, theirs, passages.texts, _best(theirs, passages.texts)),
        **{name: partial(_ours, encoder, passages.token_ids) for name, encoder in encoders.items()},
        "ours, texts to vectors": partial(_from_texts, encoders["ours"], passages.texts),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    vectors = {name: way() for name, way in ways.items()}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    work = sum(length * shape.flop_per_token(length) for length in map(len, passages.token_ids))
    peak = measure_peak(device, precision)
    oracle = vectors["sentence-transformers"]
    found = {}
    for name, each in seconds.items():
        median = statistics.median(each)
        found[name] = {
            "tokens_per_second": passages.tokens / median,
            "passages_per_second": len(passages.texts) / median,
            "share": work / median / peak,
            "lowest_cosine": float((vectors[name] * oracle).sum(1).min()),
        }
    infos = {name: encoder.info for name, encoder in encoders.items()}
    return {
        "case": f"{case.name}, {case.length} tokens",
        "device": device_name(torch.device(device)),
        "precision": precision,
        "mean_tokens": passages.mean_tokens,
        "passages": len(passages.texts),
        "peak_flop_per_second": peak,
        "token_budget": {name: encoder.token_budget for name, encoder in encoders.items()},
        "run": {
            name: f"{info.layout}, {info.attention}, {'compiled' if info.compiled else 'eager'}"
            + f"; refused: {info.refused or 'nothing'}"
            for name, info in infos.items()
        },
        "ways": found,
    }


def _passages(case: Case, encoder: Encoder, tokens: float) -> PassageSet:
    tokens = min(tokens, MOST_TOKENS)
    mean = case.length if isinstance(case.length, int) else 330
    count = max(8, int(tokens / mean))
    found = (mixed_passages if case.length == MIXED else full_passages)(encoder.splitter, count)
    # A sample that is too short is gone through again.
    times = -(-count // len(found.texts))
    return PassageSet((found.texts * times)[:count], (found.token_ids * times)[:count])


def _encode(model: Any, texts: list[str], batch_size: int) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = model.encode(texts, batch_size=batch_size, normalize_embeddings=True)
    return vectors.astype(np.float32)


def _best(model: Any, texts: list[str]) -> int:
    part = texts[: max(8, len(texts) // 8)]
    _encode(model, part[:64], 16)
    times: dict[int, float] = {}
    for size in BATCH_SIZES:
        started = time.perf_counter()
        try:
            _encode(model, part, size)
        except torch.OutOfMemoryError:
            break
        times[size] = time.perf_counter() - started
    return min(times, key=times.__getitem__)


def _ours(encoder: Encoder, token_ids: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
    outcomes, _ = encode_passages(encoder, token_ids, stop=lambda: False)
    return np.stack(outcomes)  # type: ignore[arg-type]


def _from_texts(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    return _ours(encoder, [each.passages[0].token_ids for each in encoder.splitter.split_many(texts)])


def show(found: Mapping[str, Any], console: Console) -> None:
    """The table of a case, for people."""
    title = (
        f"{found['case']}: {found['passages']:,} passages of {found['mean_tokens']:.0f} tokens,"
        f" {found['device']}, {found['precision']}, peak {found['peak_flop_per_second'] / 1e12:,.2f} TFLOP/s"
    )
    table = Table(title=title, title_justify="left")
    for name in ("", "tokens/s", "passages/s", "of the peak", "to sentence-transformers", "lowest cosine"):
        table.add_column(name, justify="left" if not name else "right")
    theirs = found["ways"]["sentence-transformers"]["tokens_per_second"]
    for name, way in found["ways"].items():
        table.add_row(
            name,
            f"{way['tokens_per_second']:,.0f}",
            f"{way['passages_per_second']:,.0f}",
            f"{way['share']:.1%}",
            f"{way['tokens_per_second'] / theirs:.2f}",
            f"{way['lowest_cosine']:.6f}",
        )
    console.print(table)
    for name, run in found["run"].items():
        console.print(f"{name}: {run}; budget {found['token_budget'][name]:,}")


def main() -> None:
    """Prints a table for each case, or with --json one document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="fp16", choices=list(DTYPES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    configure(level="WARNING")
    found = []
    for case in CASES:
        found.append(compare(case, arguments.device, arguments.precision, arguments.rounds))
        if not arguments.json:
            show(found[-1], Console(width=110))
    if arguments.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
