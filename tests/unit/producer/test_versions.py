from __future__ import annotations

import itertools
import time

from producer.versions import Versions


def test_a_version_is_the_time_of_reading() -> None:
    before = time.time_ns() // 1_000_000
    version = Versions().next("a")
    assert before - 1 <= version <= time.time_ns() // 1_000_000 + 1


def test_the_versions_of_one_document_rise_and_never_run_ahead_of_the_clock() -> None:
    versions = Versions()
    given = [versions.next("a") for _ in range(50)]
    assert all(b > a for a, b in itertools.pairwise(given))
    assert given[-1] <= time.time_ns() // 1_000_000 + 1


def test_other_documents_do_not_wait() -> None:
    versions = Versions()
    given = [versions.next(str(n)) for n in range(20_000)]
    assert len(set(given)) < 20_000


def test_the_versions_rise_though_the_clock_is_set_back() -> None:
    hour_ns = 3600 * 10**9
    walls = iter([time.time_ns(), time.time_ns() - hour_ns])
    versions = Versions(lambda: next(walls))
    assert versions.next("a") < versions.next("a")
