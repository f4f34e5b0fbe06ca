"""What is measured here is not measured with what other tests have left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Token budgets are measured anew: those of before may have been found on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
