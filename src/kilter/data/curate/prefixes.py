"""Long shared prefixes: of prompts that begin alike one stays (InstructGPT's rule, Ouyang et al. 2022, appendix A.2).

Prompts are sorted, so those with the longest common beginnings are neighbours. Neighbours that share enough are one
group, and a group keeps the row whose hashed id is smallest: the order of the file is irrelevant. The paper names no
length; ours stand below.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kilter.data.curate.items import Item, Kept, Outcome, Rows, dropped, key_of
from kilter.data.curate.texts import clipped, normal, prompt_text

STEP = "prefixes"
READ = 2000
"""Characters of a prompt that are compared."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Long shared prefixes."""

    characters: int = 100
    """Two prompts that share so many first characters are of one group; 0 for no such rule."""
    share: float = 0.9
    """Or so large a share of the shorter one; 0 for no such rule."""
    least: int = 20
    """Characters that must be shared under the rule of shares."""
    seed: int = 1
    """Seed of the choice."""

    def __post_init__(self) -> None:
        if self.characters < 0 or not 0 <= self.share <= 1 or not (self.characters or self.share):
            raise ValueError("characters must not be below 0, share must be from 0 to 1, and one of them above 0")


def shared(a: str, b: str) -> int:
    """Length of the longest common prefix."""
    if a[: len(b)] == b[: len(a)]:
        return min(len(a), len(b))
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)


def together(a: str, b: str, config: Config) -> bool:
    """Whether two prompts share a long prefix."""
    common = shared(a, b)
    if config.characters and common >= config.characters:
        return True
    return bool(config.share) and common >= max(config.least, config.share * min(len(a), len(b)))


def curate(rows: Rows, config: Config, report: dict[str, Any]) -> Iterator[Outcome]:
    """Keep one row of each group of prompts that begin alike."""
    found = [row for part in rows.map(functools.partial(_prompts, config=config)) for row in part]
    order = sorted(range(len(found)), key=lambda n: found[n])
    kept_for: dict[int, tuple[int, int]] = {}
    groups = largest = 0
    begin = 0
    for end in range(1, len(order) + 1):
        if end < len(order) and together(found[order[end - 1]][0], found[order[end]][0], config):
            continue
        group = order[begin:end]
        best = min(group, key=lambda n: found[n][1:])
        for n in group:
            if n != best:
                kept_for[n] = best, shared(found[n][0], found[best][0])
        groups, largest, begin = groups + (len(group) > 1), max(largest, len(group)), end
    report |= {"groups": groups, "largest": largest}
    names = {n: (found[n][2], clipped(found[n][0], 80)) for n, _ in kept_for.values()}
    for number, item in enumerate(rows):
        if number not in kept_for:
            yield Kept(item)
            continue
        best, common = kept_for[number]
        yield dropped(item, STEP, "shared-prefix", match=names[best][0], shared=common, prefix=names[best][1][:common])


def _prompts(items: list[Item], config: Config) -> list[tuple[str, int, str]]:
    return [(normal(prompt_text(i.prompt))[:READ], key_of(config.seed, i.id), i.id) for i in items]
