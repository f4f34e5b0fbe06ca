"""How a group is doing, from Kafka and from what its daemons tell: one look, or one after the other.

    with Watcher(settings, ["127.0.0.1:9400"]) as watcher:
        status = watcher.look()

Rates are over the time between two looks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

from embedstream.errors import ConfigError
from embedstream.group_progress import GroupProgress, Snapshot
from embedstream.kafka import make_admin, topic_partitions
from embedstream.offsets import end_offsets, start_offsets
from embedstream.progress import Estimate
from embedstream.scrape import Scraped, scrape, url_of
from embedstream.settings import Settings
from embedstream.spending import Spending, projected

__all__ = ["Cost", "Status", "Watcher"]

KEPT_RATES = 60
SCRAPES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Cost:
    """The group's money, in dollars; None where no daemon has a price or nothing is known."""

    dollars: float | None = None
    price_per_hour: float | None = None
    projected: float | None = None
    per_million_tokens: float | None = None
    budget: float | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """One look.

    Attributes:
        topics: For each role of a topic its name and how many offsets it holds; None where there is none.
        snapshot: The group, from Kafka.
        estimate: How far the job is: a daemon's, where one told, else that of this process's own looks.
        daemons: What each daemon told.
        rates: Passages and tokens a second of the daemons that answered, over the time since the last look.
        history: The group's bytes a second at the looks so far.
    """

    group: str
    topics: Mapping[str, tuple[str, int | None]]
    snapshot: Snapshot
    estimate: Estimate
    daemons: tuple[Scraped, ...]
    dead_letters: Mapping[str, int]
    cost: Cost
    rates: Mapping[str, float | None]
    history: tuple[float, ...]

    @property
    def model(self) -> Mapping[str, str]:
        """How the first daemon that answered runs which model."""
        found = (each.labels("embedstream_model_info") for each in self.daemons)
        return next((each for each in found if each), {})

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints; what is not known, or infinite, is null."""
        told, members = self.estimate, self.snapshot.members
        return {
            "group": self.group,
            "topics": {role: {"name": name, "offsets": n} for role, (name, n) in self.topics.items()},
            "lag": {
                "total": sum(self.snapshot.lag.values()),
                "partitions": {str(p): lag for p, lag in sorted(self.snapshot.lag.items())},
            },
            "members": None
            if members is None
            else [
                {"client_id": m.client_id, "host": m.host, "partitions": list(m.partitions)} for m in members
            ],
            "progress": {
                "ratio": told.ratio,
                "bytes_done": round(told.done),
                "bytes_total": round(told.total),
                "bytes_per_second": told.rate,
                "stalled": told.rate == 0.0,
                "seconds_left": _finite(told.likely),
                "seconds_left_low": _finite(told.low),
                "seconds_left_high": _finite(told.high),
                "targets": {str(p): offset for p, offset in sorted(self.snapshot.targets.items())},
            },
            "rates": dict(self.rates),
            "cost": {name: _finite(getattr(self.cost, name)) for name in Cost.__dataclass_fields__},
            "dead_letters": {
                "total": self.topics["dead_letters"][1],
                "by_reason_of_live_daemons": dict(self.dead_letters),
            },
            "model": dict(self.model),
            "daemons": [
                {
                    "url": each.url,
                    "error": each.error,
                    "instance_id": each.labels("embedstream_consumer_info").get("instance_id"),
                }
                for each in self.daemons
            ],
        }


class Watcher:
    """Looks at a group; for one thread. A context manager."""

    def __init__(self, settings: Settings, targets: Sequence[str]) -> None:
        """Connects to nothing yet.

        Args:
            settings: Where Kafka is, which topics and group, the token of the daemons.
            targets: Where the daemons' metrics are: HOST:PORT or URLs.

        Raises:
            UsageError: A target is no address.
        """
        self._settings = settings
        self._urls = [url_of(each) for each in targets]
        self._admin = make_admin(settings.kafka)
        self._progress = GroupProgress(settings.kafka, settings.consumer.group)
        self._spending = Spending(settings.kafka, settings.consumer.group)
        self._counted: dict[str, tuple[float, float]] = {}
        self._rates: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.__exit__()
        self._spending.close()

    def look(self) -> Status:
        """Ask Kafka and the daemons.

        Raises:
            ServiceUnavailableError: No broker answers.
            ConfigError: The documents topic does not exist.
        """
        group, topic = self._settings.consumer.group, self._settings.kafka.documents_topic
        snapshot = self._progress.look()
        token = self._settings.metrics.token
        # At the same time: of a fleet, many may not answer.
        with ThreadPoolExecutor(SCRAPES_AT_ONCE) as pool:
            scraped = tuple(pool.map(lambda url: scrape(url, token), self._urls))
        own = [
            each
            for each in scraped
            if each.labels("embedstream_consumer_info").get("group") == group
            and each.labels("embedstream_consumer_info").get("topic") == topic
        ]
        # As on the dashboards: the daemon that froze the job's ends first tells of it.
        own.sort(key=lambda each: each.value("embedstream_job_start_timestamp_seconds") or math.inf)
        told = next(filter(None, (_told(each) for each in own)), snapshot.estimate)
        self._rates = [*self._rates, told.rate or 0.0][-KEPT_RATES:]
        dead: dict[str, int] = {}
        for each in own:
            for reason, count in each.by("embedstream_dead_letters_total", "reason").items():
                if count:
                    dead[reason] = dead.get(reason, 0) + int(count)
        return Status(
            group,
            self._topics(),
            snapshot,
            told,
            scraped,
            dead,
            self._cost(own, told),
            {name: self._rate(name, own) for name in ("passages", "tokens")},
            tuple(self._rates),
        )

    def _topics(self) -> dict[str, tuple[str, int | None]]:
        kafka = self._settings.kafka
        names = {
            "documents": kafka.documents_topic,
            "embeddings": kafka.embeddings_topic,
            "dead_letters": kafka.dead_letters_topic,
        }
        found: dict[str, tuple[str, int | None]] = {}
        for role, name in names.items():
            try:
                partitions = range(topic_partitions(self._admin, name))
            except ConfigError:
                found[role] = (name, None)
                continue
            ends = end_offsets(self._admin, name, partitions)
            starts = start_offsets(self._admin, name, partitions)
            found[role] = (name, sum(ends[p] - starts[p] for p in partitions))
        return found

    def _cost(self, own: Sequence[Scraped], told: Estimate) -> Cost:
        spending = self._spending
        spending.look()
        price = spending.price_per_hour
        budgets = [each.value("embedstream_budget_dollars") for each in own]
        budget = next((each for each in budgets if each is not None and not math.isnan(each)), None)
        # What daemons tell now is newer than what they have written down.
        dollars = max((spending.group_dollars, *_told_values(own, "group_cost_dollars")))
        if not price and not dollars:
            return Cost(budget=budget)
        per_million = _told_values(own, "group_cost_dollars_per_million_tokens")
        return Cost(
            dollars,
            price,
            projected(dollars, price, told.likely),
            max(per_million, default=spending.per_million_tokens),
            budget,
        )

    def _rate(self, name: str, own: Sequence[Scraped]) -> float | None:
        """Of a counter, over all daemons that answered now and before."""
        now = time.monotonic()
        rates = []
        for each in own:
            value = each.value(f"embedstream_{name}_total")
            key = f"{name} {each.url}"
            before = self._counted.get(key)
            if value is None:
                continue
            self._counted[key] = (now, value)
            if before is not None and value >= before[1] and now > before[0]:
                rates.append((value - before[1]) / (now - before[0]))
        return sum(rates) if rates else None


def _told_values(own: Sequence[Scraped], name: str) -> list[float]:
    values = [each.value(f"embedstream_{name}") for each in own]
    return [each for each in values if each is not None and not math.isnan(each)]


def _told(scraped: Scraped) -> Estimate | None:
    """The estimate of a daemon; None where it has none yet."""
    bounds = scraped.by("embedstream_job_time_left_seconds", "bound")
    ratio = scraped.value("embedstream_job_progress_ratio")
    if ratio is None or any(math.isnan(bounds.get(each, math.nan)) for each in ("low", "likely", "high")):
        return None
    rate = scraped.value("embedstream_job_bytes_per_second")
    sizes = scraped.by("embedstream_job_bytes", "state")
    return Estimate(
        ratio,
        sizes.get("done", 0.0),
        sizes.get("total", 0.0),
        None if rate is None or math.isnan(rate) else rate,
        bounds["likely"],
        bounds["low"],
        bounds["high"],
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
