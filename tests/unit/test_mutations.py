"""The mutations of tests/faults still fit the product: each finds the text that it is to break."""

from __future__ import annotations

import pytest

from tests.brokers import REPOSITORY
from tests.faults.mutations import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_a_mutation_finds_the_one_text_that_it_changes(mutation: Mutation) -> None:
    assert (REPOSITORY / mutation.file).read_text().count(mutation.before) == 1
