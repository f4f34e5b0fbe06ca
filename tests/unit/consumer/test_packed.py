from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from consumer.packed import Packed

CPU = torch.device("cpu")
PADDING = 1
PASSAGES = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=8)


def packed(passages: list[list[int]], padding_id: int | None = None) -> Packed:
    return Packed.of([np.array(ids, dtype=np.int32) for ids in passages], CPU, 10, padding_id)


@given(PASSAGES)
def test_unpacking_gives_the_passages_back(passages: list[list[int]]) -> None:
    found = packed(passages)
    bounds = found.bounds.tolist()
    ids = found.ids.tolist()
    assert [ids[start:end] for start, end in pairwise(bounds)] == passages
    assert found.lengths == tuple(map(len, passages))
    assert found.longest == max(map(len, passages))
    assert found.passage.tolist() == [place for place, ids in enumerate(passages) for _ in ids]


@given(PASSAGES)
def test_positions_begin_anew_with_each_passage(passages: list[list[int]]) -> None:
    assert packed(passages).positions.tolist() == [place for ids in passages for place in range(len(ids))]


@given(PASSAGES)
def test_robertas_positions_are_those_of_transformers(passages: list[list[int]]) -> None:
    from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

    expected = [
        RobertaEmbeddings.create_position_ids_from_input_ids(torch.tensor([ids]), PADDING) for ids in passages
    ]
    assert packed(passages, PADDING).positions.tolist() == torch.cat(expected, dim=1)[0].tolist()


def test_an_id_that_the_model_lacks_is_refused_before_the_device_sees_it() -> None:
    assert packed([[9]]).ids.tolist() == [9]
    with pytest.raises(IndexError, match="token id 10 is beyond the model's 10"):
        packed([[3, 4], [10]])
