"""The halves of a plain Llama block as three functions with gradients of their own: fewer kernels, fewer kept tensors.

`Enter` is norm, projections and rotation; `Attend` is attention by tiles of matrix products, for processors; `Feed` is
norm, gated layers and the way back. Each keeps what a gradient can't cheaply work out again. The plain functions of
`models.lean` are their reference, and do the work wherever a layer is no plain one.
M flat tokens, d model width, H query heads, G key heads, D head width, C rows of a group (row b, head h).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kilter.models.layout import Block, Group, Plan

TILE = 1 << 18
"""Attention scores worked on at once, which a core's cache holds."""
KEPT_KEYS = 4
"""Attention is kept for the gradient where a query has at most so many times D keys; else it is worked out again."""


def plain(*layers: Any) -> bool:
    """Whether layers are linear ones without adapters or other numbers."""
    return all(type(layer) is nn.Linear for layer in layers)


def whole(x: Tensor) -> bool:
    """Whether a number type is its own accumulator."""
    return x.dtype in (torch.float32, torch.float64)


def inverse_rms(h: Tensor, eps: float) -> Tensor:
    """1 / rms of every row."""
    length = torch.linalg.vector_norm(h, dim=-1, keepdim=True)
    inverse: Tensor = length.square_().div_(h.shape[-1]).add_(eps).rsqrt_()
    return inverse


def _norm_backward(
    grad_x: Tensor, normal: Tensor, inverse: Tensor, weight: Tensor, need_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of w h / rms(h) with respect to h and w; `grad_x` and `normal` are used up."""
    grad_weight = (grad_x * normal).sum(0) if need_weight else None
    turned = grad_x.mul_(weight)
    along = torch.linalg.vecdot(turned, normal).unsqueeze_(-1).div_(-normal.shape[-1])
    return turned.add_(normal.mul_(along)).mul_(inverse), grad_weight


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.addmm(bias, x, weight.t(), out=out)


def _weight_grad(need: bool, grad: Tensor, x: Tensor) -> Tensor | None:
    return grad.t() @ x if need else None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    rolled = x.roll(x.shape[-1] // 2, -1)
    x.mul_(cos).addcmul_(rolled, sin)


def _turn_back(grad: Tensor, cos: Tensor, sin: Tensor) -> None:
    rolled = (grad * sin).roll(grad.shape[-1] // 2, -1)
    grad.mul_(cos).add_(rolled)


class Enter(torch.autograd.Function):
    """h → rotated and scaled queries [m, H, D] (at the tokens `at` alone, if given), keys and values [M, 2G, D]."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        h: Tensor,
        scale: Tensor,
        wq: Tensor,
        wk: Tensor,
        wv: Tensor,
        bq: Tensor | None,
        bk: Tensor | None,
        bv: Tensor | None,
        eps: float,
        width: int,
        turn: tuple[Tensor, Tensor],
        query_turn: tuple[Tensor, Tensor],
        at: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        inverse = inverse_rms(h, eps)
        x = (h * inverse).mul_(scale)
        here = x if at is None else x[at]
        q = here.new_empty(len(here), len(wq))
        kv = x.new_empty(len(x), 2 * len(wk))
        _product(here, wq, bq, q)
        _product(x, wk, bk, kv[:, : len(wk)])
        _product(x, wv, bv, kv[:, len(wk) :])
        q, kv = q.view(len(q), -1, width), kv.view(len(kv), -1, width)
        _turn(q, *query_turn)
        _turn(kv[:, : kv.shape[1] // 2], *turn)
        ctx.save_for_backward(h, inverse, scale, wq, wk, wv, *turn, *query_turn, *(() if at is None else (at,)))
        return q, kv

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_kv: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        h, inverse, scale, wq, wk, wv, cos, sin, query_cos, query_sin, *at = ctx.saved_tensors
        _, need_scale, need_q, need_k, need_v, need_bq, need_bk, need_bv = ctx.needs_input_grad[:8]
        dq, dkv = grad_q.clone(), grad_kv.clone()
        _turn_back(dq, query_cos, query_sin)
        _turn_back(dkv[:, : dkv.shape[1] // 2], cos, sin)
        dq, dkv = dq.flatten(1), dkv.flatten(1)
        dk, dv = dkv[:, : len(wk)], dkv[:, len(wk) :]
        normal = h * inverse
        x = normal * scale
        grad_x = (dk @ wk).addmm_(dv, wv)
        if at:
            grad_x.index_add_(0, at[0], dq @ wq)
        else:
            grad_x.addmm_(dq, wq)
        here = x[at[0]] if at else x
        grads = (_weight_grad(need_q, dq, here), _weight_grad(need_k, dk, x), _weight_grad(need_v, dv, x))
        biases = tuple(g.sum(0) if need else None for g, need in ((dq, need_bq), (dk, need_bk), (dv, need_bv)))
        grad_h, grad_scale = _norm_backward(grad_x, normal, inverse, scale, need_scale)
        return grad_h, grad_scale, *grads, *biases, None, None, None, None, None


class Feed(torch.autograd.Function):
    """h → h + down(silu(gate x) · up x) with x the norm of h."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, h: Tensor, scale: Tensor, wg: Tensor, wu: Tensor, wd: Tensor, eps: float
    ) -> Tensor:
        inverse = inverse_rms(h, eps)
        x = (h * inverse).mul_(scale)
        a, b = F.linear(x, wg), F.linear(x, wu)
        ctx.save_for_backward(h, inverse, scale, wg, wu, wd, a, b)
        return F.linear(F.silu(a).mul_(b), wd).add_(h)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        h, inverse, scale, wg, wu, wd, a, b = ctx.saved_tensors
        _, need_scale, need_g, need_u, need_d, _ = ctx.needs_input_grad
        inner = grad @ wd
        gated = F.silu(a)
        grad_b = inner * gated
        grad_d = _weight_grad(need_d, grad, gated.mul_(b))
        grad_a = torch.ops.aten.silu_backward(inner.mul_(b), a)
        normal = h * inverse
        x = normal * scale
        grad_g, grad_u = _weight_grad(need_g, grad_a, x), _weight_grad(need_u, grad_b, x)
        grad_x = (grad_a @ wg).addmm_(grad_b, wu)
        grad_h, grad_scale = _norm_backward(grad_x, normal, inverse, scale, need_scale)
        return grad_h.add_(grad), grad_scale, grad_g, grad_u, grad_d, None


class Attend(torch.autograd.Function):
    """Attention of scaled queries [m, H, D] over keys and values [M, 2G, D]: softmax(q k) v, [m, H·D]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, plan: Plan) -> Tensor:  # type: ignore[override]
        heads, pairs, width = q.shape[1], kv.shape[1], q.shape[2]
        need = any(ctx.needs_input_grad[:2])
        out = q.new_empty(sum(g.queries_bq.numel() for g in plan.groups) * heads, width)
        kept: list[Tensor] = []
        begin = 0
        for group in plan.groups:
            queries, keys, values = _gathered(q, kv, group)
            end = begin + queries.shape[0] * queries.shape[1]
            results = out[begin:end].view(queries.shape)
            for rows, block in _tiles(group, heads):
                p = _softmax(queries, keys, rows, block, group, heads)
                torch.bmm(p, values[rows, : block.upto], out=results[rows, block.begin : block.end])
                if need and block.upto <= KEPT_KEYS * width:
                    kept.append(p)
            begin = end
        ctx.save_for_backward(q, kv, *kept)
        ctx.plan, ctx.sizes = plan, (heads, pairs, width)
        return out.index_select(0, plan.rows(heads)).view(len(q), -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        q, kv, *kept = ctx.saved_tensors
        plan, (heads, _, width) = ctx.plan, ctx.sizes
        grads = grad.new_zeros(sum(g.queries_bq.numel() for g in plan.groups) * heads, width)
        grads.index_copy_(0, plan.rows(heads), grad.reshape(-1, width))
        grad_q = torch.empty_like(grads)
        grad_kv = torch.zeros_like(kv).view(-1, width)
        begin, number = 0, 0
        for group in plan.groups:
            queries, keys, values = _gathered(q, kv, group)
            end = begin + queries.shape[0] * queries.shape[1]
            g, dq = grads[begin:end].view(queries.shape), grad_q[begin:end].view(queries.shape)
            dkv = keys.new_zeros(2, *keys.shape)
            dk, dv = dkv
            for rows, block in _tiles(group, heads):
                if block.upto <= KEPT_KEYS * width:
                    p, number = kept[number], number + 1
                else:
                    p = _softmax(queries, keys, rows, block, group, heads)
                here, seen = slice(block.begin, block.end), slice(block.upto)
                dv[rows, seen].baddbmm_(p.transpose(1, 2), g[rows, here])
                dp = torch.bmm(g[rows, here], values[rows, seen].transpose(1, 2))
                ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
                torch.bmm(ds, keys[rows, seen], out=dq[rows, here])
                dk[rows, seen].baddbmm_(ds.transpose(1, 2), queries[rows, here])
            grad_kv.index_add_(0, group.key_rows(heads, kv.shape[1]), dkv.view(-1, width))
            begin = end
        return grad_q.index_select(0, plan.rows(heads)).view(q.shape), grad_kv.view(kv.shape), None


def _gathered(q: Tensor, kv: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """A group's queries [C, q, D], keys and values [C, k, D]."""
    heads, width = q.shape[1:]
    b, wide = group.queries_bq.shape
    queries = q.view(-1, width).index_select(0, group.query_rows(heads)).view(b * heads, wide, width)
    both = kv.view(-1, width).index_select(0, group.key_rows(heads, kv.shape[1])).view(2, b * heads, -1, width)
    return queries, both[0], both[1]


def _tiles(group: Group, heads: int) -> Iterator[tuple[slice, Block]]:
    """Rows and queries that are worked on at once."""
    for block in group.blocks:
        rows = heads * max(1, TILE // (heads * (block.end - block.begin) * block.upto))
        for first in range(0, heads * len(group.queries_bq), rows):
            yield slice(first, first + rows), block


def _softmax(queries: Tensor, keys: Tensor, rows: slice, block: Block, group: Group, heads: int) -> Tensor:
    """Attention of a tile; keys that a query must not see get none."""
    scores = torch.bmm(queries[rows, block.begin : block.end], keys[rows, : block.upto].transpose(1, 2))
    if block.low < block.upto:
        by_row = scores.view(-1, heads, *scores.shape[1:])[..., block.low :]
        hidden = block.hidden_b1qk
        by_row.add_(hidden if len(hidden) == 1 else hidden[rows.start // heads : rows.stop // heads])
    return torch.softmax(scores, -1)
