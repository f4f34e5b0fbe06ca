from __future__ import annotations

import pytest

from tests.bench.wire import measure


@pytest.mark.slow
def test_an_embedding_is_written_many_times_sooner_than_by_fastavro_alone() -> None:
    times = measure()
    # About 12 times on a quiet machine; a loaded one must not make this fail.
    assert times["encode_embedding"] * 6 < times["encode, fastavro alone"]
