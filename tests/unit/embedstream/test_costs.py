from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedstream.costs import ModelShape, gpu_named, gpu_peaks, load, speed_of
from embedstream.errors import ConfigError, UsageError

BGE = ModelShape("bge", "bert", 24, 1024, 4096, 512, 1024)
MINI = ModelShape("mini", "bert", 12, 384, 1536, 128, 384)


def entry(architecture: str, speed: float, gpu: str = "NVIDIA GeForce RTX 4090") -> dict[str, object]:
    return {
        "gpu": gpu,
        "architecture": architecture,
        "tokens_per_second": {"512": speed},
        "measured": True,
        "source": "embedstream bench",
        "date": "2026-11-24",
    }


def test_the_work_of_a_token_is_that_of_the_literature() -> None:
    assert BGE.flop_per_token(512) / 1e9 == pytest.approx(0.654, abs=0.002)
    assert BGE.flop_per_token(128) / 1e9 == pytest.approx(0.617, abs=0.002)
    assert MINI.flop_per_token(128) / 1e9 == pytest.approx(0.045, abs=0.001)


def test_an_unmeasured_speed_is_marked_and_its_range_is_that_of_the_shares() -> None:
    speed = speed_of("RTX 4090", BGE, 512, {"speeds": []})
    assert not speed.measured
    assert "not measured" in speed.basis
    peak = 165e12 / BGE.flop_per_token(512)
    assert [speed.low, speed.likely, speed.high] == pytest.approx([s * peak for s in (0.15, 0.35, 0.6)])


def test_a_measured_speed_is_taken_and_carried_to_other_lengths_and_models() -> None:
    speeds = {"speeds": [entry(BGE.architecture, 100_000)]}
    at = speed_of("RTX 4090", BGE, 512, speeds)
    assert at.measured
    assert at.likely == pytest.approx(100_000)
    assert speed_of("RTX 4090", BGE, 128, speeds).likely > at.likely
    other = speed_of("RTX 4090", MINI, 128, speeds)
    assert not other.measured
    assert BGE.architecture in other.basis
    assert other.likely == pytest.approx(100_000 * BGE.flop_per_token(512) / MINI.flop_per_token(128))
    assert "not measured" in speed_of("RTX 3090", BGE, 512, speeds).basis


def test_a_wrong_entry_of_the_speeds_is_named() -> None:
    with pytest.raises(ConfigError, match="architecture"):
        speed_of("L4", BGE, 512, {"speeds": [{"gpu": "L4"}]})


@pytest.mark.parametrize("asked", ["RTX 4090", "rtx4090", "NVIDIA GeForce RTX 4090", "rtx-4090"])
def test_a_gpu_is_found_however_it_is_written(asked: str) -> None:
    assert gpu_named(asked, gpu_peaks()) == "RTX 4090"


def test_an_unknown_gpu_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="RTX 4090") as caught:
        gpu_named("RTX 4900", gpu_peaks())
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="H100 SXM"):
        gpu_named("abacus", gpu_peaks())


def test_the_shipped_files_are_dated_and_every_price_has_a_source() -> None:
    prices = load("prices")
    assert prices["date"] >= "2026-11-24"
    assert all(each["source"] for each in (*prices["hosted"], *prices["bought"]))
    assert all(gpu_named(name, gpu_peaks()) for name in prices["gpu_per_hour"])
    assert load("speeds")["speeds"] is not None


def test_a_file_of_ones_own_that_is_wrong_is_one_line(tmp_path: Path) -> None:
    for text, told in (("{", "not JSON"), ("[]", "no JSON object")):
        (tmp_path / "p.json").write_text(text)
        with pytest.raises(ConfigError, match=told):
            load("prices", tmp_path / "p.json")
    with pytest.raises(ConfigError, match="can't be read"):
        load("prices", tmp_path / "gone.json")
    (tmp_path / "p.json").write_text(json.dumps({"date": "x"}))
    assert load("prices", tmp_path / "p.json") == {"date": "x"}
