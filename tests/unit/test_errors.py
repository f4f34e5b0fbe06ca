"""Walks the table of every error that ends a command."""

from __future__ import annotations

import pytest

from embedstream.ending import tell
from tests.brokers import REPOSITORY
from tests.error_table import CLASSES, FILE, Row, rows, table

ROWS = rows()


def named(row: Row) -> str:
    return f"{row.module}: {row.text[:60]}"


def test_the_table_is_up_to_date() -> None:
    assert FILE.read_text() == table(), "make it anew: python -m tests.error_table"


def test_the_table_holds_every_class_and_enough_errors() -> None:
    assert {row.kind for row in ROWS} == set(CLASSES)
    assert len(ROWS) > 200


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_an_error_is_one_line_with_text_and_mend_and_the_code_of_its_class(
    row: Row, capsys: pytest.CaptureFixture[str]
) -> None:
    assert row.mend, "it says no mend"
    assert not row.text.endswith((".", ":", " "))
    assert not row.mend.endswith((".", ":", " "))
    assert tell(CLASSES[row.kind](row.text, row.mend)) == row.exit_code
    assert capsys.readouterr().err == f"embedstream: {row.text}: {row.mend}\n"


def test_the_readme_tells_every_exit_code() -> None:
    text = (REPOSITORY / "README.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    told = {cell.split("|")[1].strip() for cell in text.splitlines() if cell.startswith("|")}
    assert {str(row.exit_code) for row in ROWS} | {"0", "70", "130, 143"} == told - {"code", "---"}


def test_a_bug_is_70_with_one_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(ZeroDivisionError("division by zero")) == 70
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("embedstream: this is a bug in embedstream ")
    assert last.endswith("(ZeroDivisionError: division by zero)")
