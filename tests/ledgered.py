"""A corpus that is sent with a ledger, again and again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embedstream.settings import ProducerSettings, Settings
from producer.produce import produce
from producer.summary import Summary
from schemas.deletion import deletion_version
from schemas.records import Document
from schemas.wire import decode_document
from tests.kafka import Topics, read_all

__all__ = ["Corpus"]


class Corpus:
    """A folder of documents, a ledger beside it, and the topic that both belong to."""

    def __init__(self, folder: Path, topics: Topics) -> None:
        self.root = folder / "corpus"
        self.root.mkdir()
        self.ledger = folder / "ledger"
        self.topics = topics

    def write(self, where: str, content: str, **fields: object) -> Path:
        path = self.root / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"content": content, **fields}))
        return path

    def write_lines(self, name: str, *documents: Mapping[str, object]) -> Path:
        path = self.root / name
        path.write_text("".join(json.dumps(each) + "\n" for each in documents))
        return path

    def run(self, *paths: Path, **changes: Any) -> Summary:
        values = {"ledger": str(self.ledger), **changes}
        settings = Settings(kafka=self.topics.kafka, producer=ProducerSettings(**values))
        return produce(list(paths) or [self.root], settings, progress=False)

    def sent(self, **changes: Any) -> set[str]:
        """Run, and return the ids of what that run has added to the topic, deletions with a minus."""
        before = self.count()
        summary = self.run(**changes)
        assert summary.failure is None
        return {name for name, _ in list(self.history())[before:]}

    def history(self) -> Iterator[tuple[str, Document | int]]:
        """Yield what the topic holds (it has one partition): documents, or versions of deletions."""
        for message in read_all(self.topics.bootstrap, self.topics.documents):
            key, value = message.key(), message.value()
            assert isinstance(key, bytes)
            if isinstance(value, bytes):
                yield key.decode(), decode_document(value)
            else:
                version = deletion_version(message.headers())  # type: ignore[arg-type]
                assert version is not None
                yield f"-{key.decode()}", version

    def count(self) -> int:
        return len(list(self.history()))

    def kept(self) -> dict[str, str]:
        """Return the newest content of each document, without those deleted since."""
        newest: dict[str, tuple[int, str]] = {}
        for name, record in self.history():
            if isinstance(record, Document):
                assert record.version > newest.get(name, (-1, ""))[0]
                newest[name] = (record.version, record.content)
            else:
                deleted = newest.pop(name[1:], (-1, ""))
                assert record > deleted[0]
        return {name: content for name, (_, content) in newest.items()}
