"""HelpSteer2's preferences: `response_1`, `response_2`, `preference_strength` from -3 (the first) to 3 (the second)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data import judgments
from kilter.data.formats.helpsteer2 import marked, turns
from kilter.data.parts import CantHold, Taken, bits, candidates, check_answers, finished
from kilter.data.parts import judgment as judgment_of
from kilter.data.records import Judgment, Record

ABOUT = "two answers and how much better one is, with a sentence that says why"
LICENSE = "CC-BY-4.0"
KINDS = ("rankings",)
FIELDS = (
    "split",
    "prompt",
    "response_1",
    "response_2",
    "preference_strength",
    "preference_statement",
    "preference_elaboration",
    "three_most_similar_preferences",
    "all_preferences_unprocessed",
)


def matches(row: Mapping[str, Any]) -> float:
    if not {"prompt", "response_1", "response_2"} <= set(row):
        return 0.0
    return 1.0 if "preference_strength" in row else 0.6


def read(taken: Taken) -> list[Record]:
    messages = turns(taken, taken.text("prompt", "empty-prompt"))
    answers = [taken.text(f"response_{i}", "empty-answer") for i in (1, 2)]
    strength = taken.number("preference_strength", -3, 3)
    check_answers(taken, answers)
    taken.check()
    prompt, raw = taken.prompt(messages), taken.optional("preference_statement", str)
    extra = taken.extra(preference_statement="" if raw == "" else None)
    return [preferred(prompt, answers, strength, extra, raw or "")]


def preferred(prompt: Any, answers: list[str], point: float, extra: dict[str, Any], raw: str) -> Judgment:
    """A judgment from a point of the scale from -3 to 3."""
    whole = int(point) if float(point).is_integer() else point
    if isinstance(whole, int):
        tiers, strength = judgments.from_scale(whole + 4, 7)
    else:  # a mean of several raters
        tiers, strength = ((0,), (1,)) if point < 0 else ((1,), (0,)), abs(point) / 3
    made = candidates(prompt, answers)
    return Judgment(kind="pair", prompt=prompt, candidates=made, tiers=tiers, strength=strength, raw=raw, extra=extra)


def point_of(record: Judgment) -> float:
    """A judgment of two as a point of the scale from -3 to 3."""
    if len(record.candidates) != 2:
        raise CantHold(f"a preference is between two answers, this judgment has {len(record.candidates)}")
    if len(record.tiers) == 1:
        return 0
    steps = 3 * (1 / 3 if record.strength is None else min(record.strength, 1.0))
    size = round(steps) if abs(steps - round(steps)) < 1e-9 else steps
    return -size if record.tiers[0] == (0,) else size


def write(record: Record) -> list[dict[str, Any]]:
    record = judgment_of(record)
    row: dict[str, Any] = {"prompt": marked(record.prompt.messages)}
    point = point_of(record)
    row |= {f"response_{i + 1}": c.answer for i, c in enumerate(record.candidates)}
    row["preference_strength"] = point
    if record.raw and "preference_statement" not in bits(record, "helpsteer_preference"):
        row["preference_statement"] = record.raw
    return [finished(row, record, "helpsteer_preference", FIELDS)]
