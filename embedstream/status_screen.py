"""`status` for people: at 80 columns, and as useful without colour."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from embedstream.size_text import size_text
from embedstream.status import Status

__all__ = ["duration", "screen", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"
BAR_WIDTH = 60
PARTITIONS_SHOWN = 16


def screen(status: Status) -> RenderableType:
    """What a look shows."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _rows(status):
        grid.add_row(name, value)
    ratio = status.estimate.ratio
    full = int(ratio * BAR_WIDTH)
    bar = Text(f"{'█' * full}{'░' * (BAR_WIDTH - full)} {ratio:.1%}")
    return Group(Text(status.group, style="bold"), bar, grid)


def _rows(status: Status) -> list[tuple[str, str]]:
    told = status.estimate
    rows = [
        ("time left", _time_left(status)),
        ("rate", _rate(status)),
        ("documents", _topic(status, "documents")),
        ("embeddings", _topic(status, "embeddings")),
        ("dead letters", _topic(status, "dead_letters") + _reasons(status)),
        ("lag", _lag(status)),
        ("daemons", _daemons(status)),
        ("cost", _cost(status)),
        ("model", _model(status)),
    ]
    if told.total:
        rows.insert(1, ("done", f"{size_text(told.done)} of {size_text(told.total)}"))
    return rows


def _time_left(status: Status) -> str:
    told = status.estimate
    if told.likely is None:
        return "not known yet: nothing has moved"
    if told.likely == 0:
        return "none: all that was there when the job began is committed"
    if math.isinf(told.likely):
        return "nothing moves"
    assert told.low is not None
    assert told.high is not None
    return f"{duration(told.likely)} ({duration(told.low)} to {duration(told.high)})"


def _rate(status: Status) -> str:
    rate = status.estimate.rate
    parts = [] if rate is None else [f"{size_text(rate)}/s"]
    parts += [f"{value:,.0f} {name}/s" for name, value in status.rates.items() if value is not None]
    line = sparkline(status.history[-24:]) if len(status.history) > 1 else ""
    return "  ".join([*parts, line]).strip() or "not known yet"


def _topic(status: Status, role: str) -> str:
    name, offsets = status.topics[role]
    return f"{name}: does not exist" if offsets is None else f"{name}: {offsets:,} offsets"


def _reasons(status: Status) -> str:
    reasons = sorted(status.dead_letters.items(), key=lambda each: -each[1])
    return "".join(f"\n{count:,} {reason}" for reason, count in reasons)


def _lag(status: Status) -> str:
    lag = status.snapshot.lag
    shown = [f"{p}: {lag[p]:,}" for p in sorted(lag)[:PARTITIONS_SHOWN] if lag[p]]
    more = "" if len(lag) <= PARTITIONS_SHOWN else f" and {len(lag) - PARTITIONS_SHOWN} partitions more"
    parted = f" (by partition {', '.join(shown)}{more})" if shown else ""
    return f"{sum(lag.values()):,} records{parted}"


def _daemons(status: Status) -> str:
    members = status.snapshot.members
    lines = ["not known: the broker does not tell" if members is None else f"{len(members)} in the group"]
    lines += [
        f"{each.client_id.removeprefix('embedstream-')} at {each.host.lstrip('/')}: "
        + (f"partitions {', '.join(map(str, each.partitions))}" if each.partitions else "no partition")
        for each in members or ()
    ]
    lines += [f"{each.url}: {each.error}" for each in status.daemons if each.error is not None]
    return "\n".join(lines)


def _cost(status: Status) -> str:
    cost = status.cost
    if cost.dollars is None:
        return "not known: no daemon has a price (--price-per-hour)"
    parts = [f"${cost.dollars:,.4f} so far", f"${cost.price_per_hour or 0:,.2f} an hour"]
    if cost.projected is not None and math.isfinite(cost.projected):
        parts.append(f"${cost.projected:,.4f} at the end")
    if cost.per_million_tokens is not None:
        parts.append(f"${cost.per_million_tokens:,.4f} a million tokens")
    if cost.budget is not None:
        parts.append(f"budget ${cost.budget:,.2f}")
    return ", ".join(parts)


def _model(status: Status) -> str:
    model = status.model
    if not model:
        return "not known: no daemon answered with one"
    how = f"{model.get('dim')} dimensions, {model.get('precision')}, {model.get('device')}"
    return f"{model.get('model')} ({how})"


def sparkline(values: Sequence[float]) -> str:
    """A line of bars, the largest value full, zero the lowest."""
    most = max(values, default=0.0)
    if most <= 0:
        return BARS[0] * len(values)
    return "".join(BARS[min(len(BARS) - 1, int(value / most * len(BARS)))] for value in values)


def duration(seconds: float) -> str:
    """Two units, as people say it: 3 h 20 min."""
    if math.isinf(seconds):
        return "no end"
    whole = round(seconds)
    for name, size, smaller, part in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part} {smaller}"
    return f"{whole} s"
