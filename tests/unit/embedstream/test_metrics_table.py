from __future__ import annotations

import re

import pytest

from embedstream.metrics import OPEN, PREFIX, Metrics, declared
from producer.refusals import Reason

CONTRACT = """
records_total passages_total tokens_total batch_tokens batch_passages padding_ratio truncated_total
stage_duration_seconds last_commit_timestamp_seconds record_age_seconds
consumer_lag_records job_start_end_offset queue_depth
dead_letters_total rebalances_total transactions_total oom_splits_total cache_requests_total
gpu_memory_used_bytes gpu_memory_reserved_bytes gpu_memory_total_bytes gpu_utilization_ratio
model_flops_utilization_ratio price_dollars_per_hour cost_dollars_total build_info model_info
"""


def test_the_table_holds_every_metric_of_the_contract_once() -> None:
    names = [each.name for each in declared()]
    assert set(CONTRACT.split()) <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("row", declared(), ids=lambda row: row.name)
def test_a_row_has_help_a_unit_roles_and_a_name_that_fits_its_kind(row: object) -> None:
    from embedstream.metrics import Declared

    assert isinstance(row, Declared)
    assert re.fullmatch(r"[a-z][a-z0-9_]*", row.name)
    assert row.text
    assert not row.text.endswith(".")
    assert row.unit
    assert row.roles
    kind = row.kind.__name__
    assert row.name.endswith("_total") == (kind == "Counter")
    assert row.name.endswith("_info") == (kind == "Info")
    for unit in ("seconds", "bytes", "ratio"):
        if row.unit == unit and kind == "Gauge":
            assert row.name.endswith(unit)


def test_closed_labels_are_there_from_the_start_and_take_no_other_shape() -> None:
    metrics = Metrics()
    for row in declared():
        if not row.labels or OPEN in row.labels.values() or "consumer" not in row.roles:
            continue
        (family,) = [
            each
            for each in metrics.registry.collect()
            if each.name == PREFIX + row.name.removesuffix("_total").removesuffix("_info")
        ]
        seen = {tuple(sorted((k, v) for k, v in s.labels.items() if k in row.labels)) for s in family.samples}
        count = 1
        for values in row.labels.values():
            count *= len(values)
        assert len(seen) == count, row.name


def test_the_reasons_of_the_producer_are_the_table_s() -> None:
    assert set(Metrics.refused_documents_total.labels["reason"]) == {
        each.value for each in Reason if not each.is_notice
    }


def test_a_process_exports_the_metrics_of_its_role_only() -> None:
    def names(role: str) -> set[str]:
        return {each.name for each in Metrics(role).registry.collect()}  # type: ignore[arg-type]

    consumer, producer = names("consumer"), names("producer")
    assert "embedstream_transactions" in consumer - producer
    assert "embedstream_documents" in producer - consumer
    assert "embedstream_gpu_memory_used_bytes" not in consumer | producer
    metrics = Metrics("producer")
    metrics.passages_total.inc()  # counts, and nobody sees it
    assert metrics.registry.get_sample_value("embedstream_passages_total") is None


def test_a_gpu_s_gauges_come_with_it() -> None:
    metrics = Metrics()
    metrics.enable("gpu")
    metrics.gpu_utilization_ratio.set(0.5)
    assert metrics.registry.get_sample_value("embedstream_gpu_utilization_ratio") == 0.5
