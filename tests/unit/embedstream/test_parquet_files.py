from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedstream.parquet_files import FileWriter, Layout, export_batches, export_source
from embedstream.search import VectorSource
from schemas.records import Embedding, PassagePart, SegmentPart, SourcePosition

SOURCE = VectorSource("test", "f00d", 65_536)


def embedding(number: int) -> Embedding:
    vector = np.zeros(SOURCE.dim, np.float32)
    vector[number] = 1
    return Embedding(
        id=f"{number}",
        document_id="a",
        document_version=1,
        content_hash="0" * 64,
        source=SourcePosition(topic="documents", partition=0, offset=0),
        segment=SegmentPart(index=0, count=1),
        passage=PassagePart(index=number, count=1000),
        start_char=number,
        end_char=number + 1,
        text="x",
        token_count=3,
        model=SOURCE.model,
        model_fingerprint=SOURCE.model_fingerprint,
        precision="fp32",
        dim=SOURCE.dim,
        metadata={},
        embedded_at=1,
        vector=vector,
    )


def test_a_row_group_is_small_and_is_written_as_soon_as_it_is_full(tmp_path: Path) -> None:
    layout = Layout(SOURCE, "fp32", {})
    path = tmp_path / "a.parquet"
    with FileWriter(path, layout) as writer:
        for number in range(300):
            writer.add(embedding(number))
        assert not path.exists()
        writer.finish()
    groups = [pq.read_metadata(path).row_group(each).num_rows for each in range(3)]
    assert groups == [128, 128, 44]
    assert layout.rows_per_group * SOURCE.dim * 4 == 32 * 1024 * 1024
    assert export_source(path) == SOURCE
    rows = [row for batch in export_batches(path) for row in batch.vectors.argmax(axis=1)]
    assert rows == list(range(300))


def test_nothing_stays_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        FileWriter(tmp_path / "a.parquet", Layout(SOURCE, "fp16", {})) as writer,
    ):
        writer.add(embedding(1))
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []
