"""Length: texts too short or too long, counted in tokens (characters where a script has no spaces) or in characters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kilter.data.curate.items import Item, Kept, Outcome, dropped
from kilter.data.curate.texts import Field, clipped, parts, tokens

STEP = "length"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Length."""

    field: Field = "all"
    """Which texts of a row must have the length, each by itself."""
    least: int = 1
    """Fewest."""
    most: int = 0
    """Most; 0 for no limit."""
    unit: Literal["tokens", "characters"] = "tokens"
    """What is counted: words (single characters in Chinese, Japanese, Thai...), or characters."""

    def __post_init__(self) -> None:
        if self.least < 0 or (self.most and self.most < self.least):
            raise ValueError(f"least {self.least} and most {self.most} leave no length")


def judge(item: Item, config: Config) -> Outcome:
    """Drop a row when any of its texts is too short or too long."""
    for text in parts(item, config.field):
        size = len(text) if config.unit == "characters" else len(tokens(text))
        if size < config.least:
            return dropped(item, STEP, "too-short", **{config.unit: size}, least=config.least, text=clipped(text))
        if config.most and size > config.most:
            return dropped(item, STEP, "too-long", **{config.unit: size}, most=config.most, text=clipped(text))
    return Kept(item)
