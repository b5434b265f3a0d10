"""log p of given tokens from hidden states, by tiles of the vocabulary head: full logits are never kept.

M positions, d width, V vocabulary. With z = W h / τ:  log p = z_t - log Σ exp z,  ∂ log p / ∂z = onehot(t) - p.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TILE_BYTES = 32 << 20
"""Logits in one tile."""
KEEP_BYTES = 16 << 20
"""Probabilities of all positions are kept for the gradient when they are no larger; else a tile is computed twice."""


def token_logps(
    model: Any, h_Md: Tensor, targets_M: Tensor, temperature: float = 1.0, entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """log p(target) and, when asked for, entropy at selected positions; statistics in float32 or wider."""
    head = model.get_output_embeddings()
    scale = scale_of(model) / temperature
    softcap = getattr(model.config, "final_logit_softcapping", None)
    if softcap or type(head) is not torch.nn.Linear:
        return _plain(head, h_Md, targets_M, scale_of(model), softcap, temperature, entropy)
    logps, entropies = _Head.apply(h_Md, head.weight, head.bias, targets_M, scale, entropy)
    return logps, entropies


def scale_of(model: Any) -> float:
    """What a family multiplies its logits by."""
    scale: float = getattr(model.config, "logit_scale", None) or 1.0
    return scale / (getattr(model.config, "logits_scaling", None) or 1.0)


def rows_per_tile(vocabulary: int) -> int:
    """Positions in one tile."""
    return max(16, TILE_BYTES // (4 * vocabulary))


class _Head(torch.autograd.Function):
    """The log-probabilities and their gradient, a tile at a time."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float, entropy: bool
    ) -> tuple[Tensor, Tensor]:
        wide = h.dtype if h.dtype == torch.float64 else torch.float32
        rows = rows_per_tile(len(weight))
        needed = any(ctx.needs_input_grad[:3])
        keep = needed and len(h) * len(weight) * torch.finfo(wide).bits // 8 <= KEEP_BYTES
        logps, entropies, kept = [], [], []
        for part, wanted in zip(h.split(rows), targets.split(rows), strict=True):
            logits = _logits(part, weight, bias, scale, wide)
            p, lse = _softmax(logits)
            logps.append(logits.gather(1, wanted[:, None])[:, 0] - lse)
            entropies.append(lse - (p * logits).sum(-1) if entropy else torch.zeros_like(lse))
            kept += [p] if keep else []
        ctx.save_for_backward(h, weight, bias, targets, *kept)
        ctx.scale, ctx.rows, ctx.wide = scale, rows, wide
        found = torch.cat(entropies)
        ctx.mark_non_differentiable(found)
        return torch.cat(logps), found

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        h, weight, bias, targets, *kept = ctx.saved_tensors
        need_h, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_h = torch.empty_like(h) if need_h else None
        grad_weight = torch.zeros_like(weight, dtype=ctx.wide) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=ctx.wide) if need_bias else None
        begin = 0
        for number, (part, wanted) in enumerate(zip(h.split(ctx.rows), targets.split(ctx.rows), strict=True)):
            p = kept[number] if kept else _softmax(_logits(part, weight, bias, ctx.scale, ctx.wide))[0]
            g = grad[begin : begin + len(part), None] * ctx.scale
            pull = (p * -g).scatter_add_(1, wanted[:, None], g.to(p.dtype))
            near = pull.to(h.dtype)
            if grad_h is not None:
                torch.mm(near, weight, out=grad_h[begin : begin + len(part)])
            if grad_weight is not None:
                grad_weight += near.t() @ part
            if grad_bias is not None:
                grad_bias += pull.sum(0)
            begin += len(part)
        cast = lambda t, like: None if t is None else t.to(like.dtype)  # noqa: E731
        return grad_h, cast(grad_weight, weight), cast(grad_bias, bias), None, None, None


def _logits(h: Tensor, weight: Tensor, bias: Tensor | None, scale: float, wide: torch.dtype) -> Tensor:
    logits = F.linear(h, weight, bias).to(wide)
    return logits.mul_(scale) if scale != 1.0 else logits


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and log Σ exp z, the latter from the largest entry, whose probability is never tiny."""
    p = torch.softmax(logits, -1)
    return p, logits.amax(-1) - p.amax(-1).log()


def _plain(
    head: Any, h: Tensor, targets: Tensor, scale: float, softcap: float | None, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor]:
    """The same by autograd, for heads that cap their logits or are no plain linear layer."""
    rows = rows_per_tile(head.weight.shape[0])
    logps, entropies = [], []
    for part, wanted in zip(h.split(rows), targets.split(rows), strict=True):
        logits = head(part) * scale if scale != 1.0 else head(part)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        log_p = F.log_softmax(logits / temperature if temperature != 1.0 else logits, dim=-1)
        logps.append(log_p.gather(1, wanted[:, None])[:, 0])
        with torch.no_grad():
            entropies.append(-(log_p.exp() * log_p).sum(-1) if entropy else torch.zeros_like(logps[-1]))
    return torch.cat(logps), torch.cat(entropies)
