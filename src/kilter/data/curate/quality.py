"""Quality: rows whose score is high enough, or the best share; a score is a rating, an aspect, or a field of `extra`.

A row without the score is dropped or kept by a stated option, never ranked as zero. Where the overall rating and the
mean of the aspects name different best answers, the row carries a note: the two contradict each other often enough
that what was trained on should be known.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from kilter.data.curate.items import Item, Kept, Note, Outcome, Rows, dropped, key_of, noted
from kilter.data.records import Demonstration, Judgment, is_number

STEP = "quality"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Quality by score."""

    by: str
    """Where the score stands: `rating`, `aspect:NAME`, or a path in `extra` such as `extra:judge.score`."""
    least: float | None = None
    """Lowest score that stays."""
    top: float | None = None
    """Or the share of rows with the highest scores; at the edge a hash of the ids decides."""
    answer: Literal["best", "mean", "worst"] = "best"
    """Which of a judgment's answers stands for the row."""
    missing: Literal["drop", "keep"] = "drop"
    """What happens to rows without the score."""
    seed: int = 1
    """Seed of the choice among equal scores."""

    def __post_init__(self) -> None:
        if (self.least is None) == (self.top is None):
            raise ValueError("give either `least`, the lowest score, or `top`, a share of the rows")
        if self.top is not None and not 0 < self.top <= 1:
            raise ValueError(f"top is {self.top}, but must be above 0 and at most 1")
        if self.by != "rating" and not self.by.startswith(("aspect:", "extra:")):
            raise ValueError(f"by is {self.by!r}, but must be rating, aspect:NAME or extra:PATH")


def score(item: Item, by: str, answer: str = "best") -> float | None:
    """A row's score, or None where it has none."""
    kind, _, name = by.partition(":")
    record = item.record
    if kind == "extra":
        return _path(record.extra, name) if _path(record.extra, name) is not None else _path(item.prompt.extra, name)
    values: list[Any] = []
    if isinstance(record, Judgment):
        values = list(record.ratings) if kind == "rating" else [a.get(name) for a in record.aspects]
    elif isinstance(record, Demonstration) and kind == "rating":
        values = [record.extra.get("rating", record.generator.get("reward"))]
    numbers = [float(v) for v in values if is_number(v)]
    if not numbers:
        return None
    return {"best": max(numbers), "worst": min(numbers), "mean": sum(numbers) / len(numbers)}[answer]


def _path(value: Any, path: str) -> float | None:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if is_number(value) else None


def conflict(item: Item) -> dict[str, Any] | None:
    """Where a judgment's ratings and its aspects name different best answers: both, with their numbers."""
    record = item.record
    if not isinstance(record, Judgment) or not record.ratings or not record.aspects:
        return None
    known = [[float(v) for v in a.values() if v is not None and is_number(v)] for a in record.aspects]
    if not all(known):
        return None
    means = [sum(v) / len(v) for v in known]
    best = {i for i, v in enumerate(record.ratings) if v == max(record.ratings)}
    if best & {i for i, v in enumerate(means) if v == max(means)}:
        return None
    return {"ratings": list(record.ratings), "aspect_means": [round(m, 3) for m in means]}


def curate(rows: Rows, config: Config, report: dict[str, Any]) -> Iterator[Outcome]:
    """Keep rows at or above the lowest score, or the best share of those that have one."""
    least, edge = config.least, 0
    if config.top is not None:
        found = [pair for part in rows.map(functools.partial(_scores, config=config)) for pair in part if pair]
        ranked = sorted(found, key=lambda pair: (-pair[0], pair[1]))
        count = round(config.top * len(ranked))
        least, edge = ranked[count - 1] if count else (float("inf"), 0)
    report |= {"by": config.by, "least": least}
    conflicts = 0
    for item in rows:
        value, contrary = score(item, config.by, config.answer), conflict(item)
        conflicts += contrary is not None
        report["conflicts"] = conflicts
        notes: tuple[Note, ...] = (noted(item, STEP, "conflict", **contrary),) if contrary else ()
        if value is None and config.missing == "drop":
            yield dropped(item, STEP, "no-score", by=config.by)
        elif value is None:
            yield Kept(item, (*notes, noted(item, STEP, "no-score", by=config.by)))
        elif least is not None and _below(value, item, least, edge, config):
            yield dropped(item, STEP, "low-score", score=value, least=least)
        else:
            yield Kept(item, notes)


def _below(value: float, item: Item, least: float, edge: int, config: Config) -> bool:
    return value < least or (config.top is not None and value == least and key_of(config.seed, item.id) > edge)


def _scores(items: list[Item], config: Config) -> list[tuple[float, int] | None]:
    found = [(score(i, config.by, config.answer), key_of(config.seed, i.id)) for i in items]
    return [None if value is None else (value, key) for value, key in found]
