"""What a check says, and how a check that breaks is told apart from one that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from kilter.errors import KilterError

Level = Literal["ok", "note", "warn", "fail"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warn", "fail")
"""`note` is worth knowing, `warn` is probably a mistake, `fail` stops training."""


@dataclass(frozen=True)
class Finding:
    """One check's verdict."""

    name: str
    level: Level
    saw: str
    """What was measured, with its numbers."""
    do: str = ""
    """What to do about it, where there is something to do."""


Span = tuple[str, bool]
"""A stretch of a row's text, and whether the loss is taken on it."""


@dataclass
class Section:
    """What was examined under one heading: a stage of a recipe, a checkpoint, a file."""

    name: str
    about: str
    findings: list[Finding] = field(default_factory=list)
    rows: list[tuple[str, list[Span]]] = field(default_factory=list)
    """(where, spans) of a few rows."""
    missing: str = ""
    """Why the section, or the rest of it, can't be examined yet."""

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "about": self.about,
            "worst": worst(self.findings),
            "not_yet_checkable": self.missing or None,
            "findings": [asdict(f) for f in self.findings],
            "rows": [
                {"where": where, "spans": [{"text": t, "trained": trained} for t, trained in spans]}
                for where, spans in self.rows
            ],
        }


def worst(findings: Iterable[Finding]) -> Level:
    """The gravest level among findings."""
    return max((f.level for f in findings), key=LEVELS.index, default="ok")


def count(findings: Iterable[Finding]) -> str:
    """`14 checks: 12 ok, 1 note, 1 warn`."""
    levels = [f.level for f in findings]
    parts = [f"{levels.count(level)} {level}" for level in LEVELS if level in levels]
    return f"{len(levels)} checks: {', '.join(parts)}" if levels else "no checks"


def graded(name: str, gap: float, fine: float, broken: float, saw: str, do: str) -> Finding:
    """A gap that should be nothing: `fine` is rounding, above `broken` it is a mistake (and so is NaN)."""
    if gap <= fine:
        return Finding(name, "ok", saw)
    return Finding(name, "warn" if gap <= broken else "fail", f"{saw} (rounding is at most {fine:g})", do)


def attempt(name: str, check: Callable[..., Finding | list[Finding]], *given: Any) -> list[Finding]:
    """A check's findings; one that can't be made says why instead of passing in silence."""
    try:
        found = check(*given)
    except KilterError as error:
        return [Finding(name, "warn", f"can't be checked: {error}", "mend that first")]
    except Exception as error:  # a user's own method or an unusual model; its own run will say more
        what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".rstrip(": ")
        return [Finding(name, "warn", f"can't be checked: {what}", "look whether training itself is sound here")]
    return found if isinstance(found, list) else [found]
