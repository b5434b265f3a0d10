"""Frozen weights in four bits: NF4 with double quantisation (Dettmers et al. 2023, arXiv:2305.14314), by bitsandbytes.

A layer of our own around bitsandbytes' operations: theirs repacks its weights when it is first called without a
gradient, and later calls with one then meet a layout that has no backward.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from kilter.errors import RecipeError
from kilter.models.lora import HEADS

BLOCK = 64
"""Weights that share one scale."""


def bitsandbytes(what: str) -> Any:
    """The optional library, or how to get it."""
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise RecipeError(f"{what} needs bitsandbytes, which is not installed: pip install 'kilter[qlora]'") from error


class Linear4bit(nn.Module):
    """W x + b with W in NF4; only what comes in has a gradient."""

    four_bit = True

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        functional = bitsandbytes("quantize: nf4").functional
        self.in_features, self.out_features = layer.in_features, layer.out_features
        packed, self.state = functional.quantize_4bit(
            layer.weight.detach().contiguous(), blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = bitsandbytes("quantize: nf4").matmul_4bit(x, self.weight, quant_state=self.state, bias=self.bias)
        return y

    def dequantised(self) -> Tensor:
        """The weight as it takes part in the product."""
        w: Tensor = bitsandbytes("quantize: nf4").functional.dequantize_4bit(self.weight, self.state)
        return w

    def bytes(self) -> int:
        """Memory of the weight and its scales, which are no parameters."""
        scales = (self.state.absmax, self.state.state2.absmax, self.state.state2.code, self.state.code)
        return sum(t.numel() * t.element_size() for t in (self.weight, *scales))


def quantise(model: Any, device: str) -> Any:
    """Put every linear layer but the heads into four bits, one by one on the device; the rest keeps its number type.

    The weights come in on the CPU, so the device never holds more than one layer of them in full.
    """
    bitsandbytes("quantize: nf4")
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.rpartition(".")[2] not in HEADS]
    if not linear:
        raise RecipeError(f"{type(model).__name__} has no nn.Linear layers to put into four bits; set quantize to none")
    if next(model.parameters()).dtype == torch.float64:
        raise RecipeError("quantize: nf4 computes in float32, bfloat16 or float16; set dtype to one of them")
    for name in linear:  # by name: a list of the layers themselves would keep them all
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, Linear4bit(model.get_submodule(name).to(device)))
    return model.to(device)
