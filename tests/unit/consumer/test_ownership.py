from __future__ import annotations

from consumer.ownership import Ownership
from consumer.records import Item, Polled, next_offsets
from tests.unit.consumer.items import a_document, a_record, an_end

PARTITION = ("documents", 0)


def an_ownership() -> Ownership:
    ownership = Ownership()
    ownership.assign([PARTITION])
    return ownership


def test_a_record_read_under_todays_assignment_is_ours() -> None:
    ownership = an_ownership()
    item = a_document(assignment=1)
    assert ownership.open_transaction([item]) == [item]
    assert ownership.transaction_open


def test_a_record_of_a_partition_that_was_taken_away_is_left_out() -> None:
    ownership = an_ownership()
    ownership.withdraw([PARTITION])
    assert ownership.open_transaction([a_document(assignment=1)]) == []
    assert not ownership.transaction_open


def test_a_record_read_before_the_partition_went_and_came_back_is_left_out() -> None:
    ownership = an_ownership()
    ownership.withdraw([PARTITION])
    ownership.assign([PARTITION])
    old, new = a_document(assignment=1), a_document(assignment=2)
    assert ownership.open_transaction([old, new]) == [new]


def test_the_records_of_other_partitions_are_kept() -> None:
    ownership = an_ownership()
    ownership.assign([("documents", 1)])
    ownership.withdraw([PARTITION])
    mine = a_document(partition=1, assignment=2)
    end = an_end(partition=1, assignment=2)
    items: list[Item] = [a_document(assignment=1), mine, an_end(), end]
    assert ownership.open_transaction(items) == [mine, end]


def test_a_loss_marks_an_open_transaction_and_a_revocation_does_not() -> None:
    ownership = an_ownership()
    ownership.open_transaction([a_document()])
    ownership.withdraw([PARTITION])
    assert not ownership.is_lost
    ownership.close_transaction()

    ownership.assign([PARTITION])
    ownership.open_transaction([a_document(assignment=2)])
    ownership.withdraw([PARTITION], lost=True)
    assert ownership.is_lost


def test_a_loss_is_forgotten_with_the_next_transaction() -> None:
    ownership = an_ownership()
    ownership.assign([("documents", 1)])
    ownership.open_transaction([a_document()])
    ownership.withdraw([PARTITION], lost=True)
    ownership.close_transaction()
    assert ownership.open_transaction([a_document(partition=1, assignment=2)])
    assert not ownership.is_lost


def test_numbers_are_never_used_again() -> None:
    ownership = an_ownership()
    seen = {ownership.number(PARTITION)}
    for _ in range(5):
        ownership.withdraw([PARTITION])
        assert ownership.number(PARTITION) is None
        ownership.assign([PARTITION])
        number = ownership.number(PARTITION)
        assert number not in seen
        seen.add(number)


def test_next_offsets_are_one_past_the_last_record_and_the_end_itself() -> None:
    inputs: list[Polled] = [a_record(0, 3), a_record(1, 8), a_record(0, 4), an_end(1, 12)]
    assert next_offsets(inputs) == {("documents", 0): 5, ("documents", 1): 12}
