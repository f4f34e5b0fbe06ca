"""Archives the classes that an Apache Kafka node loads, so that each node of the tests starts sooner.

    python -m tests.class_archive

Java's own class data sharing (JEP 350). Does nothing where there is an archive, or no Apache Kafka.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.brokers import CLASS_ARCHIVE, ApacheCluster, NoKafkaError, find_kafka

__all__ = ["main"]


def main() -> None:
    """Starts a node and ends it in order, which is when Java writes the archive."""
    if CLASS_ARCHIVE.exists():
        return
    try:
        kafka = find_kafka()
    except NoKafkaError as error:
        print(error)
        return
    with TemporaryDirectory() as folder:
        made = Path(folder) / CLASS_ARCHIVE.name
        os.environ["JAVA_TOOL_OPTIONS"] = f"-XX:ArchiveClassesAtExit={made}"
        with ApacheCluster(kafka, Path(folder) / "node") as cluster:
            cluster.nodes[0].stop(timeout=120)
        CLASS_ARCHIVE.write_bytes(made.read_bytes())
    print(f"{CLASS_ARCHIVE.name}: {CLASS_ARCHIVE.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
