"""The token budget of a batch: measured once for a device and a model, and remembered.

encoder.token_budget = find_token_budget(encoder)
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consumer.device import device_name
from consumer.encoder import OutOfMemory, PipelinedEncoder
from embedstream.logs import get_logger

__all__ = ["cache_file", "find_token_budget", "measure"]

# A CPU is fastest while a batch fits its cache; a GPU needs many tokens to be busy. The smallest of each is
# what a machine gets that is too slow to measure, or has too little memory.
CPU_BUDGETS = (2048, 1024, 4096, 8192)
GPU_BUDGETS = (16_384, 8192, 32_768, 65_536, 131_072)
SECONDS = 4.0
TURNS = 4
LONGEST = 512
# The smallest that is so near the fastest is taken: it waits less for a full batch and needs less memory.
NEAR = 0.97

_log = get_logger("encoder")


def find_token_budget(encoder: PipelinedEncoder) -> int:
    """The budget remembered for this device, model and way to run it, else measured now.

    Measuring takes at most about `SECONDS` seconds, or two batches if those take longer.
    """
    import torch

    info = encoder.info
    device = torch.device(info.device)
    budgets = CPU_BUDGETS if device.type == "cpu" else GPU_BUDGETS
    compiled = "compiled" if info.compiled else "eager"
    way = (info.precision, info.layout, info.attention, compiled, f"{encoder.in_flight} in flight")
    key = " | ".join((device_name(device), info.fingerprint, *way, f"torch {torch.__version__}"))
    known = _remembered(key)
    if known is not None:
        _log.info("token_budget", token_budget=known, source="remembered", file=str(cache_file()))
        return known
    rates = measure(encoder, budgets)
    chosen = _chosen(rates, min(budgets))
    _log.info(
        "token_budget",
        token_budget=chosen,
        source="measured",
        tokens_per_second={budget: round(rate) for budget, rate in sorted(rates.items())},
    )
    if rates:
        _remember(key, chosen)
    return chosen


def measure(
    encoder: PipelinedEncoder,
    budgets: Sequence[int],
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Tokens a second for each budget, of passages from a quarter of the window to all of it.

    The budgets take turns, a few times or until the time is up, and the best turn of each counts: what else
    runs on the machine only ever makes it slower. A budget that does not fit the memory is left out, with
    all above it, and so is one that would take too long by the rates so far.

    Args:
        encoder: whose own budget plays no part.
        budgets: in the order to try them.
        seconds: when to stop; the first batch of all is not counted.
        clock: seconds that pass.
    """
    rates: dict[int, float] = {}
    deadline = clock() + seconds
    limit = float("inf")
    left = list(budgets)
    try:
        encoder.encode(_passages(encoder, min(budgets)))  # what happens once only
    except OutOfMemory:
        return {}
    for _ in range(TURNS):
        for budget in left:
            if budget >= limit:
                continue
            batch = _passages(encoder, budget)
            tokens = encoder.in_flight * sum(map(len, batch))
            started = clock()
            if started >= deadline:
                return rates
            if rates and started + tokens / max(rates.values()) > deadline:
                continue
            try:
                # As many at a time as later, so that they fit the memory together.
                pending = [encoder.submit(batch) for _ in range(encoder.in_flight)]
                for each in pending:
                    each.result()
            except OutOfMemory:
                limit = budget
                rates = {known: rate for known, rate in rates.items() if known < limit}
                continue
            rates[budget] = max(rates.get(budget, 0.0), tokens / max(clock() - started, 1e-9))
        left = [budget for budget in left if budget < limit]
    return rates


def cache_file() -> Path:
    """Where budgets are remembered: in the user's cache folder."""
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder).expanduser() / "embedstream" / "token-budgets.json"


def _chosen(rates: dict[int, float], default: int) -> int:
    if not rates:
        return default
    enough = NEAR * max(rates.values())
    return min(budget for budget, rate in rates.items() if rate >= enough)


def _passages(encoder: PipelinedEncoder, budget: int) -> list[NDArray[np.int32]]:
    """Passages whose lengths repeat a quarter, a half, three quarters and all of the window, longest first.

    On a padded layout they are all as long as the window, since batches are of similar lengths. A very long
    window counts as `LONGEST` tokens, lest one passage be more than a budget.
    """
    window = min(encoder.info.max_tokens, LONGEST)
    quarters = (4, 3, 2, 1) if encoder.info.layout == "packed" else (4,)
    lengths: list[int] = []
    while True:
        length = max(1, window * quarters[len(lengths) % len(quarters)] // 4)
        if lengths and sum(lengths) + length > budget:
            break
        lengths.append(length)
    # Ids near the beginning of a vocabulary: every model has them.
    return [np.arange(length, dtype=np.int32) % 100 for length in sorted(lengths, reverse=True)]


def _read() -> dict[str, int]:
    try:
        found = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, int) and value > 0}


def _remembered(key: str) -> int | None:
    return _read().get(key)


def _remember(key: str, budget: int) -> None:
    file = cache_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        with os.fdopen(handle, "w", encoding="utf-8") as new:
            json.dump({**_read(), key: budget}, new, indent=2, sort_keys=True)
        Path(name).replace(file)  # whole or not at all: other daemons read it
    except OSError as error:
        _log.info("token_budget_not_remembered", reason=str(error))
        with contextlib.suppress(OSError, UnboundLocalError):
            Path(name).unlink()
