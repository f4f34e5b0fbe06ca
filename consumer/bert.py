"""The forward pass of BERT and its RoBERTa relatives over packed passages, written for speed.

    body = PackedBert.of(model.state_dict(), shape_of(model), torch.bfloat16, grouped)
    body(body.packed(batch))  # hidden states, shape (tokens, hidden size)

transformers' own modules want padding, or a mask over all passages at once. Here nothing is padded, the three
projections of attention are one product, and on a CPU the weights lie as oneDNN wants them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from consumer.attention import Attention
from consumer.packed import Packed

__all__ = ["BertShape", "PackedBert", "UnsupportedModelError", "shape_of", "weight_names"]

# transformers' classes with one and the same layer, and whether positions count from the padding's id.
FAMILY = {"BertModel": False, "RobertaModel": True, "XLMRobertaModel": True, "CamembertModel": True}
# What oneDNN lays the weights out for; other numbers of tokens work as well.
USUAL_TOKENS = 2048
# With AVX2 alone, oneDNN's GELU takes three times as long as torch's: a twentieth of the whole pass.
ONEDNN_GELU = "AVX512" in torch.backends.cpu.get_cpu_capability()

Dense: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, bool], torch.Tensor]


class UnsupportedModelError(Exception):
    """The packed forward pass does not know this model; says why in a few words."""


class BertShape(NamedTuple):
    """What the weights of a BERT don't say of it.

    Attributes:
        layers: how many.
        heads: of attention, in each layer.
        norm_eps: what a layer norm adds to the variance.
        padding_id: for the RoBERTa family, whose positions count from there on; None counts from 0.
    """

    layers: int
    heads: int
    norm_eps: float
    padding_id: int | None = None


class _Norm(NamedTuple):
    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)


class _Layer(NamedTuple):
    """Weights of a layer; those of products lie as their `Dense` wants them."""

    qkv: tuple[torch.Tensor, torch.Tensor]
    out: tuple[torch.Tensor, torch.Tensor]
    after_attention: _Norm
    up: tuple[torch.Tensor, torch.Tensor]
    down: tuple[torch.Tensor, torch.Tensor]
    after_feed_forward: _Norm


class PackedBert:
    """A BERT of any size, without its pooler.

    In bf16 only the matrix products are: what is added up from layer to layer stays fp32, since bf16 has too
    short a mantissa for that. In fp16 everything is, and layer norm and softmax count in fp32 inside.
    """

    def __init__(
        self,
        embeddings: tuple[torch.Tensor, torch.Tensor],
        norm: _Norm,
        layers: list[_Layer],
        heads: int,
        dtype: torch.dtype,
        attention: Attention,
        dense: Dense,
        padding_id: int | None,
        *,
        compiled: bool,
    ) -> None:
        self._padding_id = padding_id
        self._words, self._positions = embeddings
        self._norm = norm
        self._layers = layers
        self._heads = heads
        self._dtype = dtype
        self._attention = attention
        self._dense = dense
        # Any number of tokens with the same code, and one code for all layers.
        finish = torch.compile(_finish, dynamic=True, fullgraph=True) if compiled else _finish
        self._finish: Callable[..., torch.Tensor] = finish

    @classmethod
    def of(
        cls,
        weights: Mapping[str, torch.Tensor],
        shape: BertShape,
        dtype: torch.dtype,
        attention: Attention,
        *,
        compiled: bool = False,
        plain: bool = False,
    ) -> PackedBert:
        """Takes the weights of a BERT, on the device where they are.

        Args:
            weights: in fp32, by the names that transformers gives them (`weight_names`).
            shape: what the weights don't say.
            dtype: what the matrix products are computed in.
            attention: the kernel.
            compiled: lets torch fuse what lies between two attentions; it does so when first called.
            plain: does without the layout that is faster on a CPU.
        """
        words = weights["embeddings.word_embeddings.weight"].detach()
        kept = torch.float16 if dtype == torch.float16 else torch.float32
        # The compiler can't look into weights that lie as oneDNN wants them, and few have fp16.
        onednn = (
            words.device.type == "cpu"
            and not (compiled or plain)
            and dtype != torch.float16
            and _has_onednn()
        )

        def laid_out(*names: str) -> tuple[torch.Tensor, torch.Tensor]:
            weight = torch.cat([weights[f"{name}.weight"] for name in names]).to(dtype)
            bias = torch.cat([weights[f"{name}.bias"] for name in names]).to(dtype)
            if onednn:
                weight = torch.ops.mkldnn._reorder_linear_weight(weight, USUAL_TOKENS)
            return weight, bias

        def norm(name: str) -> _Norm:
            return _Norm(weights[f"{name}.weight"].to(kept), weights[f"{name}.bias"].to(kept), shape.norm_eps)

        def layer(name: str) -> _Layer:
            attended = f"{name}.attention"
            return _Layer(
                laid_out(*(f"{attended}.self.{each}" for each in ("query", "key", "value"))),
                laid_out(f"{attended}.output.dense"),
                norm(f"{attended}.output.LayerNorm"),
                laid_out(f"{name}.intermediate.dense"),
                laid_out(f"{name}.output.dense"),
                norm(f"{name}.output.LayerNorm"),
            )

        with torch.no_grad():
            # Every passage is of token type 0: its embedding goes into the positions.
            positions = (
                weights["embeddings.position_embeddings.weight"]
                + weights["embeddings.token_type_embeddings.weight"][0]
            )
            return cls(
                (words.to(kept), positions.to(kept)),
                norm("embeddings.LayerNorm"),
                [layer(f"encoder.layer.{index}") for index in range(shape.layers)],
                shape.heads,
                dtype,
                attention,
                _onednn_dense if onednn else _plain_dense,
                shape.padding_id,
                compiled=compiled,
            )

    def packed(self, batch: Sequence[NDArray[np.int32]]) -> Packed:
        """Packs passages as this model wants them, on its device; see `Packed.of`."""
        return Packed.of(batch, self._words.device, len(self._words), self._padding_id)

    def __call__(self, packed: Packed, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The last hidden states.

        Args:
            packed: the passages.
            rows: which tokens' states are wanted, shape (rows,); None for all. The last layer computes no
                others: three quarters of a layer's products are saved.

        Returns:
            Shape (tokens or rows, hidden size), float16 or float32.
        """
        hidden = functional.embedding(packed.ids, self._words)
        hidden = self._norm(hidden + functional.embedding(packed.positions, self._positions))
        last = self._layers[-1]
        for layer in self._layers:
            qkv = self._dense(hidden.to(self._dtype), *layer.qkv, False)
            attended = self._attention(qkv.view(len(qkv), 3, self._heads, -1), packed)
            if rows is not None and layer is last:
                hidden, attended = hidden.index_select(0, rows), attended.index_select(0, rows)
            hidden = self._finish(hidden, attended, layer, self._dense)
        return hidden


def _finish(hidden: torch.Tensor, attended: torch.Tensor, layer: _Layer, dense: Dense) -> torch.Tensor:
    """A layer from behind its attention on."""
    hidden = layer.after_attention(hidden + dense(attended, *layer.out, False))
    wide = dense(hidden.to(attended.dtype), *layer.up, True)
    return layer.after_feed_forward(hidden + dense(wide, *layer.down, False))


def _plain_dense(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gelu: bool) -> torch.Tensor:
    x = functional.linear(x, weight, bias)
    return functional.gelu(x) if gelu else x


def _onednn_dense(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, gelu: bool) -> torch.Tensor:
    fused = "gelu" if gelu and ONEDNN_GELU else "none"
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, fused, [], "none")
    return functional.gelu(found) if gelu and not ONEDNN_GELU else found


def _has_onednn() -> bool:
    # What torch's own compiler calls for Linear on such a CPU.
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def shape_of(model: torch.nn.Module) -> BertShape:
    """The shape of one of transformers' models.

    Raises:
        UnsupportedModelError: it is of another architecture, or a variant of this one.
    """
    config: Any = model.config
    name = type(model).__name__
    if name not in FAMILY:
        raise UnsupportedModelError(f"{name} is not of the BERT family")
    if config.hidden_act != "gelu":
        raise UnsupportedModelError(f"its activation is {config.hidden_act}, not gelu")
    if config.is_decoder or getattr(config, "add_cross_attention", False):
        raise UnsupportedModelError("it is a decoder")
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise UnsupportedModelError(f"its positions are {config.position_embedding_type}")
    return BertShape(
        config.num_hidden_layers,
        config.num_attention_heads,
        config.layer_norm_eps,
        int(config.pad_token_id) if FAMILY[name] else None,
    )


def weight_names(shape: BertShape) -> set[str]:
    """What transformers calls the weights of a BERT, but for its pooler's."""
    norm = "embeddings.LayerNorm"
    tables = {f"embeddings.{each}_embeddings.weight" for each in ("word", "position", "token_type")}
    parts = (
        *(f"attention.self.{each}" for each in ("query", "key", "value")),
        *("attention.output.dense", "attention.output.LayerNorm"),
        *("intermediate.dense", "output.dense", "output.LayerNorm"),
    )
    named = [norm, *(f"encoder.layer.{layer}.{part}" for layer in range(shape.layers) for part in parts)]
    return tables | {f"{name}.{kind}" for name in named for kind in ("weight", "bias")}
