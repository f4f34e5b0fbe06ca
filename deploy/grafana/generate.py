"""Writes the dashboards' JSON, or with --check says whether what is committed is what would be written.

python -m deploy.grafana.generate [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from deploy.grafana.fleet import fleet
from deploy.grafana.job import job

__all__ = ["FOLDER", "rendered"]

FOLDER = Path(__file__).parent / "dashboards"


def rendered() -> dict[str, str]:
    """The text of each file, by its name."""
    found = {"job.json": job(), "fleet.json": fleet()}
    return {name: json.dumps(each, indent=2, ensure_ascii=False) + "\n" for name, each in found.items()}


def main() -> None:
    """Writes or checks."""
    stale = []
    for name, text in rendered().items():
        path = FOLDER / name
        if "--check" in sys.argv[1:]:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.exit(f"not what the source makes: {', '.join(stale)}; run python -m deploy.grafana.generate")


if __name__ == "__main__":
    main()
