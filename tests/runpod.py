"""A stand-in for RunPod's REST API v2, written from its OpenAPI description, with its own clock and ledger.

    api = FakeRunPod()
    client = RunPod("key", transport=api.transport(), sleep=api.sleep)

It rejects what the description does not name, charges for every second that a pod costs, and misbehaves on
demand: `faults` are taken by the next requests that they match, `fates` by the next pods that are made.
`serve` puts it on a port of 127.0.0.1, for what runs in another process.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.runpod_pod import ACTIONS, FakePod, Fate

__all__ = ["CATALOGUE", "KEY", "FakePod", "FakeRunPod", "Fate", "Fault"]

KEY = "rpa_TESTKEY0123456789"
EPOCH = datetime(2026, 11, 24, tzinfo=UTC)
CREATE_FIELDS = {
    "name", "image", "args", "disk", "env", "ports", "registry", "cloud", "cpu", "gpu", "dataCenterIds",
    "globalNetworking", "mounts", "startJupyter", "startSsh", "templateId",
}  # fmt: skip
GPU_FIELDS = {"id", "count", "allowedCudaVersions", "minCudaVersion"}
CATALOGUE: dict[str, dict[str, Any]] = {
    "NVIDIA GeForce RTX 4090": {"name": "RTX 4090", "memory": 24, "secure": 0.69, "community": 0.34},
    "NVIDIA GeForce RTX 3090": {"name": "RTX 3090", "memory": 24, "secure": 0.46, "community": 0.22},
    "NVIDIA RTX A5000": {"name": "RTX A5000", "memory": 24, "secure": 0.27, "community": 0.16},
    "NVIDIA H100 80GB HBM3": {"name": "H100 SXM", "memory": 80, "secure": 2.69, "community": None},
}

Fault = Literal[
    "429",
    "500",
    "502 html",
    "lost before",
    "lost after",
    "half an answer",
    "another document",
    "402",
    "403",
]
# What each request may be asked with.
QUERIES = {
    "/pods": set[str](),
    "/catalog/gpus": {"include", "product", "cloud"},
    "/billing/pods": {"podId", "startTime", "endTime", "bucketSize"},
}


@dataclass
class FakeRunPod:
    """The service.

    Attributes:
        capacity: Pods left of (GPU, cloud); what is not in it is without limit.
        faults: What happens to the next request of a kind: the key is `POST /pods` or `*`.
        fates: Of the next pods that are made.
        late_looks: How many lists a pod that "shows up late" is missing from.
        requests: Every request, as (method, path).
        keys: Those that are valid.
        locked: Ids of pods that can't be deleted.
        obeys_deadlines: Whether pods end themselves at EMBEDSTREAM_POD__DEADLINE, as real ones do.
    """

    now: float = 0.0
    capacity: dict[tuple[str, str], int] = field(default_factory=dict)
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    fates: list[Fate] = field(default_factory=list)
    late_looks: int = 2
    surcharge: float = 0.0
    obeys_deadlines: bool = True
    drains_after: float = 3600.0
    epoch: datetime = EPOCH
    speed: float = 1.0
    keys: set[str] = field(default_factory=lambda: {KEY})
    locked: set[str] = field(default_factory=set)
    pods: dict[str, FakePod] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    # What tests ask.

    @property
    def running(self) -> list[FakePod]:
        """Pods that are not deleted, seen or not."""
        return [pod for pod in self.pods.values() if pod.gone is None]

    @property
    def dollars(self) -> float:
        return sum(pod.charged for pod in self.pods.values())

    def time(self) -> datetime:
        return self.epoch + timedelta(seconds=self.now)

    def sleep(self, seconds: float) -> None:
        """Lets time pass: pods start, end themselves, vanish, and cost."""
        end = self.now + seconds
        while self.now < end:
            self._tick(min(5.0, end - self.now))

    def _tick(self, step: float) -> None:
        self.now += step
        for pod in self.running:
            if pod.stopped is None:
                pod.charged += pod.price * step / 3600
            age = self.now - pod.made
            if (pod.fate == "vanishes" and age > 1800) or (pod.fate == "vanishes at once" and age > 90):
                pod.gone = self.now
            if pod.fate == "exits" and age > 300 and pod.stopped is None:
                pod.stopped = self.now
            if pod.fate == "drains" and age > self.drains_after:
                pod.gone = self.now
            until = pod.body["env"].get("EMBEDSTREAM_POD__DEADLINE")
            if self.obeys_deadlines and until and self.time() > datetime.fromisoformat(until):
                pod.gone = self.now

    # Ways in.

    def transport(self) -> httpx.MockTransport:
        def handle(request: httpx.Request) -> httpx.Response:
            url = request.url
            path = url.path.removeprefix("/v2")
            status, headers, body = self.answer(
                request.method, path, parse_qs(url.query.decode()), request.headers, request.content
            )
            if status == 0:
                raise httpx.ReadError("connection reset by peer", request=request)
            return httpx.Response(status, headers=headers, content=body)

        return httpx.MockTransport(handle)

    @contextmanager
    def serve(self, speed: float = 0.0) -> Iterator[str]:
        """The address of the API, served until the end of the block, its clock `speed` times the real one.

        When a pod was made is told by the real clock, which is the one of who asks.
        """
        fake = self
        self.speed = speed or 1.0
        self.epoch = datetime.now(UTC)
        over = threading.Event()

        def run_clock() -> None:
            while speed and not over.wait(0.1):
                with fake._lock:
                    fake.sleep(speed / 10)

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                status, headers, body = fake.answer(
                    self.command,
                    parts.path.removeprefix("/v2"),
                    parse_qs(parts.query),
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(length),
                )
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = _any

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threads = [threading.Thread(target=each, daemon=True) for each in (server.serve_forever, run_clock)]
        for thread in threads:
            thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v2"
        finally:
            over.set()
            server.shutdown()
            server.server_close()
            for thread in threads:
                thread.join()

    # The API.

    def answer(
        self, method: str, path: str, query: Mapping[str, list[str]], headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Status (0: the connection breaks), headers and body of an answer."""
        with self._lock:
            self.requests.append((method, path))
            fault = self._fault(method, path)
            if fault == "lost before":
                return 0, {}, b""
            if fault in ("429", "500", "402", "403"):
                return _problem(int(fault), fault, {"Retry-After": "7"} if fault == "429" else {})
            if fault == "502 html":
                return 502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>"
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if given not in self.keys:
                return _problem(401, "the API key is not valid")
            answer = self._handle(method, path, query, body)
            if fault == "lost after":
                return 0, {}, b""
            if fault == "another document":
                return _json(200, {"message": "hello"})
            if fault == "half an answer":
                return answer[0], answer[1], answer[2][: len(answer[2]) // 2]
            return answer

    def _fault(self, method: str, path: str) -> Fault | None:
        for index, (where, fault) in enumerate(self.faults):
            if where == "*" or f"{method} {path}".startswith(where):
                del self.faults[index]
                return fault
        return None

    def _handle(
        self, method: str, path: str, query: Mapping[str, list[str]], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if unknown := set(query) - QUERIES.get(path, set()):
            return _problem(422, "Request validation failed.", errors=[f"query: unknown {min(unknown)!r}"])
        if (method, path) == ("GET", "/pods"):
            return _json(200, {"pods": [self._shown(pod) for pod in self.running if self._is_listed(pod)]})
        if (method, path) == ("POST", "/pods"):
            return self._create(json.loads(body))
        if (method, path) == ("GET", "/catalog/gpus"):
            return self._catalogue(query)
        if (method, path) == ("GET", "/billing/pods"):
            return self._bill(query)
        found = re.fullmatch(r"/pods/([a-z0-9]+)(/action)?", path)
        pod = self.pods.get(found[1]) if found else None
        if pod is None or pod.gone is not None:
            return _problem(404, "resource not found")
        if method == "DELETE" and pod.id in self.locked:
            return _problem(409, "the pod is locked")
        if method == "DELETE" and path.endswith(pod.id):
            pod.gone = self.now
            return 204, {}, b""
        if method == "POST" and path.endswith("/action"):
            return self._act(pod, json.loads(body))
        return _problem(405, "method not allowed")

    def _create(self, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        errors = [f"$: additional properties {name!r} not allowed" for name in set(body) - CREATE_FIELDS]
        gpu = body.get("gpu", {})
        errors += [f"$.gpu: additional properties {name!r} not allowed" for name in set(gpu) - GPU_FIELDS]
        errors += [f"$: missing property {name!r}" for name in ("name", "image") if not body.get(name)]
        if not all(isinstance(value, str) for value in body.get("env", {}).values()):
            errors.append("$.env: values must be strings")
        if body.get("cloud", "SECURE") not in ("SECURE", "COMMUNITY"):
            errors.append("$.cloud: must be one of SECURE, COMMUNITY")
        if not re.fullmatch(r"\d+\.\d+", gpu.get("minCudaVersion", "1.0")):
            errors.append("$.gpu.minCudaVersion: does not match pattern")
        if not isinstance(body.get("disk", 1), int) or body.get("disk", 1) < 1:
            errors.append("$.disk: must be >= 1")
        if not all(re.fullmatch(r"\d+/(http|tcp)", port) for port in body.get("ports", [])):
            errors.append("$.ports: does not match pattern")
        if errors:
            return _problem(422, "Request validation failed.", errors=errors)
        if ("gpu" in body) == ("cpu" in body):
            return _problem(400, "exactly one of gpu or cpu must be set")
        cloud = body.get("cloud", "SECURE")
        entry = CATALOGUE.get(gpu["id"])
        price = None if entry is None else entry[cloud.lower()]
        if price is None or self.capacity.get((gpu["id"], cloud), 1) < 1:
            return _problem(
                400, "There are no longer any instances available with the requested specifications."
            )
        if (gpu["id"], cloud) in self.capacity:
            self.capacity[gpu["id"], cloud] -= 1
        pod_id = f"pod{len(self.pods):04}x"
        fate: Fate = self.fates.pop(0) if self.fates else "runs"
        pod = FakePod(pod_id, body, price * gpu.get("count", 1) + self.surcharge, self.now, fate)
        pod.late_looks = self.late_looks if fate == "shows up late" else 0
        self.pods[pod_id] = pod
        return _json(201, self._shown(pod))

    def _is_listed(self, pod: FakePod) -> bool:
        pod.late_looks -= 1
        return pod.late_looks < 0

    def _act(self, pod: FakePod, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        action, status = body.get("action"), pod.status(self.now)
        if action not in ("start", "stop", "restart", "terminate") or set(body) != {"action"}:
            return _problem(422, "Request validation failed.")
        if action not in ACTIONS.get(status, ()):
            return _problem(409, f"cannot {action} a pod that is {status}")
        if action == "terminate":
            pod.gone = self.now
            return 204, {}, b""
        if action == "stop":
            pod.stopped = self.now
        elif action == "start":
            pod.stopped, pod.made = None, self.now
        return _json(200, self._shown(pod))

    def _catalogue(self, query: Mapping[str, list[str]]) -> tuple[int, dict[str, str], bytes]:
        if ("include" in query) != ("product" in query):
            return _problem(400, "include=AVAILABILITY and product go together")
        cloud = query.get("cloud", ["SECURE"])[0]
        gpus = [
            {
                "id": gpu,
                "name": entry["name"],
                "pool": None,
                "manufacturer": "NVIDIA",
                "memory": entry["memory"],
                "secure": entry["secure"] is not None,
                "community": entry["community"] is not None,
                "price": {"secure": entry["secure"] or 0.0, "community": entry["community"] or 0.0},
                "maxCount": {"secure": 8, "community": 4},
                "availability": "NONE" if self.capacity.get((gpu, cloud), 1) < 1 else "HIGH",
            }
            for gpu, entry in CATALOGUE.items()
        ]
        return _json(200, {"gpus": gpus})

    def _bill(self, query: Mapping[str, list[str]]) -> tuple[int, dict[str, str], bytes]:
        wanted = query.get("podId", list(self.pods))
        records = [
            {
                "podId": each,
                # The last hour is not in the bill yet.
                "totalAmount": pod.charged if pod.gone and self.now - pod.gone > 3600 else pod.charged / 2,
                "cpuAmount": 0,
                "diskAmount": 0,
            }
            for each in wanted
            if (pod := self.pods.get(each)) is not None
        ]
        return _json(200, {"records": records, "metadata": {}})

    def _shown(self, pod: FakePod) -> dict[str, Any]:
        status, body = pod.status(self.now), pod.body
        made = self.epoch + timedelta(seconds=pod.made / self.speed)
        return {
            "id": pod.id,
            "name": body["name"],
            "status": status,
            "actions": sorted(ACTIONS.get(status, ())),
            "image": body["image"],
            "args": body.get("args", ""),
            "disk": body.get("disk", 20),
            "mounts": {},
            "ports": body.get("ports", []),
            "env": body.get("env", {}),
            "registry": None,
            "gpu": {"id": body["gpu"]["id"], "count": body["gpu"].get("count", 1)},
            "cloud": body.get("cloud", "SECURE"),
            "dataCenterId": None,
            "cudaVersion": None,
            "ssh": {"proxy": None, "direct": None},
            "template": None,
            "cost": 0.0 if status in ("EXITED", "TERMINATED") else pod.price,
            "locked": False,
            "globalNetworking": {"enabled": False},
            "runtime": {"uptime": int(self.now - pod.made), "gpus": [{"util": 94, "memoryUtil": 70}]}
            if status == "RUNNING"
            else None,
            "createdAt": made.isoformat().replace("+00:00", "Z"),
            "startedAt": None,
        }


def _json(status: int, document: object) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(document).encode()


def _problem(
    status: int, detail: str, headers: dict[str, str] | None = None, errors: list[str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    document: dict[str, object] = {"title": "Problem", "status": status, "detail": detail}
    if errors:
        document["errors"] = errors
    kind = {"Content-Type": "application/problem+json"}
    return status, kind | (headers or {}), json.dumps(document).encode()
