"""Boilerplate: refusals, an assistant talking of itself, and words of a template that leaked; lists in `phrases.py`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from kilter.data.curate import phrases
from kilter.data.curate.items import Item, Kept, Outcome, dropped
from kilter.data.curate.texts import Field, clipped, normal, parts

STEP = "boilerplate"
LISTS: dict[str, Mapping[str, Iterable[str]]] = {
    "refusal": phrases.REFUSALS,
    "identity": phrases.IDENTITY,
    "scaffold": phrases.SCAFFOLD,
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Refusals and boilerplate."""

    field: Field = "answer"
    """Which texts of a row are searched; a corpus text is its own."""
    kinds: tuple[Literal["refusal", "identity", "scaffold"], ...] = ("refusal", "identity", "scaffold")
    """Which lists are used; leave `refusal` out where refusing is a right answer."""
    head: int = 160
    """Characters of an answer in which a refusal counts: later on the same words are usually part of a good answer."""
    phrases: tuple[str, ...] = ()
    """Your own phrases, anywhere in a text."""


def judge(item: Item, config: Config) -> Outcome:
    """Drop a row when any of its texts holds a phrase of the lists."""
    for text in parts(item, config.field):
        found = search(text, config)
        if found:
            kind, phrase = found
            return dropped(item, STEP, kind, phrase=phrase, text=clipped(text))
    return Kept(item)


def search(text: str, config: Config) -> tuple[str, str] | None:
    """The kind and the phrase that a text holds, if any."""
    seen = normal(text).replace("\u2019", "'")
    for kind in config.kinds:
        where = seen[: config.head] if kind == "refusal" else seen
        phrase = next((p for p in of_kind(kind) if p in where), None)
        if phrase:
            return kind, phrase
    own = next((p for p in config.phrases if normal(p) in seen), None)
    return ("phrase", own) if own else None


@functools.cache
def of_kind(kind: str) -> tuple[str, ...]:
    """All phrases of a list, whatever their language."""
    return tuple(p for some in LISTS[kind].values() for p in some)


def refuses(answer: str, head: int = 160) -> bool:
    """Whether an answer begins with a refusal."""
    seen = normal(answer[: 2 * head]).replace("\u2019", "'")[:head]
    return any(p in seen for p in of_kind("refusal"))
