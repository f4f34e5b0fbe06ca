from __future__ import annotations

import math

import pytest

from consumer.encoder import ModelInfo
from consumer.gpu import flops_share, watch_gpu
from consumer.model_files import BUNDLED_MODEL
from embedstream.metrics import Metrics
from embedstream.settings import EncoderSettings

BUNDLED = EncoderSettings(model=BUNDLED_MODEL)


def test_the_share_of_the_peak_is_the_model_s_operations_over_the_card_s() -> None:
    share = flops_share("NVIDIA GeForce RTX 4090", BUNDLED, lambda: 1e6, lambda: 200.0)
    # all-MiniLM-L6: 6 layers of width 384, 1536 between; twice the weights and the attention, a token.
    per_token = 2 * 6 * (4 * 384**2 + 2 * 384 * 1536) + 4 * 6 * 200 * 384
    assert share() == pytest.approx(1e6 * per_token / 165e12)


def test_what_is_not_known_is_no_number() -> None:
    assert math.isnan(flops_share("Some New Card", BUNDLED, lambda: 1e6, lambda: 200.0)())
    assert math.isnan(flops_share("RTX 4090", EncoderSettings(model="no/such"), lambda: 1.0, lambda: 1.0)())
    assert math.isnan(flops_share("RTX 4090", BUNDLED, lambda: None, lambda: 200.0)())
    assert math.isnan(flops_share("RTX 4090", BUNDLED, lambda: 1e6, lambda: 0.0)())


def test_on_a_cpu_there_are_no_gauges_of_a_gpu() -> None:
    metrics = Metrics()
    watch_gpu(metrics, ModelInfo("m", "f", 8, 64, "fp32", "none", "cpu"), BUNDLED, lambda: 1.0, lambda: 1.0)
    names = {each.name for each in metrics.registry.collect()}
    assert not any("gpu" in name or "flops" in name for name in names)
