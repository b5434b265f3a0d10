"""A small set that is good and diverse, in the spirit of LIMA (Zhou et al. 2023, arXiv:2305.11206): quality x distance.

Rows are taken one by one: each time the one with the largest quality^a x (1 - similarity to the nearest row taken so
far), under quotas by source and by category. Similarity only grows as rows are taken, so a row's worth only falls,
and a heap of old worths finds the best row without looking at all of them (lazy greedy, Minoux 1978).
"""

from __future__ import annotations

import functools
import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kilter.data.curate.items import Item, Kept, Outcome, Rows, dropped, key_of
from kilter.data.curate.quality import score
from kilter.data.curate.texts import Field, whole
from kilter.data.curate.vectors import vectors

STEP = "selection"


@dataclass(frozen=True, kw_only=True)
class Config:
    """A good and diverse selection."""

    size: int
    """Rows to take."""
    by: str = ""
    """The score, as for the step `quality`; empty for diversity alone. Rows without it are not taken."""
    power: float = 1.0
    """How much quality counts beside distance; scores are scaled to 0..1 by rank."""
    per_source: int = 0
    """Rows of one source, at most; 0 for no quota."""
    per_category: int = 0
    """Rows of one category, at most; 0 for no quota."""
    field: Field = "prompt"
    """Which texts must differ."""
    embedding: str = "tfidf"
    """`tfidf`, or a sentence-transformers model by name or folder."""
    seed: int = 1
    """Seed of the choice among equals."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.power < 0 or self.per_source < 0 or self.per_category < 0:
            raise ValueError("size must be at least 1; power, per_source and per_category not below 0")


@dataclass(frozen=True)
class Row:
    """What the selection sees of a row."""

    text: str
    score: float | None
    source: str
    category: str
    key: int


def curate(rows: Rows, config: Config, report: dict[str, Any]) -> Iterator[Outcome]:
    """Keep the rows that the greedy selection takes."""
    found = [row for part in rows.map(functools.partial(_rows, config=config)) for row in part]
    taken, why = select(found, config)
    report |= {"taken": len(taken), "asked": config.size, "sources": dict(Counter(found[n].source for n in taken))}
    report["categories"] = dict(Counter(found[n].category for n in taken))
    order = {n: place for place, n in enumerate(taken, 1)}
    for number, item in enumerate(rows):
        if number in order:
            yield Kept(item)
        else:
            yield dropped(item, STEP, why.get(number, "not-taken"), taken=len(taken))


def select(found: Sequence[Row], config: Config) -> tuple[list[int], dict[int, str]]:
    """Numbers of the rows taken, in that order, and the reason of rows that quotas or scores excluded."""
    why = {n: "no-score" for n, r in enumerate(found) if config.by and r.score is None}
    able = [n for n in range(len(found)) if n not in why]
    if not able:
        return [], why
    quality = _ranked([found[n].score or 0.0 for n in able]) ** config.power if config.by else np.ones(len(able))
    unit = vectors([found[n].text for n in able], config.embedding)
    near = np.zeros(len(able))
    heap = [(-float(q), found[n].key, i) for i, (q, n) in enumerate(zip(quality, able, strict=True))]
    heapq.heapify(heap)
    taken: list[int] = []
    used: Counter[tuple[str, str]] = Counter()
    while heap and len(taken) < config.size:
        worth, key, i = heapq.heappop(heap)
        now = -float(quality[i] * max(0.0, 1 - near[i]))
        if now > worth:  # it has fallen since: back with its worth of today
            heapq.heappush(heap, (now, key, i))
            continue
        row = found[able[i]]
        full = _full(row, used, config)
        if full:
            why[able[i]] = full
            continue
        taken.append(able[i])
        used.update([("source", row.source), ("category", row.category)])
        like = unit @ unit[i].T
        near = np.maximum(near, np.asarray(like.todense() if hasattr(like, "todense") else like).ravel())
    return taken, why


def _full(row: Row, used: Counter[tuple[str, str]], config: Config) -> str:
    if config.per_source and used["source", row.source] >= config.per_source:
        return "source-full"
    return "category-full" if config.per_category and used["category", row.category] >= config.per_category else ""


def _ranked(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Scores as ranks in (0, 1], equal scores equal: the unit of the scale plays no part."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts)[inverse]) / len(values)


def _rows(items: list[Item], config: Config) -> list[Row]:
    return [
        Row(
            whole(i, config.field),
            score(i, config.by) if config.by else None,
            i.prompt.source,
            i.prompt.category,
            key_of(config.seed, i.id),
        )
        for i in items
    ]
