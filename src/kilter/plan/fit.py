"""What fits: the largest micro-batch and rollout, and where a stage is too large, the cheapest change that mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kilter.plan import memory
from kilter.plan.stages import ROWS, Planned

SPARE = 0.05
"""Share of the memory left to fragmentation and small tensors that the plan does not count."""
LEAST_ANSWER = 16
"""Answers are never planned shorter than this."""


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
    rows = -(-p.rows_per_update // (p.compared if p.pairs else 1))

    def good(n: int) -> bool:
        found = p.changed(micro_tokens=n * p.unit).phases()
        return all(x.total <= room(budget) for phase, x in found.items() if phase != "rollout")

    return largest(1, rows, good) * p.unit


def largest_rollout(p: Planned, budget: float) -> int:
    """The most rows that can be decoded at once; 0 for none, or where nothing is drawn."""
    r = p.sampled()
    if r is None:
        return 0
    roles, s = p.roles, p.settings

    def good(n: int) -> bool:
        rows = replace(r, rows=n, lanes=min(r.lanes, n), total=max(n, r.total))
        return memory.rollout(roles, s, rows).total <= room(budget)

    return largest(1, ROWS["cuda" if p.cuda else "cpu"], good)


# --- changes, the cheapest first --------------------------------------------------------------------------------------

Change = dict[str, Any]


def _smaller_micro(p: Planned, budget: float) -> Change:
    if not p.trains:
        return {}
    now, best = p.config.micro_tokens, largest_micro(p, budget) or p.unit
    return {"micro_tokens": best} if best < now and p.changed(micro_tokens=best).micro() != p.micro() else {}


def _checkpointing(p: Planned, budget: float) -> Change:
    return {"checkpointing": True} if p.trains and not p.config.checkpointing else {}


def _adamw8bit(p: Planned, budget: float) -> Change:
    return {"optimizer": "adamw8bit"} if p.trains and p.config.optimizer == "adamw" else {}


def _lora(p: Planned, budget: float) -> Change:
    if not p.trains or getattr(p.config, "scratch", False) or 0 < p.config.lora_rank <= 16:
        return {}
    return {"lora_rank": 16}


def _nf4(p: Planned, budget: float) -> Change:
    ready = p.trains and p.config.lora_rank and p.config.quantize == "none" and p.config.dtype != "float64"
    return {"quantize": "nf4"} if ready else {}


def _fewer_rows(p: Planned, budget: float) -> Change:
    """Fewer prompts in a round (or part), so that all its answers can be drawn together."""
    r, name = p.sampled(), "batch" if p.trains else "part"
    if r is None or not hasattr(p.config, name):
        return {}
    rows = max(largest_rollout(p, budget), 1)
    fewer = max(1, rows // r.lanes)
    return {name: fewer} if fewer < getattr(p.config, name) and fewer * r.lanes < r.rows else {}


def _shorter(p: Planned, budget: float) -> Change:
    """Shorter answers, halved until they fit."""
    if p.sampled() is None:
        return {}
    length = int(p.config.max_new)
    while length > LEAST_ANSWER and not fits(p.changed(max_new=length), budget):
        length = max(LEAST_ANSWER, length // 2)
    return {"max_new": length} if length < p.config.max_new else {}


MOVES = (_smaller_micro, _checkpointing, _adamw8bit, _lora, _nf4, _fewer_rows, _shorter)
"""In the order of their price: time first, then a coarser optimiser, then what learns, then what is sampled."""


def cheapest(p: Planned, budget: float) -> Change | None:
    """The fields to change so that a stage fits; empty where it does, None where no change that is known is enough.

    Changes are added in the order of their price until the stage fits; then each that has turned out to be needless is
    taken back, the dearest first, and what is left of the micro-batch is made as large as it can be.
    """
    if fits(p, budget):
        return {}
    chosen: list[Change] = []
    for move in MOVES:
        change = move(_with(p, chosen), budget)
        if change:
            chosen.append(change)
            if fits(_with(p, chosen), budget):
                return _pruned(p, chosen, budget)
    return None


def _with(p: Planned, changes: list[Change]) -> Planned:
    merged = {k: v for change in changes for k, v in change.items()}
    return p.changed(**merged) if merged else p


def _pruned(p: Planned, chosen: list[Change], budget: float) -> Change:
    for change in list(reversed(chosen)):
        rest = [c for c in chosen if c is not change]
        if "lora_rank" in change and any("quantize" in c for c in rest):
            continue
        if fits(_with(p, rest), budget):
            chosen = rest
    merged = {k: v for change in chosen for k, v in change.items()}
    if "micro_tokens" in merged:
        merged["micro_tokens"] = largest_micro(p.changed(**merged), budget)
    return merged
