from __future__ import annotations

import json

from producer.refusals import Reason, Refusal
from producer.summary import Summary


def summary(**changes: object) -> Summary:
    values: dict[str, object] = {
        "documents": 3,
        "records": 5,
        "bytes": 1000,
        "bytes_read": 2_000_000,
        "seconds": 2.0,
        "refused": {"empty": 12},
        "refusals": (Refusal(Reason.EMPTY, "a\x1b[2J.json", "the content is empty"),),
        "notices": {"hidden": 1},
        "noticed": (Refusal(Reason.HIDDEN, ".git", "the name begins with a dot"),),
    }
    return Summary(**(values | changes))  # type: ignore[arg-type]


def test_a_summary_becomes_one_json_document() -> None:
    found = json.loads(json.dumps(summary(interrupted_by=2).to_json()))
    assert (found["documents"], found["records"], found["bytes"], found["seconds"]) == (3, 5, 1000, 2.0)
    assert found["refused"] == {"empty": 12}
    assert found["refusals"][0]["reason"] == "empty"
    assert found["notices"] == {"hidden": 1}
    assert (found["interrupted_by"], found["failure"]) == (2, None)


def test_the_lines_name_every_reason_and_can_be_printed_safely() -> None:
    text = "\n".join(summary().lines())
    assert "3 documents in 5 records" in text
    assert "refused: empty: 12" in text
    assert "a\\x1b[2J.json" in text
    assert "\x1b" not in text
    assert "notice: hidden: 1" in text
