"""Exports into a Qdrant collection, through its own client.

    qdrant://HOST:PORT/COLLECTION     a server; qdrants:// with TLS
    qdrant:///FOLDER/COLLECTION       the client's local mode: a folder on this machine, for small collections

A point's id is that of its embedding, so that one which is written again replaces itself.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from embedstream.errors import ConfigError, FindingError, ServiceUnavailableError, UsageError
from embedstream.export_manifest import Manifest
from embedstream.kafka_security import is_public
from embedstream.logs import get_logger
from embedstream.parquet_files import MANIFEST, Precision
from embedstream.snapshot import SnapshotReader
from schemas.records import Embedding

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import PointStruct

__all__ = ["QdrantTarget"]

_PORT = 6333
_POINTS = 256
_TIMEOUT_SECONDS = 60
_TELL_SECONDS = 10.0

_log = get_logger("export")


class QdrantTarget:
    """A collection, which must not exist or be empty when the export begins.

    How far the export is stands in a folder of the working directory named after the collection: start an
    export again from the same directory. Every vector is compared by its cosine.
    """

    rows_per_file = 0

    def __init__(
        self, url: str, api_key: str | None, precision: Precision, *, allow_plaintext: bool = False
    ) -> None:
        """Take the address apart and make the client; nothing is connected yet.

        Raises:
            UsageError: The address is none.
            ConfigError: qdrant-client is not installed, the local folder can't be used, or a server on the
                internet would be spoken to without TLS.
        """
        self._url = url
        self._precision = precision
        self._client, self._collection = _connect(url, api_key, allow_plaintext=allow_plaintext)
        self.state = Path(f"{self._collection}.qdrant-export").absolute()

    def check(self, begun: Manifest | None) -> None:
        """See that the collection is empty, or that its points are of this export.

        Raises:
            UsageError: It holds points, and nothing tells of an export into it; or it lacks some that were
                written.
            ServiceUnavailableError: No Qdrant answers.
        """
        with _explained(self._url):
            held = self._count()
        if begun is None and held:
            raise UsageError(
                f"--to {self._url} holds points, and {self.state} tells of no export into it",
                "name another collection, or go on from the directory where the export was begun",
            )
        if begun is not None and held < begun.rows:
            raise UsageError(
                f"--to {self._url} holds {held:,} points, and by {self.state} {begun.rows:,} were written:"
                " that was another Qdrant, or they are gone",
                "remove that folder, and export anew",
            )

    def write(self, reader: SnapshotReader, manifest: Manifest) -> Manifest:
        """Write points, saving the manifest after each request.

        Raises:
            OSError: The manifest can't be written.
            FindingError: The collection does not hold as many points as were written.
            ServiceUnavailableError: Qdrant does not answer.
        """
        file = self.state / MANIFEST
        told = time.monotonic()
        with _explained(self._url):
            self._make(manifest.snapshot.dim)
            passages = reader.passages(manifest.partition, manifest.offset)
            while some := list(islice(passages, _POINTS)):
                self._client.upsert(self._collection, [_point(each) for _, each in some], wait=True)
                manifest = manifest.after(len(some), some[-1][0])
                manifest.save(file)
                if time.monotonic() - told > _TELL_SECONDS:
                    told = time.monotonic()
                    _log.info("exporting", rows=manifest.rows)
            manifest = replace(manifest, complete=True)
            held = self._count()
        if held != manifest.rows:
            raise FindingError(
                f"--to {self._url} holds {held:,} points, and {manifest.rows:,} were written",
                "something else writes there too: export anew, into another collection",
            )
        return manifest

    def finish(self) -> None:
        """Remove what only an unfinished export needs."""
        self._client.close()
        shutil.rmtree(self.state)

    def _count(self) -> int:
        if not self._client.collection_exists(self._collection):
            return 0
        return self._client.count(self._collection, exact=True).count

    def _make(self, dim: int) -> None:
        from qdrant_client import models

        if self._client.collection_exists(self._collection):
            held = self._client.get_collection(self._collection).config.params.vectors
            if not isinstance(held, models.VectorParams) or held.size != dim:
                raise UsageError(
                    f"--to {self._url} is not made for vectors of {dim} dimensions", "name another collection"
                )
            return
        kind = models.Datatype.FLOAT16 if self._precision == "fp16" else models.Datatype.FLOAT32
        params = models.VectorParams(size=dim, distance=models.Distance.COSINE, datatype=kind)
        self._client.create_collection(self._collection, vectors_config=params)


def _connect(url: str, api_key: str | None, *, allow_plaintext: bool) -> tuple[QdrantClient, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--to {url}: {error}", "write qdrant://HOST:PORT/COLLECTION") from None
    folder, _, collection = parts.path.rpartition("/")
    if parts.scheme not in ("qdrant", "qdrants") or not collection or (host and folder):
        raise UsageError(
            f"--to {url} is no place to export to",
            "write a path, qdrant://HOST:PORT/COLLECTION or qdrant:///FOLDER/COLLECTION",
        )
    if host and parts.scheme == "qdrant" and not allow_plaintext and is_public(host):
        raise ConfigError(
            f"--to {url} is public, and qdrant:// is without TLS",
            "write qdrants://, or --allow-plaintext if something else encrypts the way there",
        )
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise ConfigError("qdrant-client is not installed", "install embedstream[qdrant]") from None
    if host:
        client = QdrantClient(
            host=host,
            port=port or _PORT,
            https=parts.scheme == "qdrants",
            api_key=api_key,
            timeout=_TIMEOUT_SECONDS,
            check_compatibility=False,
        )
        return client, collection
    try:
        return QdrantClient(path=folder or "/"), collection
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"--to {url} can't be opened ({error})", "name another folder") from None


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn the client's errors into lines."""
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    try:
        yield
    except ResponseHandlingException as error:
        raise ServiceUnavailableError(
            f"no Qdrant answers at {url} ({error})",
            "see that it runs, then run the same command again: it goes on where it was",
        ) from None
    except UnexpectedResponse as error:
        reason = f"{error.status_code} {error.reason_phrase}"
        if error.status_code in (401, 403):
            raise ConfigError(
                f"{url} refuses the request ({reason})", "check export.qdrant_api_key"
            ) from None
        raise ServiceUnavailableError(
            f"{url} fails ({reason})", "look at its log, then run the same command again"
        ) from None


def _point(embedding: Embedding) -> PointStruct:
    from qdrant_client.models import PointStruct

    payload = {
        "document_id": embedding.document_id,
        "document_version": embedding.document_version,
        "content_hash": embedding.content_hash,
        "segment_index": embedding.segment.index,
        "passage_index": embedding.passage.index,
        "start_char": embedding.start_char,
        "end_char": embedding.end_char,
        "text": embedding.text,
        "token_count": embedding.token_count,
        "metadata": embedding.metadata,
        "model": embedding.model,
        "model_fingerprint": embedding.model_fingerprint,
    }
    return PointStruct(id=embedding.id, vector=embedding.vector.tolist(), payload=payload)
