"""A cap per author: at most 200 prompts of one user (Ouyang et al. 2022, arXiv:2203.02155, section 3.2).

Which ones stay is decided by a hash of the row's id, so the order of the file is irrelevant.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from kilter.data.curate.items import Item, Kept, Outcome, Rows, dropped, key_of, noted

STEP = "authors"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Rows per author."""

    most: int = 200
    """Rows of one author (`author_hash` of the prompt) that stay."""
    unknown: Literal["keep", "drop"] = "keep"
    """What happens to rows that state no author; kept ones carry a note."""
    seed: int = 1
    """Seed of the choice."""

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"most is {self.most}, but must be at least 1")


def curate(rows: Rows, config: Config, report: dict[str, Any]) -> Iterator[Outcome]:
    """Keep the rows of each author whose keys are smallest."""
    keys: dict[str, list[tuple[int, int]]] = {}
    number = 0
    for part in rows.map(functools.partial(_authors, config=config)):
        for author, key in part:
            if author:
                keys.setdefault(author, []).append((key, number))
            number += 1
    over = {a: n for a, n in keys.items() if len(n) > config.most}
    out = {n for found in over.values() for _, n in sorted(found)[config.most :]}
    stated = sum(map(len, keys.values()))
    report |= {"authors": len(keys), "over_the_cap": len(over), "without_author": number - stated}
    counts = {a: len(n) for a, n in over.items()}
    for place, item in enumerate(rows):
        author = item.prompt.author_hash if place in out else ""
        if author:
            yield dropped(item, STEP, "over-the-cap", author=author, rows=counts[author], most=config.most)
        elif stated < number and not item.prompt.author_hash:
            if config.unknown == "drop":
                yield dropped(item, STEP, "no-author")
            else:
                yield Kept(item, (noted(item, STEP, "no-author"),))
        else:
            yield Kept(item)


def _authors(items: list[Item], config: Config) -> list[tuple[str, int]]:
    return [(i.prompt.author_hash, key_of(config.seed, i.id)) for i in items]
