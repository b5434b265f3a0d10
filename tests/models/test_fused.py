"""The fused halves of a block give what the plain functions give, gradients included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilter.models import fused, layout, lean
from kilter.models.layout import Plan, lay_out

BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-5}
WIDTH, HEADS, KEYS, D = 24, 4, 2, 6
SHAPE = lean.Shape(HEADS, KEYS, D, 1e-5, 0.4)


def drawn(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*size, dtype=dtype).requires_grad_()


def alike(fast: Callable[[], Any], plain: Callable[[], Any], inputs: list[Tensor], bound: float) -> None:
    """Equal values, and equal gradients of a random weighting of them."""
    found, wanted = (x if isinstance(x, tuple) else (x,) for x in (fast(), plain()))
    weights = [torch.randn_like(w) for w in wanted]
    grads = [
        torch.autograd.grad(sum((a * w).sum() for a, w in zip(x, weights, strict=True)), inputs)
        for x in (found, wanted)
    ]
    for a, b in zip((*found, *grads[0]), (*wanted, *grads[1]), strict=True):
        assert (a - b).abs().max() <= bound * max(1.0, float(b.detach().abs().max()))


def forest(dtype: torch.dtype = torch.float64, reads: bool = False) -> tuple[Plan, Tensor, Tensor, np.ndarray]:
    """Two prompts with answers and a row alone; queries of all tokens, or of some, and keys with values."""
    words = lambda n, start: list(range(start, start + n))  # noqa: E731
    a, b = words(9, 0), words(4, 20)
    rows = [a + words(3, 40), a + words(7, 50), a + words(1, 60), b + words(5, 70), b + words(2, 80), words(11, 90)]
    tree = lay_out(rows, [9, 9, 9, 4, 4, 5])
    read = np.array([0, 8, 9, 12, 13, 20, len(tree.ids) - 1]) if reads else np.arange(len(tree.ids))
    plan = tree.plan(read if reads else None, torch.device("cpu"))
    return plan, drawn(len(read), HEADS, D, dtype=dtype), drawn(len(tree.ids), 2 * KEYS, D, dtype=dtype), read


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize(("tile", "block", "kept"), [(1 << 18, 128, 20), (40, 3, 20), (40, 4, 0), (1 << 18, 128, 1)])
def test_attention_by_tiles_is_attention(
    dtype: torch.dtype, reads: bool, tile: int, block: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a tile holds, and whether its weights are kept for the gradient or worked out again."""
    layout._lay_out.cache_clear()
    monkeypatch.setattr(fused, "TILE", tile)
    monkeypatch.setattr(layout, "BLOCK", block)
    monkeypatch.setattr(fused, "KEPT_KEYS", kept)
    plan, q, kv, _ = forest(dtype, reads)
    plain = lambda: lean.attend(q, kv[:, :KEYS], kv[:, KEYS:], plan, lean.Shape(HEADS, KEYS, D, 1e-5, 1.0))  # noqa: E731
    alike(lambda: fused.Attend.apply(q, kv, plan), plain, [q, kv], BOUNDS[dtype])
    layout._lay_out.cache_clear()


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("some", [False, True])
def test_entering_is_norm_projection_and_rotation(dtype: torch.dtype, biased: bool, some: bool) -> None:
    h, scale = drawn(10, WIDTH, dtype=dtype), drawn(WIDTH, dtype=dtype)
    weights = [drawn(n * D, WIDTH, dtype=dtype) for n in (HEADS, KEYS, KEYS)]
    biases = [drawn(n * D, dtype=dtype) if biased else None for n in (HEADS, KEYS, KEYS)]
    angle = torch.rand(10, 1, D // 2, dtype=dtype).repeat(1, 1, 2)
    sign = torch.tensor([-1.0] * (D // 2) + [1.0] * (D // 2), dtype=dtype)
    cos, sin = angle.cos(), angle.sin() * sign
    at = torch.tensor([1, 4, 9]) if some else None
    turns = ((cos, sin), (cos * 0.4, sin * 0.4) if at is None else (cos[at] * 0.4, sin[at] * 0.4))

    def plain() -> tuple[Tensor, Tensor]:
        x = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5) * scale
        q, k, v = (F.linear(x, w, b).unflatten(-1, (-1, D)) for w, b in zip(weights, biases, strict=True))
        q, k = (t * cos + t.roll(D // 2, -1) * sin for t in (q, k))
        return (q if at is None else q[at]) * 0.4, torch.cat((k, v), 1)

    inputs = [h, scale, *weights, *(b for b in biases if b is not None)]
    fast = lambda: fused.Enter.apply(h, scale, *weights, *biases, 1e-5, D, *turns, at)  # noqa: E731
    alike(fast, plain, inputs, BOUNDS[dtype])


@pytest.mark.parametrize("dtype", BOUNDS)
def test_feeding_is_norm_gate_and_way_back(dtype: torch.dtype) -> None:
    h, scale, gate, up = (drawn(*n, dtype=dtype) for n in ((10, WIDTH), (WIDTH,), (40, WIDTH), (40, WIDTH)))
    down = drawn(WIDTH, 40, dtype=dtype)

    def plain() -> Tensor:
        x = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5) * scale
        return h + F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)

    fast = lambda: fused.Feed.apply(h, scale, gate, up, down, 1e-5)  # noqa: E731
    alike(fast, plain, [h, scale, gate, up, down], BOUNDS[dtype])


def test_frozen_weights_get_no_gradient_and_a_second_backward_gives_the_same() -> None:
    h, scale = drawn(10, WIDTH), torch.ones(WIDTH, dtype=torch.float64)
    gate, up, down = (torch.randn(*n, dtype=torch.float64) for n in ((40, WIDTH), (40, WIDTH), (WIDTH, 40)))
    out = fused.Feed.apply(h, scale, gate, up, down, 1e-5)
    once, again = (torch.autograd.grad(out.sum(), h, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, again)
    plan, q, kv, _ = forest()
    mixed = fused.Attend.apply(q, kv, plan).square().sum()
    assert torch.equal(*(torch.autograd.grad(mixed, kv, retain_graph=True)[0] for _ in range(2)))


def test_only_plain_layers_are_taken() -> None:
    class Other(nn.Linear):
        pass

    assert fused.plain(nn.Linear(2, 2), nn.Linear(2, 2))
    assert not fused.plain(nn.Linear(2, 2), Other(2, 2))
    assert fused.whole(torch.zeros(1))
    assert not fused.whole(torch.zeros(1, dtype=torch.bfloat16))
