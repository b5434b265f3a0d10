"""Floating-point operations of a stage's round, and how many a second this machine does.

Of a token: 2N forward, twice that backward where every weight learns, once where only adapters do, and a forward again
with checkpointing. N counts matrix products; the head's counts only where it is read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from kilter.plan.memory import Role
from kilter.plan.shapes import Shape
from kilter.plan.stages import Planned


@dataclass(frozen=True)
class Tokens:
    """Mean tokens of one optimiser step and of one round."""

    update: float
    update_read: float
    round: float
    """Tokens that train in a round, counted once."""
    drawn: float
    """Answer tokens sampled in a round, at most."""


def tokens(p: Planned) -> Tokens:
    """What a step and a round go through."""
    lengths, rows = p.lengths, p.rows_per_update
    if p.packed:
        one, read = float(p.row_tokens), p.row_tokens * lengths.trained
    else:
        one, read = lengths.mean_prompt + lengths.mean_answer, lengths.mean_answer
    passes = getattr(p.config, "ppo_epochs", 0) or getattr(p.config, "passes", 0) or 1
    whole = rows * p.updates_per_round / passes if p.online else rows
    drawn = p.config.batch * getattr(p.config, "answers", 1) * lengths.mean_answer if p.online else 0.0
    return Tokens(rows * one, rows * read, whole * one, drawn)


def forward(shape: Shape, count: float, read: float, row: float) -> float:
    """Operations of a forward pass: linear layers, causal attention, the head where it is read."""
    linear = 2.0 * count * shape.layers * shape.block_linear
    attention = 2.0 * count * shape.layers * shape.queries * row
    return linear + attention + 2.0 * read * shape.vocabulary * shape.width


def training(p: Planned, role: Role, count: float, read: float, row: float) -> float:
    """Forward and backward of a role that learns."""
    s = p.settings
    once = forward(role.shape, count, read if role.kind == "causal" else 0.0, row)
    share = s.learning(role.shape) / role.shape.layers
    backward = 1.0 if s.lora_rank else 2.0
    return once * (1.0 + share * (backward + (1.0 if s.checkpointing else 0.0)))


def per_round(p: Planned) -> dict[str, float]:
    """Operations of one round: sampling, scoring without a gradient, training."""
    if not p.trains:
        return {}
    t, roles = tokens(p), p.roles
    row = float(p.row_tokens) if p.packed else p.lengths.mean_prompt + p.lengths.mean_answer
    share = t.update_read / t.update if t.update else 0.0
    found = {
        "train": sum(p.updates_per_round * training(p, r, t.update, t.update_read, row) for r in roles if r.learns)
    }
    if p.online:
        shape = roles[0].shape
        prompts = p.config.batch * p.lengths.mean_prompt
        found["sample"] = forward(shape, prompts + t.drawn, t.drawn, row)
        found["score"] = sum(
            forward(r.shape, t.round, share * t.round if r.kind == "causal" else 0.0, row) for r in roles
        )
    elif "reference" in p.needs:
        reference = next(r for r in roles if r.name == "reference")
        found["score"] = forward(reference.shape, t.round, share * t.round, row)
    return found


def probe(cuda: bool, dtype: str, seconds: float = 0.3) -> float:
    """Operations a second of a square matrix product, the best of a few tries."""
    import torch

    from kilter.models.load import DTYPES

    device, n = ("cuda", 4096) if cuda else ("cpu", 768)
    a = torch.randn(n, n, device=device).to(DTYPES[dtype])
    best, began = 0.0, time.perf_counter()
    while True:
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        now = time.perf_counter()
        best = max(best, 2.0 * n**3 / (now - start))
        if now - began > seconds:
            return best
