"""A Llama-shaped trunk's weights laid out for decoding on a processor, and the parts of a step over them.

The same function as `models.lean` in fewer and cheaper operations. What a normalisation multiplies by and the scale of
queries stand in the matrices that read them; adapters are added in; the two halves of a head stand side by side, so
that turning it is one complex product; results go where they are wanted. It is a copy: made anew for every rollout.
n rows or tokens, d model width, H query heads, G key heads, r query heads per key head, D head width.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilter.models.lean import Shape
from kilter.models.lora import LoraLinear, current_role

BLOCKED = 1 << 18
"""Entries of a matrix from which oneDNN's own blocked layout of it pays for its slower call."""


def product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a @ b for batches of small matrices.

    On one thread numpy's loop over a batch costs a fraction of a microsecond per matrix and takes strides as they are.
    """
    if out.device.type == "cpu" and out.dtype in (torch.float32, torch.float64) and torch.get_num_threads() == 1:
        np.matmul(a.numpy(), b.numpy(), out=out.numpy())
    else:
        torch.matmul(a, b, out=out)


class Product:
    """x ↦ x Wᵀ + b, with W laid out once for many calls."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, rows: int = 64) -> None:
        self.outputs, self.bias = len(weight), bias
        self.blocked = _blocked(weight, rows) if weight.numel() >= BLOCKED else None
        self.weight = weight.t().contiguous() if self.blocked is None else self.blocked

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Into `out` where it is of use."""
        if self.blocked is not None:
            found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.blocked, self.bias, "none", [], "")
            return found
        if self.bias is not None:
            return torch.addmm(self.bias, x, self.weight, out=out)
        return torch.mm(x, self.weight, out=out)

    def onto(self, h: Tensor, x: Tensor) -> None:
        """Add to `h` in place."""
        if self.blocked is None and self.bias is None:
            h.addmm_(x, self.weight)
        else:
            h.add_(self(x))


def _blocked(weight: Tensor, rows: int) -> Tensor | None:
    """The weight in oneDNN's layout, where there is oneDNN."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return None
    try:
        blocked: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), rows)
        torch.ops.mkldnn._linear_pointwise(weight.new_zeros(1, weight.shape[1]), blocked, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return blocked


class Packed:
    """A layer's matrices."""

    def __init__(self, layer: Any, shape: Shape, rows: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        before, after = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        root = math.sqrt(len(before))
        (q, q_bias), (k, k_bias), (v, v_bias) = (_plain(getattr(attention, f"{n}_proj")) for n in "qkv")
        self.head_norm: Tensor | None = None
        self.little = little(shape.width, shape.eps, before)
        scaling = shape.scaling
        if hasattr(attention, "q_norm"):
            scales = [attention.q_norm.weight * scaling] * shape.heads + [attention.k_norm.weight] * shape.key_heads
            self.head_norm = _paired(torch.cat(scales) * math.sqrt(shape.width), shape).view(-1, shape.width)
            scaling = 1.0
        qkv = torch.cat([_paired(q * scaling, shape), _paired(k, shape), v]) * (before * root)
        biases = [_paired(q_bias * scaling, shape), _paired(k_bias, shape), v_bias] if q_bias is not None else None
        self.qkv = Product(qkv, None if biases is None else torch.cat(biases), rows)
        self.out = Product(*_plain(attention.o_proj), rows)
        (gate, gate_bias), (up, up_bias) = _plain(mlp.gate_proj), _plain(mlp.up_proj)
        self.gate, self.up = (
            Product(gate * (after * root), gate_bias, rows),
            Product(up * (after * root), up_bias, rows),
        )
        self.down = Product(*_plain(mlp.down_proj), rows)


def pack(trunk: Any, shape: Shape, rows: int) -> list[Packed] | None:
    """The layers' matrices; None where a layer is no plain or adapted one, or the trunk is not on a processor."""
    weight = trunk.norm.weight
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
        return None
    for layer in trunk.layers:
        attention, mlp = layer.self_attn, layer.mlp
        linears = [getattr(attention, f"{n}_proj") for n in "qkvo"] + [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        if any(type(m.base if isinstance(m, LoraLinear) else m) is not nn.Linear for m in linears):
            return None
        if (
            len(
                {getattr(attention, f"{n}_proj").in_features for n in "qkv" if hasattr(attention.q_proj, "in_features")}
            )
            > 1
        ):
            return None
    with torch.no_grad():
        return [Packed(layer, shape, rows) for layer in trunk.layers]


def _plain(layer: Any) -> tuple[Tensor, Any]:
    """A layer's weight and bias, with what the current role's adapters add."""
    base: Any = layer.base if isinstance(layer, LoraLinear) else layer
    weight: Tensor = base.weight.detach()
    for adapter in layer.stack(current_role()) if isinstance(layer, LoraLinear) else ():
        weight = weight + adapter.product().to(weight.dtype)
    return weight, None if base.bias is None else base.bias.detach()


def _paired(weight: Tensor, shape: Shape) -> Tensor:
    """Entry i of a head's first half next to entry i of its second."""
    halves = weight.view(-1, 2, shape.width // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def turns(cos: Tensor, sin: Tensor) -> Tensor:
    """cos + i sin per position and pair, from `lean.rotation`'s."""
    half = cos.shape[-1] // 2
    return torch.complex(cos[:, 0, half:], sin[:, 0, half:])


def normal(x: Tensor, little: Tensor, out: Tensor | None = None) -> Tensor:
    """x / √(Σ x² + d eps), `little` being √(d eps): a normalisation whose weight and √d are in the next matrix."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    normal_x: Tensor = torch.div(x, size.hypot_(little), out=out)
    return normal_x


def little(width: int, eps: float, like: Tensor) -> Tensor:
    """√(d eps)."""
    return like.new_tensor(math.sqrt(width * eps))


def heads_of(packed: Packed, shape: Shape, x: Tensor, turn: Tensor, out: Tensor | None = None) -> tuple[Tensor, ...]:
    """Turned and scaled queries [n, H, D]; turned keys and then plain values [n, 2G, D]."""
    heads = packed.qkv(x, out).view(len(x), -1, shape.width)
    turning = heads[:, : shape.heads + shape.key_heads]
    if packed.head_norm is not None:
        normal(turning, packed.little, turning).mul_(packed.head_norm)
    torch.view_as_complex(turning.unflatten(-1, (-1, 2))).mul_(turn)
    return heads[:, : shape.heads], heads[:, shape.heads :]


def feed(packed: Packed, h: Tensor, x: Tensor) -> None:
    """h += down(silu(gate x) · up x)."""
    packed.down.onto(h, F.silu(packed.gate(x), inplace=True).mul_(packed.up(x)))
