"""A stand-in for a Qdrant server: what of its REST interface `export` uses, before the client's local mode.

No package that can be had here holds the server itself. What the client sends and how it reads the answers is
real; how a server stores points is not.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from qdrant_client import QdrantClient
from qdrant_client.models import PointStruct, VectorParams

__all__ = ["QdrantServer"]


class QdrantServer:
    """Listens on loopback; a context manager.

    Attributes:
        store: What the collections are kept in.
        key: The API key that is asked for; None for none.
        takes: How many more requests with points are taken; after them it answers nothing any more.
        status: What every request is answered with, instead of what was asked for.
    """

    def __init__(self) -> None:
        self.store = QdrantClient(":memory:")
        self.key: str | None = None
        self.takes = 1_000_000
        self.status = 200
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def points(self, collection: str) -> dict[str, Any]:
        """All points of a collection, by id."""
        found, more = self.store.scroll(collection, limit=100_000, with_vectors=True)
        assert more is None
        return {str(each.id): each for each in found}

    def result(self, method: str, path: str, body: Any) -> Any:
        """The answer to a request; None to hang up."""
        _, collections, name, *what = path.partition("?")[0].split("/")
        assert collections == "collections", path
        match method, what:
            case "GET", ["exists"]:
                return {"exists": self.store.collection_exists(name)}
            case "GET", []:
                return json.loads(self.store.get_collection(name).model_dump_json())
            case "PUT", []:
                vectors = VectorParams.model_validate(body["vectors"])
                return self.store.create_collection(name, vectors_config=vectors)
            case "POST", ["points", "count"]:
                return {"count": self.store.count(name, exact=body["exact"]).count}
            case "PUT", ["points"]:
                assert path.endswith("?wait=true"), "nobody would know that they were written"
                if not self.takes:
                    return None
                self.takes -= 1
                points = [PointStruct.model_validate(each) for each in body["points"]]
                self.store.upsert(name, points)
                return {"operation_id": 0, "status": "completed"}
        raise AssertionError(f"{method} {path} is not part of the stand-in")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, result = server.status, None
                if server.key not in (None, self.headers.get("api-key")):
                    status = 401
                if status == 200:
                    with server._lock:
                        result = server.result(self.command, self.path, json.loads(body or b"null"))
                    if result is None:
                        self.close_connection = True
                        return
                answer = json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_PUT = do_GET

            def log_message(self, *_: object) -> None:
                pass

        return Handler
