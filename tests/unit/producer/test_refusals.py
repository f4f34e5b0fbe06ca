from __future__ import annotations

import pytest

from producer.refusals import Reason, Refusal, RefusedError, Tally, printable


def test_all_are_counted_and_the_first_few_of_each_are_kept() -> None:
    tally = Tally(examples_per_reason=2)
    for n in range(5):
        tally.add(Refusal(Reason.EMPTY, str(n), "empty"))
    tally.add(Refusal(Reason.NOT_JSON, "x", "no"))
    assert tally.counts == {"empty": 5, "not_json": 1}
    assert list(tally.counts) == ["empty", "not_json"]
    assert [(each.reason, each.path) for each in tally.examples] == [
        (Reason.EMPTY, "0"),
        (Reason.EMPTY, "1"),
        (Reason.NOT_JSON, "x"),
    ]


def test_a_tally_can_be_made_again_of_its_examples() -> None:
    tally, again = Tally(examples_per_reason=2), Tally(examples_per_reason=2)
    for n in range(1000):
        tally.add(Refusal(Reason.EMPTY if n % 3 else Reason.NOT_JSON, str(n), "told"))
    tally.add(Refusal(Reason.HIDDEN, "x", "told"), 7)
    weighted = list(tally.weighted())
    assert len(weighted) == 5
    for refusal, count in weighted:
        again.add(refusal, count)
    assert (again.counts, again.examples) == (tally.counts, tally.examples)
    assert again.counts == {"empty": 666, "not_json": 334, "hidden": 7}


@pytest.mark.parametrize(
    ("path", "text"), [("é/漢.txt", "é/漢.txt"), ("caf\udce9", "caf\\xe9"), ("a\nb", "a\nb")]
)
def test_a_path_becomes_text_that_utf8_can_hold(path: str, text: str) -> None:
    assert printable(path) == text
    assert printable(text) == text


def test_a_refusal_is_one_line() -> None:
    refusal = RefusedError(Reason.BAD_FRONT_MATTER, "bad\n  at line 2").at("p")
    assert refusal == Refusal(Reason.BAD_FRONT_MATTER, "p", "bad at line 2")
