"""The forward pass of BERT and its RoBERTa relatives over packed passages, written for speed.

    body = PackedBert.of(transformers_model, torch.bfloat16, grouped)
    body(body.packed(batch))  # hidden states, shape (tokens, hidden size)

transformers' own modules want padding, or a mask over all passages at once. Here nothing is padded, the three
projections of attention are one product, and on a CPU the weights lie as oneDNN wants them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from consumer.attention import Attention
from consumer.packed import Packed

__all__ = ["PackedBert", "UnsupportedModelError"]

# transformers' classes with one and the same layer, and whether positions count from the padding's id.
FAMILY = {"BertModel": False, "RobertaModel": True, "XLMRobertaModel": True, "CamembertModel": True}
# What oneDNN lays the weights out for; other numbers of tokens work as well.
USUAL_TOKENS = 2048
# With AVX2 alone, oneDNN's GELU takes three times as long as torch's: a twentieth of the whole pass.
ONEDNN_GELU = "AVX512" in torch.backends.cpu.get_cpu_capability()

Dense: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, bool], torch.Tensor]


class UnsupportedModelError(Exception):
    """The packed forward pass does not know this model; says why in a few words."""


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
        cls, model: torch.nn.Module, dtype: torch.dtype, attention: Attention, *, compiled: bool = False
    ) -> PackedBert:
        """Takes the weights of one of transformers' models, on the device where they are.

        Args:
            model: in fp32, as loaded.
            dtype: what the matrix products are computed in.
            attention: the kernel.
            compiled: lets torch fuse what lies between two attentions; it does so when first called.

        Raises:
            UnsupportedModelError: the model is of another architecture, or a variant of this one.
        """
        config: Any = model.config
        _check(model, config)
        embeddings: Any = model.embeddings
        kept = torch.float16 if dtype == torch.float16 else torch.float32
        device: torch.device = embeddings.word_embeddings.weight.device
        # The compiler can't look into weights that lie as oneDNN wants them, and few have fp16.
        onednn = device.type == "cpu" and not compiled and dtype != torch.float16 and _has_onednn()

        def laid_out(*linears: torch.nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
            weight = torch.cat([each.weight for each in linears]).to(dtype)
            bias = torch.cat([each.bias for each in linears]).to(dtype)
            if onednn:
                weight = torch.ops.mkldnn._reorder_linear_weight(weight, USUAL_TOKENS)
            return weight, bias

        def norm(module: Any) -> _Norm:
            return _Norm(module.weight.to(kept), module.bias.to(kept), module.eps)

        with torch.no_grad():
            layers = [
                _Layer(
                    laid_out(each.attention.self.query, each.attention.self.key, each.attention.self.value),
                    laid_out(each.attention.output.dense),
                    norm(each.attention.output.LayerNorm),
                    laid_out(each.intermediate.dense),
                    laid_out(each.output.dense),
                    norm(each.output.LayerNorm),
                )
                for each in model.encoder.layer  # type: ignore[union-attr]
            ]
            # Every passage is of token type 0: its embedding goes into the positions.
            positions = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
            words = embeddings.word_embeddings.weight.detach()
            return cls(
                (words.to(kept), positions.to(kept)),
                norm(embeddings.LayerNorm),
                layers,
                config.num_attention_heads,
                dtype,
                attention,
                _onednn_dense if onednn else _plain_dense,
                int(config.pad_token_id) if FAMILY[type(model).__name__] else None,
                compiled=compiled,
            )

    def packed(self, batch: Sequence[NDArray[np.int32]]) -> Packed:
        """Packs passages as this model wants them, on its device; see `Packed.of`."""
        return Packed.of(batch, self._words.device, len(self._words), self._padding_id)

    def __call__(self, packed: Packed) -> torch.Tensor:
        """The last hidden states.

        Returns:
            Shape (tokens, hidden size), float16 or float32.
        """
        hidden = functional.embedding(packed.ids, self._words)
        hidden = self._norm(hidden + functional.embedding(packed.positions, self._positions))
        for layer in self._layers:
            qkv = self._dense(hidden.to(self._dtype), *layer.qkv, False)
            attended = self._attention(qkv.view(len(qkv), 3, self._heads, -1), packed)
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


def _check(model: torch.nn.Module, config: Any) -> None:
    name = type(model).__name__
    if name not in FAMILY:
        raise UnsupportedModelError(f"{name} is not of the BERT family")
    if config.hidden_act != "gelu":
        raise UnsupportedModelError(f"its activation is {config.hidden_act}, not gelu")
    if config.is_decoder or getattr(config, "add_cross_attention", False):
        raise UnsupportedModelError("it is a decoder")
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise UnsupportedModelError(f"its positions are {config.position_embedding_type}")
