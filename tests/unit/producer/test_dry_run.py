from __future__ import annotations

import json
from pathlib import Path

from embedstream.settings import KafkaSettings, ProducerSettings, Settings
from producer.dry_run import dry_run
from tests.cli import run_cli

NOWHERE = KafkaSettings(bootstrap_servers="127.0.0.1:1")


def write_corpus(root: Path) -> None:
    (root / "a.json").write_text(json.dumps({"text": "Größe " * 2000, "content": "x"}))
    (root / "b.jsonl").write_text('{"text": "one"}\n{"text": ""}\nbroken\n')
    (root / "c.md").write_text("Body.")
    (root / "d.html").write_text("<p>")
    (root / "e.json").write_text(json.dumps({"text": "wide", "raw": "r" * 40_000}))


def test_it_counts_what_would_be_sent_and_what_would_not(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    settings = Settings(kafka=NOWHERE, producer=ProducerSettings(segment_bytes=4096, content_field="text"))
    found = dry_run([tmp_path], settings, progress=False)
    size = len(("Größe " * 2000).encode())
    assert (found.documents, found.bytes, found.largest) == (4, size + 3 + 5 + 4, size)
    assert found.records == 3 + -(-size // 4096)
    assert found.kinds == {".json": 2, ".jsonl": 1, ".md": 1}
    assert found.refused.counts == {"empty": 1, "not_json": 1}
    assert found.noticed.counts == {"unknown_suffix": 1, "metadata_cut": 1}
    assert found.bytes_read == sum(
        (tmp_path / n).stat().st_size for n in ("a.json", "b.jsonl", "c.md", "e.json")
    )
    assert found.tokens_estimated == round(found.bytes / 4.8)
    told = "\n".join(found.lines())
    assert f"{tmp_path}/b.jsonl:3" in told
    assert "4 documents" in told


def test_the_command_connects_to_nothing_and_strict_tells_refusals(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    flags = ("produce", tmp_path, "--dry-run", "--json", "--bootstrap-servers", "127.0.0.1:1")
    done = run_cli(*flags, "--content-field", "text")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["documents"] == 4
    strict = run_cli(*flags, "--content-field", "text", "--strict")
    assert strict.returncode == 1
    clean = run_cli(*flags, "--content-field", "text", "--strict", "--exclude", "*.jsonl", "--limit", "1")
    assert clean.returncode == 0, clean.stderr
    assert json.loads(clean.stdout)["documents"] == 1


def test_it_tells_how_many_texts_are_there_more_than_once(tmp_path: Path) -> None:
    for name, text in (("a.txt", "Same."), ("b.txt", "Same."), ("c.md", "Same."), ("d.md", "Other.")):
        (tmp_path / name).write_text(text)
    found = dry_run([tmp_path], Settings(kafka=NOWHERE), progress=False)
    assert (found.documents, found.duplicates) == (4, 2)
    assert "2 of them repeat the text of another" in "\n".join(found.lines())


def test_of_nothing_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>")
    told = list(dry_run([tmp_path], Settings(kafka=NOWHERE), progress=False).lines())
    assert told[0].startswith("would send 0 documents")
    assert all(told)
