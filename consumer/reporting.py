"""What a daemon tells beside its own counts: how far its group is, and what that has cost.

Two threads of their own, with clients of their own: a broker that is slow to answer holds nothing else up.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from embedstream.errors import BudgetUsedUpError, EmbedstreamError
from embedstream.group_progress import GroupProgress, Snapshot
from embedstream.logs import get_logger
from embedstream.metrics import Metrics
from embedstream.settings import Settings
from embedstream.spending import Spending, projected

__all__ = ["Reporting"]

# How exact a budget is.
MONEY_SECONDS = 1.0
# How often the other daemons' money is looked at.
LOOK_SECONDS = 10.0

_log = get_logger("reporting")


class Reporting:
    """Keeps the gauges of progress and money up to date, and ends a daemon whose budget is used up."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        ending: threading.Event,
        used_up: Callable[[EmbedstreamError], None],
    ) -> None:
        """Nothing is connected yet; money counts from here on.

        Args:
            settings: all of them.
            metrics: what is kept up to date.
            ending: set when the daemon is to end.
            used_up: called once with what to end with when the budget is used up.
        """
        self._settings = settings
        self._metrics = metrics
        self._ending = ending
        self._used_up = used_up
        self._job = {"group": settings.consumer.group, "topic": settings.kafka.documents_topic}
        self._seconds_left: float | None = None
        price, budget = settings.cost.price_per_hour, settings.cost.budget
        metrics.price_dollars_per_hour.set(math.nan if price is None else price)
        metrics.budget_dollars.set(math.nan if budget is None else budget)
        metrics.consumer_info.info(
            {
                **self._job,
                "instance_id": settings.consumer.instance_id,
                "embeddings_topic": settings.kafka.embeddings_topic,
                "delivery": settings.consumer.delivery,
            }
        )
        self._spending = None
        if price is not None:
            group, instance = settings.consumer.group, settings.consumer.instance_id
            self._spending = Spending(settings.kafka, group, instance, price, self._tokens)
        self._counted = 0.0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the threads; they end with the daemon."""
        for name, work in (("progress", self._watch_progress), ("money", self._watch_money)):
            if name == "progress" or self._spending is not None:
                thread = threading.Thread(target=work, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def join(self, seconds: float) -> None:
        """Waits until what was spent is written down, but not for long."""
        for each in self._threads:
            if each.name == "money":
                each.join(seconds)

    def _watch_progress(self) -> None:
        with GroupProgress(
            self._settings.kafka,
            self._settings.consumer.group,
            is_daemon=True,
            stopping=self._ending.is_set,
        ) as group:
            while not self._ending.is_set():
                try:
                    self._tell(group.look())
                except EmbedstreamError as error:
                    self._metrics.progress_errors_total.inc()
                    _log.debug("progress_unknown", error=str(error))
                except Exception as error:
                    # Telling is never worth a daemon; the count and the log say that it fails.
                    self._metrics.progress_errors_total.inc()
                    _log.warning("progress_failed", exc_info=error)
                self._ending.wait(self._settings.metrics.progress_seconds)

    def _tell(self, snapshot: Snapshot) -> None:
        metrics, job, told = self._metrics, self._job, snapshot.estimate
        for gauge, offsets in (
            (metrics.consumer_lag_records, snapshot.lag),
            (metrics.job_start_end_offset, snapshot.targets),
        ):
            for partition, offset in offsets.items():
                gauge.labels(**job, partition=partition).set(offset)
        metrics.job_start_timestamp_seconds.labels(**job).set(snapshot.job_began)
        metrics.job_progress_ratio.labels(**job).set(told.ratio)
        metrics.job_bytes.labels(**job, state="done").set(told.done)
        metrics.job_bytes.labels(**job, state="total").set(told.total)
        metrics.job_bytes_per_second.labels(**job).set(_number(told.rate))
        for bound in ("low", "likely", "high"):
            left = getattr(told, bound)
            metrics.job_time_left_seconds.labels(**job, bound=bound).set(_number(left))
        self._seconds_left = told.likely

    def _watch_money(self) -> None:
        spending = self._spending
        assert spending is not None
        next_look = 0.0
        while not self._ending.is_set():
            if time.monotonic() >= next_look:
                spending.look()
                next_look = time.monotonic() + LOOK_SECONDS
            self._count(spending)
            self._ending.wait(MONEY_SECONDS)
        spending.close()

    def _tokens(self) -> float:
        # Asked every second: the registry would collect everything for it, the GPU's gauges too.
        (family,) = self._metrics.tokens_total.collect()
        return family.samples[0].value

    def _count(self, spending: Spending) -> None:
        metrics, budget = self._metrics, self._settings.cost.budget
        dollars = spending.dollars
        metrics.cost_dollars_total.inc(max(0.0, dollars - self._counted))
        self._counted = dollars
        whole, price = spending.group_dollars, spending.price_per_hour
        metrics.group_cost_dollars.labels(**self._job).set(whole)
        per_million = _number(spending.per_million_tokens)
        metrics.group_cost_dollars_per_million_tokens.labels(**self._job).set(per_million)
        forecast = projected(whole, price, self._seconds_left)
        metrics.group_cost_projected_dollars.labels(**self._job).set(_number(forecast))
        if budget is not None and whole >= budget:
            _log.info("budget_used_up", dollars=round(whole, 4), budget=budget)
            error = BudgetUsedUpError(
                f"cost.budget {budget:g} dollars is used up (the group {self._job['group']!r} has cost"
                f" {whole:.4f}); what was encoded is delivered",
                "to go on, raise --budget: what is left is read from the committed offsets",
            )
            self._used_up(error)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
