"""What a corpus will cost, held against all of it counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from consumer.model_files import BUNDLED_MODEL, find_model
from embedstream.errors import ConfigError, UsageError
from embedstream.estimate import Question, run_estimate
from embedstream.settings import EncoderSettings, ProducerSettings, Settings
from tests.cli import run_cli

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
SETTINGS = Settings(encoder=EncoderSettings(model=BUNDLED_MODEL))


def words(count: int, seed: int) -> str:
    return " ".join(f"word{(n * seed) % 997}" for n in range(count)) + "."


@pytest.mark.slow
def test_the_range_from_a_fifth_of_the_corpus_holds_what_all_of_it_is() -> None:
    whole = run_estimate([CORPUS], SETTINGS, Question(gpus=("RTX 4090",), sample_bytes=10**9))
    texts = [json.loads(path.read_text())["content"] for path in CORPUS.glob("*/*.json")]
    tokenizer = Tokenizer.from_file(str(find_model(BUNDLED_MODEL) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokens = sum(len(each.ids) for each in tokenizer.encode_batch(texts, add_special_tokens=False))
    assert whole.totals["tokens"].value == tokens
    assert whole.totals["tokens"].error == 0
    assert whole.totals["text_bytes"].value == sum(len(text.encode()) for text in texts)
    part = run_estimate([CORPUS], SETTINGS, Question(gpus=("RTX 4090",), sample_bytes=1_000_000))
    assert part.sampled["documents"] < 60
    for name in ("documents", "text_bytes", "tokens", "passages"):
        found, truth = part.totals[name], whole.totals[name].value
        assert abs(found.value - truth) <= max(2 * 1.96 * found.error, 1e-6), name


@pytest.mark.slow
def test_every_kind_of_file_counts_as_what_it_holds(tmp_path: Path) -> None:
    documents = [{"content": words(60 + n % 40, n + 1)} for n in range(1500)]
    lines = "".join(json.dumps(each) + "\n" for each in documents).encode()
    (tmp_path / "a.jsonl").write_bytes(lines * 8)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines * 8))
    for n, each in enumerate(documents[:100]):
        (tmp_path / f"{n}.json").write_text(json.dumps(each))
    found = run_estimate([tmp_path], SETTINGS, Question(gpus=("L4",), price=1.0, sample_bytes=1_500_000))
    assert found.files == 102
    assert found.sampled["documents"] < 20_000
    assert found.totals["documents"].value == pytest.approx(24_100, rel=0.1)
    assert found.totals["documents"].low <= 24_100 * 1.1


def test_hours_and_dollars_follow_from_tokens_speed_pods_and_price(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(words(5000, 3))
    speeds = {
        "speeds": [
            {
                "gpu": "RTX 4090",
                "architecture": "bert-6x384x1536",
                "tokens_per_second": {"256": 1000.0},
                "measured": True,
                "source": "a test",
                "date": "2026-11-24",
            }
        ]
    }
    (tmp_path / "speeds.json").write_text(json.dumps(speeds))
    question = Question(gpus=("rtx 4090",), price=2.0, pods=4, speeds=tmp_path / "speeds.json")
    settings = SETTINGS.model_copy(update={"producer": ProducerSettings(exclude=("speeds.json",))})
    found = run_estimate([tmp_path], settings, question)
    (cost,) = found.costs
    assert cost.speed.measured
    hours = found.totals["model_tokens"].value / cost.speed.likely / 3600 / 4
    assert cost.hours[1] == pytest.approx(hours)
    assert cost.dollars[1] == pytest.approx(hours * 4 * 2.0)
    assert cost.hours[0] < cost.hours[1] < cost.hours[2]
    assert found.disk["vectors"] == found.totals["passages"].value * 384 * 4
    assert found.disk["all"] == pytest.approx(
        found.disk["documents"] + found.disk["vectors"] + found.disk["passages_text"]
    )
    assert found.network["between_brokers"] == pytest.approx(found.disk["all"] * 2)
    openai = found.hosted[0]
    assert openai.dollars[1] == pytest.approx(found.totals["tokens"].value * 0.01 / 1e6)


def test_questions_that_make_no_sense_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for question, told in (
        (Question(gpus=("RTX 4900",), price=1), "RTX 4090"),
        (Question(gpus=("A100",)), "--price"),
        (Question(price=1), "--gpu"),
    ):
        with pytest.raises(UsageError, match=told):
            run_estimate([tmp_path], SETTINGS, question)


def test_a_price_file_of_ones_own_counts_and_a_wrong_one_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    file = tmp_path / "prices"
    own: dict[str, object] = {
        "date": "2030-01-01",
        "gpu_per_hour": {"L4": {"price": 7.0}},
        "hosted": [{"name": "Ours", "per_million_tokens": 3.0}],
    }
    file.write_text(json.dumps(own))
    found = run_estimate([tmp_path], SETTINGS, Question(prices=file))
    assert [(each.gpu, each.price) for each in found.costs] == [("L4", 7.0)]
    assert [each.name for each in found.hosted] == ["Ours"]
    assert found.prices_from.endswith("of 2030-01-01")
    mistakes: list[dict[str, object]] = [
        {"gpu_per_hour": {"L4": 7.0}},
        {"gpu_per_hour": {"L4": {"price": "much"}}},
        {"gpu_per_hour": []},
        {"hosted": [{"name": "Ours"}]},
        {"bought": [{"gpu": "A100"}]},
    ]
    for wrong in mistakes:
        file.write_text(json.dumps(own | wrong))
        with pytest.raises(ConfigError, match="--prices"):
            run_estimate([tmp_path], SETTINGS, Question(prices=file))


def test_the_command_tells_a_model_that_is_not_at_hand_and_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    (tmp_path / "a.txt").write_text(words(500, 3))
    import os

    path = os.pathsep.join((str(tmp_path), str(Path(__file__).resolve().parents[2])))
    done = run_cli(
        *("estimate", tmp_path / "a.txt", "--gpu", "RTX 4090", "--json"),
        env={"PYTHONPATH": path, "HF_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["architecture"] == "bert-24x1024x4096"
    assert "not at hand" in told["basis"]
    assert told["gpus"][0]["measured"] is False
    assert told["documents"] == {"low": 1, "likely": 1, "high": 1}
