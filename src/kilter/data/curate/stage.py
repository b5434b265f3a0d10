"""The recipe's stage `curate`: rows through a list of steps, kept or dropped with a reason.

kept.jsonl           the rows that stay; what the stage's name stands for
drops.jsonl          each row left out: id, place, step, reason, evidence
notes.jsonl          what a reader should know of rows that stay
curation.json        counts, examples, settings in effect, hashes of inputs and benchmarks
decontamination.json what the rows were checked against
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kilter.data.curate import steps as lists
from kilter.data.curate.reading import Kind
from kilter.data.curate.run import curate_file, files_of
from kilter.errors import nearest
from kilter.runs import Stage

READS = ("data", "benchmarks", "verdicts")
OUTPUT = "kept.jsonl"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Curation."""

    data: str
    """Rows to curate: prompts, demonstrations, judgments or texts."""
    steps: str | list[Any] = "clean"
    """Steps in order: `clean`, `instructgpt`, or a list such as [exact, {near: {threshold: 0.8}}]."""
    benchmarks: tuple[str, ...] = ()
    """Benchmark files that `decontaminate` checks against."""
    verdicts: str = ""
    """People's verdicts on what `decontaminate` found: rows of id and verdict, clean or contaminated."""
    kind: Kind = "auto"
    """What a row is: text, prompt, demonstration or judgment; `auto` reads it off the first row."""
    part: int = 20_000
    """Rows in one part: memory, and what a kill costs."""
    processes: int = 1
    """Processes for what is done row by row."""
    max_rejects: float = 0.01
    """Share of unreadable rows above which the stage stops."""

    def __post_init__(self) -> None:
        for name in ("part", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if isinstance(self.steps, str) and self.steps not in lists.SETTINGS:
            raise ValueError(
                f"steps is {self.steps!r}, but a recipe holds the list itself, or names settings that "
                f"ship{nearest(self.steps, lists.SETTINGS)}"
            )
        for step in lists.parse(self.steps):  # what is wrong with them is said before the first stage runs
            if files_of(step):
                raise ValueError(
                    f"step {step.name} names files of its own; give them as the stage's `benchmarks` and `verdicts`, "
                    "so that the stage is done again when they change"
                )


def run(stage: Stage) -> None:
    """Curate, and note the counts in DONE."""
    c: Config = stage.config
    made = curate_file(
        c.data,
        lists.parse(c.steps, c.benchmarks, c.verdicts),
        stage.folder,
        stage.path("checkpoints"),
        kind=c.kind,
        part=c.part,
        processes=c.processes,
        max_rejects=c.max_rejects,
        label=stage.label or stage.name,
    )
    if made["rejected"]:
        stage.extra["rejected"] = made["rejected"]
    stage.extra["curation"] = {
        "rows": made["rows"],
        "kept": made["kept"],
        "dropped": {s["step"]: s["dropped"] for s in made["steps"]},
    }
