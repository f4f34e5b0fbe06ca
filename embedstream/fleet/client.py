"""A thin client of RunPod's REST API v2, with its documented rules on what to try again.

    runpod = RunPod(key)
    pod = runpod.create(CreatePod(...))
    runpod.delete(pod.id)

What changes nothing, or nothing more the second time (GET, DELETE), is tried again here. A create whose
answer was lost is not: it may have made a pod, so whoever asked has to look first (`OutcomeUnknown`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from embedstream import __version__
from embedstream.errors import BudgetUsedUpError, ConfigError, EmbedstreamError, ServiceUnavailableError
from embedstream.fleet.records import Cloud, CreatePod, GpuType, Pod
from embedstream.logs import get_logger

__all__ = ["NextCandidate", "NoBalanceError", "OutcomeUnknown", "RunPod"]

TIMEOUT_SECONDS = 30.0
# Together some three minutes of 5xx and lost connections.
ATTEMPTS = 8
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
# A limit's longest window that is waited for; the day's is not.
LONGEST_RETRY_AFTER_SECONDS = 900.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

Record = TypeVar("Record", Pod, GpuType)

_log = get_logger("runpod")


class NextCandidate(Exception):
    """This GPU and cloud can't be had (400: no capacity, or a rule broken; 403: not for this account)."""


class OutcomeUnknown(Exception):
    """A create got no answer that tells whether it made a pod: look for its name before trying again."""


class NoBalanceError(BudgetUsedUpError):
    """The account has no money left: no candidate will succeed, and no waiting helps."""


class RunPod:
    """The API. Its methods block, and may be used from one thread at a time."""

    def __init__(
        self,
        key: str,
        url: str = "https://api.runpod.io/v2",
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Connects to nothing yet.

        Args:
            key: A bearer key.
            url: Of the API.
            transport: Another way to it, for tests.
            sleep: How to wait, in seconds.

        Raises:
            ConfigError: The key would go over the network in plain, or holds what no header can.
        """
        try:
            parts = urlsplit(url)
            is_url = bool(parts.hostname) and parts.port != 0
        except ValueError:  # of the port
            is_url = False
        if not is_url:
            raise ConfigError(f"fleet.api_url {url} is no URL", "write https://HOST/v2")
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise ConfigError(f"fleet.api_url {url} is not https", "the API key would be sent in plain")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError("the API key holds characters that no key has", "set RUNPOD_API_KEY again")
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}", "User-Agent": f"embedstream/{__version__}"},
            timeout=TIMEOUT_SECONDS,
            transport=transport,
        )

    def pods(self) -> list[Pod]:
        """Every pod of the account that is not terminated."""
        answer = self._repeated("GET", "/pods")
        found = [self._read(Pod, each) for each in self._list(answer, "pods")]
        return [pod for pod in found if pod.status != "TERMINATED"]

    def create(self, request: CreatePod) -> Pod:
        """Makes a pod, at once or not at all: one request, but for 429, which makes none.

        Raises:
            NextCandidate: Not with this GPU and cloud.
            OutcomeUnknown: The answer was lost, or a failure of the server's (5xx).
            NoBalanceError: There is no money.
            ConfigError: The key or the request is refused.
        """
        try:
            answer = self._unlimited("POST", "/pods", request.body())
        except httpx.RequestError as error:
            # Also where there was no connection: a proxy in between may say so of a lost answer.
            raise OutcomeUnknown(f"the answer was lost ({_told(error)})") from None
        if answer.status_code >= 500:
            raise OutcomeUnknown(f"status {answer.status_code}")
        if answer.status_code in (400, 403):
            raise NextCandidate(_detail(answer))
        self._refuse(answer)
        try:
            return self._read(Pod, self._json(answer))
        except ServiceUnavailableError as error:
            raise OutcomeUnknown(str(error)) from None

    def delete(self, pod_id: str) -> None:
        """Ends a pod for good; one that is gone already is fine."""
        answer = self._repeated("DELETE", f"/pods/{pod_id}", missing_is_fine=True)
        if answer.status_code == 409:
            raise ConfigError(
                f"pod {pod_id} can't be deleted ({_detail(answer)})", "unlock it in the console"
            )

    def stop(self, pod_id: str) -> None:
        """Asks a pod's container to end, as SIGTERM does. A wish: what refuses it is only logged."""
        try:
            answer = self._http.request("POST", f"/pods/{pod_id}/action", json={"action": "stop"})
            told = "" if answer.is_success else _detail(answer)
        except httpx.RequestError as error:
            told = _told(error)
        if told:
            _log.info("stop_refused", pod=pod_id, why=told)

    def gpus(self, cloud: Cloud) -> list[GpuType]:
        """The catalogue, with the availability of single GPUs for pods on that cloud."""
        query = {"include": "AVAILABILITY", "product": "POD", "cloud": cloud}
        answer = self._repeated("GET", "/catalog/gpus", query=query)
        return [self._read(GpuType, each) for each in self._list(answer, "gpus")]

    def billed(self, pod_id: str, since: datetime) -> float | None:
        """Dollars that a pod has cost, as the bills say; None where they say nothing. Asked once."""
        query = {"podId": pod_id, "startTime": since.strftime("%Y-%m-%dT%H:%M:%SZ"), "bucketSize": "hour"}
        try:
            answer = self._http.request("GET", "/billing/pods", params=query)
            self._refuse(answer)
            records = self._list(answer, "records")
            amounts = [float(each["totalAmount"]) for each in records if each["podId"] == pod_id]
        except (httpx.RequestError, EmbedstreamError, KeyError, TypeError, ValueError):
            return None  # a key may be allowed pods and no bills
        return sum(amounts) if amounts else None

    def _repeated(
        self, method: str, path: str, *, query: dict[str, str] | None = None, missing_is_fine: bool = False
    ) -> httpx.Response:
        pause, trouble = FIRST_PAUSE_SECONDS, ""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = self._unlimited(method, path, None, query)
            except httpx.RequestError as error:
                trouble = _told(error)
            else:
                if answer.status_code < 500:
                    if missing_is_fine and answer.status_code in (404, 409):
                        return answer
                    self._refuse(answer)
                    return answer
                trouble = f"status {answer.status_code}"
            if attempt < ATTEMPTS:
                _log.info("runpod_tried_again", call=f"{method} {path}", why=trouble)
                self._sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        raise ServiceUnavailableError(
            f"RunPod does not answer ({method} {path}: {trouble})", "try again later"
        )

    def _unlimited(
        self, method: str, path: str, body: dict[str, object] | None, query: dict[str, str] | None = None
    ) -> httpx.Response:
        """One request; at a limit of the rate it waits for as long as it is told, and asks again."""
        for _ in range(ATTEMPTS):
            answer = self._http.request(method, path, json=body, params=query)
            if answer.status_code != 429:
                return answer
            seconds = _retry_after(answer)
            if seconds > LONGEST_RETRY_AFTER_SECONDS:
                break
            _log.info("runpod_limits_the_rate", seconds=seconds)
            self._sleep(seconds)
        raise ServiceUnavailableError(f"RunPod limits the rate ({_detail(answer)})", "try again later")

    def _refuse(self, answer: httpx.Response) -> None:
        """Raises what a refusal means that no other candidate and no waiting mends."""
        code, detail = answer.status_code, _detail(answer)
        if code == 401:
            raise ConfigError(
                f"RunPod refuses the API key ({detail})", "set RUNPOD_API_KEY to one that is valid"
            )
        if code == 402:
            raise NoBalanceError(
                f"the RunPod account has no money left ({detail})", "add some, then try again"
            )
        if code == 403:
            raise ConfigError(f"the API key is not allowed this ({detail})", "give it access to pods")
        if not answer.is_success:
            raise ConfigError(f"RunPod refuses the request ({code}: {detail})", "correct what it names")

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ServiceUnavailableError("RunPod's answer is no JSON object", "see fleet.api_url")
        return found

    def _list(self, answer: httpx.Response, name: str) -> list[Any]:
        """A list of the answer: that there is none must not pass for an empty one."""
        found = self._json(answer).get(name)
        if not isinstance(found, list):
            raise ServiceUnavailableError(f"RunPod's answer holds no list of {name}", "see fleet.api_url")
        return found

    @staticmethod
    def _read(kind: type[Record], value: object) -> Record:
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ServiceUnavailableError(
                f"RunPod's answer is not as described ({kind.__name__}.{where}: {first['msg']})",
                "look for a newer embedstream",
            ) from None


def _retry_after(answer: httpx.Response) -> float:
    """Seconds: the header holds them, or a date of HTTP's."""
    given = answer.headers.get("Retry-After", "")
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 10.0


def _detail(answer: httpx.Response) -> str:
    """What a problem document says, in one line; never the request, which holds secrets."""
    try:
        problem = answer.json()
        told = [str(problem.get("detail") or problem.get("title") or "")]
        told += [str(each) for each in problem.get("errors", ())][:3]
    except (ValueError, AttributeError, TypeError):
        told = [answer.text[:100]]
    return "; ".join(" ".join(each.split())[:300] for each in told if each) or f"status {answer.status_code}"


def _told(error: httpx.RequestError) -> str:
    return str(error) or type(error).__name__
