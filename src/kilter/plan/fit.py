"""What fits: the largest micro-batch and rollout, and where a stage is too large, the cheapest change that mends it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import inf, log2
from typing import Any

from kilter.errors import KilterError
from kilter.plan import memory
from kilter.plan.stages import ROWS, Planned

SPARE = 0.05
"""Share of the memory left to fragmentation and small tensors that the plan does not count."""
LEAST_ANSWER = 16
"""Answers are never planned shorter than this."""

Change = dict[str, Any]


def room(budget: float) -> float:
    """What of a memory may be planned for."""
    return budget * (1 - SPARE)


def fits(p: Planned, budget: float) -> bool:
    """Whether a stage's peak stays within a memory."""
    return p.peak()[1].total <= room(budget)


def largest(low: int, high: int, good: Callable[[int], bool]) -> int:
    """The largest number from `low` to `high` that is good, when all below a good one are; 0 where none is."""
    if not good(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if good(middle) else (low, middle - 1)
    return low


def largest_micro(p: Planned, budget: float) -> int:
    """The largest `micro_tokens` whose updates and scores fit, never more than a whole step needs; 0 for none."""
    if not p.trains:
        return 0

    def good(n: int) -> bool:
        found = p.changed(micro_tokens=n * p.unit).phases()
        return all(x.total <= room(budget) for phase, x in found.items() if phase != "rollout")

    return largest(1, p.units_per_update, good) * p.unit


def largest_rollout(p: Planned, budget: float) -> int:
    """The most rows that can be decoded at once, never more than are drawn; 0 for none, or where nothing is drawn."""
    r = p.sampled()
    if r is None:
        return 0
    roles, s = p.roles, p.settings
    good = lambda n: memory.rollout(roles, s, r.at_once(n)).total <= room(budget)  # noqa: E731
    return largest(1, min(r.total, ROWS["cuda" if p.cuda else "cpu"]), good)


# --- changes ----------------------------------------------------------------------------------------------------------


def _checkpointing(p: Planned) -> Change:
    return {"checkpointing": True} if p.trains and not p.config.checkpointing else {}


def _bfloat16(p: Planned) -> Change:
    return {"dtype": "bfloat16"} if p.trains and p.cuda and p.config.dtype == "float32" else {}


def _adamw8bit(p: Planned) -> Change:
    return {"optimizer": "adamw8bit"} if p.trains and p.config.optimizer == "adamw" else {}


def _nf4(p: Planned) -> Change:
    ready = p.trains and p.config.lora_rank and p.config.quantize == "none" and p.config.dtype != "float64"
    return {"quantize": "nf4"} if ready else {}


def _lora(p: Planned) -> Change:
    ready = p.trains and not p.config.lora_rank and not getattr(p.config, "scratch", False)
    return {"lora_rank": 16} if ready else {}


def _top_layers(p: Planned) -> Change:
    if not p.trains or p.config.train_layers or getattr(p.config, "scratch", False):
        return {}
    return {"train_layers": max(1, p.roles[0].shape.layers // 4)}


def _fewer_prompts(p: Planned) -> Change:
    """Of a room, which has no setting for the rows that are decoded together."""
    r = p.sampled()
    return {"part": 1} if r and not p.trains and getattr(p.config, "part", 1) > 1 else {}


def _shorter(p: Planned) -> Change:
    now = int(getattr(p.config, "max_new", 0)) if p.sampled() else 0
    return {"max_new": max(LEAST_ANSWER, now // 2)} if now > LEAST_ANSWER else {}


MOVES: tuple[tuple[int, Callable[[Planned], Change]], ...] = (
    (2, _checkpointing),
    (3, _bfloat16),
    (4, _adamw8bit),
    (5, _nf4),
    (12, _lora),
    (13, _top_layers),
    (25, _fewer_prompts),
    (30, _shorter),
)
"""Prices: time first, then a coarser arithmetic, then what learns, then what is sampled. A smaller
micro-batch or rollout, which changes no result, is free until it costs time, and made as large as the rest allows."""
AT_EASE = 16
"""Rows that are decoded together without much loss of speed."""
HALVING = 3
"""The price of each halving of them below that: a rollout takes twice as long."""


def cheapest(p: Planned, budget: float) -> Change | None:
    """The fields to change so that a stage fits; empty where it does, None where no change that is known is enough."""
    if fits(p, budget):
        return {}
    every = [(sum(price for price, _ in m), m) for n in range(len(MOVES) + 1) for m in combinations(MOVES, n)]
    best: tuple[float, Change | None] = (inf, None)
    for price, moves in sorted(every, key=lambda e: (e[0], len(e[1]))):
        if price >= best[0]:
            break
        made = _made(p, moves)
        change = None if made is None else _sized(p, made, budget)
        if change is not None:
            rows = change.get("rollout_rows", AT_EASE)
            best = min(best, (price + HALVING * max(0.0, log2(AT_EASE / rows)), change), key=lambda b: b[0])
    return best[1]


def _made(p: Planned, moves: tuple[tuple[int, Callable[[Planned], Change]], ...]) -> Change | None:
    """All of these changes together, LoRA before what needs it; None where one is none or can't be."""
    found: Change = {}
    for _, move in sorted(moves, key=lambda m: m[1] is not _lora):
        change = move(_with(p, found))
        if not change:
            return None
        found |= change
    return found


def _with(p: Planned, change: Change) -> Planned:
    return p.changed(**change) if change else p


def _sized(p: Planned, change: Change, budget: float) -> Change | None:
    """The change with a micro-batch and a rollout that fit, where it needs smaller ones; None where none fits."""
    try:
        made = _with(p, change)
    except (KilterError, ValueError):  # fields that refuse each other
        return None
    found = dict(change)
    if made.trains:
        most = largest_micro(made, budget)
        if not most:
            return None
        if made.micro().tokens > made.changed(micro_tokens=most).micro().tokens:
            found["micro_tokens"] = most
    r = made.sampled()
    if r and made.trains:
        rows = largest_rollout(made, budget)
        if not rows:
            return None
        if rows < r.rows:
            found["rollout_rows"] = rows
    return found if fits(_with(p, found), budget) else None
