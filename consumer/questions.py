"""The vectors of questions: as sentence-transformers' `encode_query` makes them, on the CPU in fp32."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from consumer.bert import UnsupportedModelError
from consumer.bert_files import read_bert
from consumer.body import EmbeddingModel

__all__ = ["encode"]


def encode(folder: Path, questions: Sequence[str], dim: int) -> NDArray[np.float32]:
    """Encodes questions behind the model's prompt for them, if it has one.

    Args:
        folder: Of the model.
        questions: What is longer than the model's window is cut.
        dim: The length that vectors are cut to.

    Returns:
        float32, shape (len(questions), dim): unit vectors.
    """
    try:
        return _by_bert(read_bert(folder, torch.device("cpu")), questions, dim)
    except UnsupportedModelError:
        return _by_library(folder, questions, dim)


def _by_bert(model: EmbeddingModel, questions: Sequence[str], dim: int) -> NDArray[np.float32]:
    window = min(model.own_window or sys.maxsize, model.positions or sys.maxsize)
    body = model.make("fp32", window, 1, compiled=False).body
    model.tokenizer.no_padding()
    model.tokenizer.enable_truncation(window)
    prompt = model.prompts.get("query") or ""
    batch = [np.array(model.tokenizer.encode(prompt + each).ids, np.int32) for each in questions]
    with torch.inference_mode():
        vectors: NDArray[np.float32] = functional.normalize(body(batch)[:, :dim], dim=1).numpy()
    return vectors


def _by_library(folder: Path, questions: Sequence[str], dim: int) -> NDArray[np.float32]:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    transformer = SentenceTransformer(
        str(folder),
        device="cpu",
        truncate_dim=dim,
        local_files_only=True,
        model_kwargs={"use_safetensors": True},
    )
    encoded = transformer.encode_query(
        list(questions), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
    )
    return np.asarray(encoded, dtype=np.float32)
