"""Files are found by their names, whatever else lies between them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from producer.ledger import FileRow, Identity, Ledger, Rows


@pytest.mark.parametrize("share", [1.0, 0.7, 0.01])
def test_every_file_that_has_a_row_is_found(tmp_path: Path, share: float) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    names = [chance.choice(("a", "é", "漢", "\\xe9", "Z", "😀")) + str(n) for n in range(3000)]
    with Ledger.open(tmp_path / "ledger", Identity("c", "t", "")) as ledger:
        folders = [ledger.folder("/corpus", name) for name in ("a/", "b/")]
        rows = [
            FileRow(2 * n + which, folder, name, n, 7, 1, 1, None)
            for n, name in enumerate(names, 1)
            for which, folder in enumerate(folders)
            if n % 10
        ]
        ledger.write(Rows(files=rows))
        some = [*chance.sample(names, round(len(names) * share)), "no such file"]
        all_there = sorted(row.name for row in rows if row.folder == folders[1])
        found = [(asked, ledger.files(folders[1], asked)) for asked in (some, sorted(some), all_there)]
    known = {row.name: row for row in rows if row.folder == folders[1]}
    for asked, told in found:
        assert len(told) == len(asked)
        for name, told_of_it in zip(asked, told, strict=True):
            row = known.get(name)
            wanted = None if row is None else (name, row.size, row.mtime_ns, row.rules, row.id, None)
            assert told_of_it == wanted
