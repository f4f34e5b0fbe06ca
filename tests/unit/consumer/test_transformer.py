from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock, call, create_autospec

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from consumer.encoder import Encoder, OutOfMemory, PipelinedEncoder
from consumer.model import load_encoder
from consumer.transformer import TransformerEncoder
from embedstream.errors import TryAgainError
from embedstream.settings import EncoderSettings
from tests.models import save_bert, save_modernbert, save_roberta, short_texts

MODELS: dict[str, Callable[[Path], Path]] = {
    "bert mean": lambda folder: save_bert(folder, "mean"),
    "bert cls": lambda folder: save_bert(folder, "cls"),
    "bert max": lambda folder: save_bert(folder, "max"),
    "bert last token": lambda folder: save_bert(folder, "lasttoken"),
    "bert dense": lambda folder: save_bert(folder, "mean", dense=20),
    "bert not normalised": lambda folder: save_bert(folder, "mean", normalize=False),
    "bert prompt": lambda folder: save_bert(folder, "mean", prompts={"document": "a document: "}),
    "bert prompt not pooled": lambda folder: save_bert(
        folder, "mean", prompts={"document": "a document: "}, include_prompt=False
    ),
    "roberta mean": lambda folder: save_roberta(folder, "mean"),
    "roberta cls": lambda folder: save_roberta(folder, "cls"),
    "modernbert mean": lambda folder: save_modernbert(folder, "mean"),
    "modernbert cls": lambda folder: save_modernbert(folder, "cls"),
}
# Tokens of a text; with the special ones, the last of these fill a window of 512.
LENGTHS = (1, 2, 125, 126, 127, 128, 129, 508, 509, 510)


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODELS[request.param](tmp_path_factory.mktemp("model"))


def loaded(folder: Path, **settings: Any) -> PipelinedEncoder:
    # A budget that is given, since measuring one for each model takes seconds.
    given: dict[str, Any] = {"device": "cpu", "token_budget": 2048, **settings}
    encoder = load_encoder(EncoderSettings(model=str(folder), **given))
    assert isinstance(encoder, PipelinedEncoder)
    return encoder


def ids_of(encoder: Encoder, texts: list[str]) -> list[NDArray[np.int32]]:
    """One passage a text, as sentence-transformers truncates them."""
    return [split.passages[0].token_ids for split in encoder.splitter.split_many(texts)]


def first_passages(encoder: Encoder, texts: list[str]) -> list[str]:
    splits = encoder.splitter.split_many(texts)
    return [text[: split.passages[0].end_char] for text, split in zip(texts, splits, strict=True)]


def library_model(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def oracle(folder: Path, encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    model = library_model(folder)
    model.max_seq_length = encoder.info.max_tokens
    vectors: NDArray[np.float32] = model.encode_document(texts, normalize_embeddings=True)
    return vectors


def lowest_cosine(vectors: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    return float((vectors.astype(np.float64) * others).sum(axis=1).min())


def test_vectors_are_those_of_sentence_transformers(folder: Path) -> None:
    encoder = loaded(folder, precision="fp32")
    texts = first_passages(encoder, short_texts())
    vectors = encoder.encode(ids_of(encoder, texts))
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), encoder.info.dim)
    assert vectors.flags.c_contiguous
    expected = oracle(folder, encoder, texts)
    assert lowest_cosine(vectors, expected) > 0.999999
    # The models tell texts apart, so a wrong text would not pass.
    assert (expected @ expected.T)[np.triu_indices(len(texts), 1)].min() < 0.95


def test_neighbours_do_not_matter(folder: Path) -> None:
    encoder = loaded(folder, precision="fp32")
    ids = ids_of(encoder, short_texts())
    alone = np.concatenate([encoder.encode([each]) for each in ids])
    together = encoder.encode(ids)
    backwards = encoder.encode(ids[::-1])[::-1]
    assert np.allclose(alone, together, atol=2e-6)
    assert np.allclose(alone, backwards, atol=2e-6)


def test_bf16_keeps_the_direction(folder: Path) -> None:
    exact, short = loaded(folder, precision="fp32"), loaded(folder, precision="bf16")
    ids = ids_of(exact, short_texts())
    assert lowest_cosine(short.encode(ids), exact.encode(ids)) > 0.9998
    assert np.allclose(np.linalg.norm(short.encode(ids), axis=1), 1, atol=1e-6)


def test_truncated_vectors_are_unit_vectors_again(folder: Path) -> None:
    full, short = loaded(folder, precision="fp32"), loaded(folder, precision="fp32", truncate_dim=16)
    ids = ids_of(full, short_texts())
    expected = full.encode(ids)[:, :16]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(short.encode(ids), expected, atol=1e-6)
    assert short.info.dim == 16


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_texts_of_every_length_have_their_vectors(tmp_path: Path, pooling: str, precision: str) -> None:
    folder = save_bert(tmp_path, pooling, positions=512)
    encoder = loaded(folder, precision=precision)
    texts = [" ".join(("cat", "dog", "tree")[i * i % 3] for i in range(length)) for length in LENGTHS]
    ids = ids_of(encoder, texts)
    assert [len(each) for each in ids] == [length + 2 for length in LENGTHS]
    expected = oracle(folder, encoder, texts)
    assert lowest_cosine(encoder.encode(ids), expected) > {"fp32": 0.999999, "bf16": 0.9998}[precision]


def test_one_enormous_and_many_tiny_passages_go_together(tmp_path: Path) -> None:
    encoder = loaded(save_bert(tmp_path, positions=512), precision="fp32")
    ids = ids_of(encoder, ["dog " * 510, *short_texts(), *["cat"] * 500])
    alone = np.concatenate([encoder.encode([each]) for each in ids[:40]])
    assert np.allclose(encoder.encode(ids)[:40], alone, atol=2e-6)


@pytest.mark.slow
def test_a_passage_of_8192_tokens_has_its_vector(tmp_path: Path) -> None:
    folder = save_modernbert(tmp_path)
    encoder = loaded(folder, precision="fp32")
    assert (encoder.info.max_tokens, encoder.info.layout) == (8192, "padded")
    texts = [" ".join(("cat", "dog", "tree")[i * i % 3] for i in range(length)) for length in (8190, 3, 600)]
    ids = ids_of(encoder, texts)
    assert [len(each) for each in ids] == [8192, 5, 602]
    assert lowest_cosine(encoder.encode(ids), oracle(folder, encoder, texts)) > 0.999999


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


def test_no_passages_give_no_vectors(bert: Path) -> None:
    encoder = loaded(bert, precision="fp32")
    assert encoder.submit([]).result().shape == (0, encoder.info.dim)
    assert encoder.encode([]).shape == (0, encoder.info.dim)


@pytest.mark.parametrize("length", [3, 4, 159, 160])
def test_passages_up_to_the_last_position_are_encoded(bert: Path, length: int) -> None:
    encoder = loaded(bert, precision="fp32", max_tokens=160)
    ids = np.full(length, 2000, dtype=np.int32)
    assert np.isfinite(encoder.encode([ids, ids[:3]])).all()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_roberta_counts_its_positions_from_the_paddings_up_to_the_last(tmp_path: Path, pooling: str) -> None:
    """130 positions, of which the first two are none of a token's."""
    folder = save_roberta(tmp_path, pooling)
    encoder = loaded(folder, precision="fp32")
    assert encoder.info.max_tokens == 128
    drawn = np.random.default_rng(1)
    ids = [drawn.integers(5, 2000, length, dtype=np.int32) for length in (1, 2, 63, 126, 127, 128)]
    model = library_model(folder)
    features = [{"input_ids": torch.tensor(each[None].astype(np.int64))} for each in ids]
    with torch.inference_mode():
        expected = torch.cat(
            [
                model({**each, "attention_mask": torch.ones_like(each["input_ids"])})["sentence_embedding"]
                for each in features
            ]
        )
    assert lowest_cosine(encoder.encode(ids), expected.numpy()) > 0.999999


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError("no"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_every_kind_of_too_little_memory_is_told(
    bert: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    encoder = failing(bert, monkeypatch, error)
    with pytest.raises(OutOfMemory) as raised:
        encoder.encode([np.array([101, 102], dtype=np.int32)])
    # What still holds the traceback would hold the tensors.
    assert raised.value.__context__ is None


def test_memory_that_really_runs_out_is_told(bert: Path) -> None:
    model = loaded(bert, precision="fp32")
    encoder = TransformerEncoder(lambda _: torch.empty(10**15), model.info, model.splitter, 16)
    with pytest.raises(OutOfMemory):
        encoder.encode([np.array([101, 102], dtype=np.int32)])


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_broken_gpu_asks_for_a_new_process(
    bert: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It is no passage's fault: a process whose GPU is gone would make every passage a dead letter."""
    with pytest.raises(TryAgainError, match="the GPU failed"):
        failing(bert, monkeypatch, error).encode([np.array([101, 102], dtype=np.int32)])


def test_vectors_come_back_on_a_side_stream_and_are_waited_for_when_they_are_wanted(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls and their order, on torch's own classes; a GPU test looks at what they do."""
    model, calls = loaded(bert, precision="fp32"), Mock()
    side, event = create_autospec(torch.cuda.Stream), create_autospec(torch.cuda.Event)
    calls.attach_mock(side, "side")
    calls.attach_mock(event, "event")
    calls.stream = MagicMock()
    monkeypatch.setattr(torch.cuda, "Stream", side)
    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr(torch.cuda, "stream", calls.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: "main")
    pinned: list[bool] = []

    def empty(*size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        pinned.append(pin_memory)
        return torch.zeros(*size, **options)

    monkeypatch.setattr(torch, "empty", empty)
    on_gpu = TransformerEncoder(
        lambda batch: torch.eye(len(batch), 48), replace(model.info, device="cuda:0"), model.splitter, 64
    )
    pending = on_gpu.submit([np.array([101, 102], dtype=np.int32)] * 3)
    assert [name for name, _, _ in calls.mock_calls] == [
        "side",
        "side().wait_stream",
        "stream",
        "stream().__enter__",
        "event",
        "event().record",
        "stream().__exit__",
    ]
    assert calls.mock_calls[1] == call.side().wait_stream("main")
    assert calls.mock_calls[2] == call.stream(side.return_value)
    assert pinned == [True]
    assert np.array_equal(pending.result(), np.eye(3, 48, dtype=np.float32))
    assert calls.mock_calls[-1] == call.event().synchronize()
    assert on_gpu.in_flight == 3


def test_an_id_that_the_model_lacks_is_an_error_of_its_own(bert: Path) -> None:
    with pytest.raises(IndexError):
        loaded(bert, precision="fp32").encode([np.array([101, 99_999, 102], dtype=np.int32)])


def failing(bert: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Encoder:
    def fail(*_: object) -> None:
        raise error

    encoder = loaded(bert, precision="fp32")
    monkeypatch.setattr(TransformerEncoder, "_vectors", fail)
    return encoder


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "lowest"), [("fp16", 0.9999), ("bf16", 0.9998), ("fp32", 0.99999)])
def test_a_gpu_gives_the_oracles_vectors(folder: Path, precision: str, lowest: float) -> None:
    encoder = on_gpu(folder, precision=precision)
    ids = ids_of(encoder, first_passages(encoder, short_texts()))
    exact = loaded(folder, precision="fp32").encode(ids)
    assert lowest_cosine(encoder.encode(ids), exact) >= lowest
    alone = np.concatenate([encoder.encode([each]) for each in ids])
    assert lowest_cosine(alone, exact) >= lowest


@pytest.mark.gpu
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_submitting_to_a_gpu_never_waits_for_it(tmp_path: Path, pooling: str) -> None:
    encoder = on_gpu(save_bert(tmp_path, pooling))
    assert encoder.info.refused == ""
    ids = ids_of(encoder, first_passages(encoder, short_texts()))
    batches = [ids[:8], ids[8:9], ids[9:]]
    expected = [encoder.encode(batch) for batch in batches]
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = [encoder.submit(batch) for batch in batches]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for each, vectors in zip(pending, expected, strict=True):
        assert np.allclose(each.result(), vectors, atol=1e-3)


@pytest.mark.gpu
def test_compiled_code_on_a_gpu_gives_the_same_vectors(tmp_path: Path) -> None:
    folder = save_bert(tmp_path)
    plain, compiled = on_gpu(folder), on_gpu(folder, compile=True)
    assert (compiled.info.compiled, compiled.info.refused) == (True, "")
    ids = ids_of(plain, first_passages(plain, short_texts()))
    assert lowest_cosine(compiled.encode(ids), plain.encode(ids)) > 0.9999


def on_gpu(folder: Path, **settings: Any) -> PipelinedEncoder:
    encoder = load_encoder(EncoderSettings(model=str(folder), device="cuda", token_budget=4096, **settings))
    assert isinstance(encoder, PipelinedEncoder)
    return encoder
