"""The README's own script, run as it stands there."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from schemas.avro import current, fingerprint
from tests.brokers import REPOSITORY, BrokerHandle
from tests.cli import clean_environment
from tests.kafka import make_topics
from tests.outputs import Outputs, unit_vector


def script() -> str:
    _, found, rest = (REPOSITORY / "README.md").read_text().partition("<!-- read_embeddings.py")
    assert found, "the README has no script"
    return rest.partition("```python\n")[2].partition("```")[0]


def test_the_readers_script_needs_nothing_but_kafka_and_avro() -> None:
    imports = [
        node for node in ast.walk(ast.parse(script())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    names |= {each.name for node in imports if isinstance(node, ast.Import) for each in node.names}
    assert names == {"io", "json", "sys", "fastavro", "confluent_kafka"}


def test_the_readers_script_reads_every_record(embedded_broker: BrokerHandle, tmp_path: Path) -> None:
    outputs = Outputs(make_topics(embedded_broker.bootstrap))
    for number in range(20):
        outputs.schema_id = 5 if number % 2 else None  # as with a registry, and without
        outputs.embed(f"document-{number}", passages=3)
    outputs.delete("document-7", 2)
    outputs.flush()
    file = tmp_path / "read_embeddings.py"
    file.write_text(script())
    schema = REPOSITORY / "schemas" / "embedding.avsc"
    done = subprocess.run(
        [sys.executable, "-I", file, outputs.topics.bootstrap, outputs.topics.embeddings, schema],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines.count("deleted: document-7") == 1
    records = [line.split(" ", 3) for line in lines if not line.startswith("deleted")]
    assert Counter(name for name, *_ in records) == {f"document-{number}": 3 for number in range(20)}
    for name, start, end, vector in records:
        index = int(start) // 100
        assert int(end) == int(start) + 100
        wanted = unit_vector(f"{name} 1 0 {index}f00d")
        assert np.float32(ast.literal_eval(vector)).tobytes() == wanted.tobytes()


def test_the_description_of_the_wire_format_names_the_fingerprints_that_are_written() -> None:
    text = (REPOSITORY / "docs" / "formats.md").read_text()
    for name in ("document", "embedding"):
        assert f"`{fingerprint(current(name)).hex(' ').upper()}`" in text
