"""Asks a daemon for its metrics, as Prometheus does."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from embedstream.errors import UsageError

__all__ = ["Scraped", "scrape", "url_of"]

TIMEOUT_SECONDS = 5.0
# Far more than a daemon tells: what answers may be something else.
MOST_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Scraped:
    """What a daemon told, or in `error` why it told nothing."""

    url: str
    samples: tuple[tuple[str, Mapping[str, str], float], ...] = field(default=(), repr=False)
    error: str | None = None

    def value(self, name: str, **labels: str) -> float | None:
        """The first sample of this name with these labels among its own."""
        for found, own, value in self.samples:
            if found == name and all(own.get(each) == wanted for each, wanted in labels.items()):
                return value
        return None

    def labels(self, name: str) -> Mapping[str, str]:
        """The labels of the first sample of this name; none if there is none."""
        return next((own for found, own, _ in self.samples if found == name), {})

    def by(self, name: str, label: str) -> dict[str, float]:
        """The samples of this name by one of their labels."""
        return {own[label]: value for found, own, value in self.samples if found == name and label in own}


def url_of(target: str) -> str:
    """The URL of a daemon's metrics: `HOST:PORT`, or a URL with or without a path.

    Raises:
        UsageError: it is neither.
    """
    url = target if "://" in target else f"http://{target}"
    if not url.startswith(("http://", "https://")) or any(c.isspace() for c in url) or url.endswith("://"):
        raise UsageError(f"--daemon {target!r} is no address", "give HOST:PORT or an http(s) URL")
    host, slash, path = url.partition("://")[2].partition("/")
    return url if slash and path else f"{url.partition('://')[0]}://{host}/metrics"


def scrape(url: str, token: str | None) -> Scraped:
    """Ask one daemon; whatever goes wrong is told in `error`."""
    # The scheme was checked by `url_of`.
    request = urllib.request.Request(url)  # noqa: S310
    if token is not None:
        # Never sent on to where a redirect leads.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            text = answer.read(MOST_BYTES).decode("utf-8")
        families = list(text_string_to_metric_families(text))
    except urllib.error.HTTPError as error:
        refused = error.code == 401
        return Scraped(url, error="the token is missing or wrong" if refused else f"HTTP {error.code}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Scraped(url, error=getattr(reason, "strerror", None) or str(reason) or type(error).__name__)
    samples = tuple((each.name, each.labels, each.value) for family in families for each in family.samples)
    return Scraped(url, samples)
