"""Writes the Python language reference, which every CPython carries, as a corpus: python corpus.py FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from pydoc_data.topics import topics

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
with (folder / "python.jsonl").open("w", encoding="utf-8") as lines:
    for name, text in topics.items():
        lines.write(json.dumps({"id": name, "content": text, "title": name}) + "\n")
