"""The stage that makes training rows of judgments: raters merged by one rule, rows made by another.

rows.jsonl   one row each of what `data/compile.py` makes, with its rule, judgments, raters, weight and licence
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kilter.data.compile import compile_file
from kilter.runs import Stage

READS = ("data",)
OUTPUT = "rows.jsonl"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Compiling judgments."""

    data: str
    """Judgments, or plain rows that say as much."""
    rule: Literal[
        "pairs",
        "margins",
        "soft",
        "plackett-luce",
        "davidson",
        "scores",
        "labels",
        "best",
        "dpo-best-random",
        "dpo-best-worst",
        "dpo-all",
    ] = "pairs"
    """What the rows are."""
    merge: Literal["", "majority", "bradley-terry", "tideman", "rater-weighted"] = ""
    """How several raters' judgments of one prompt become one; empty leaves each by itself."""
    orders: Literal["", "tie", "soft"] = ""
    """What becomes of two answers that one rater judged differently in either order; empty leaves both judgments."""


def run(stage: Stage) -> None:
    """Write `rows.jsonl`, and note what gave no row."""
    c: Config = stage.config
    note = compile_file(Path(c.data), stage.path(OUTPUT), c.rule, c.merge, stage.seed, orders=c.orders)
    stage.extra["compiled"] = note.to_json()
