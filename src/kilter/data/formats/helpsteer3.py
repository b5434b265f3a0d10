"""HelpSteer3's preferences: `context` as messages, `response1`, `response2`, `overall_preference` from -3 to 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.formats.helpsteer_preference import point_of, preferred
from kilter.data.parts import Taken, check_answers, check_turns, conversation, finished
from kilter.data.parts import judgment as judgment_of
from kilter.data.records import Record

ABOUT = "two answers to a conversation and how much better one is, tied at 0"
LICENSE = "CC-BY-4.0"
KINDS = ("rankings",)
FIELDS = ("domain", "language", "context", "response1", "response2", "overall_preference", "individual_preference")


def matches(row: Mapping[str, Any]) -> float:
    return 1.0 if {"context", "response1", "response2"} <= set(row) else 0.0


def read(taken: Taken) -> list[Record]:
    messages = conversation(taken, taken.value("context", list, []), "message")
    check_turns(taken, messages, "user")
    answers = [taken.text(f"response{i}", "empty-answer") for i in (1, 2)]
    point = taken.number("overall_preference", -3, 3)
    check_answers(taken, answers)
    taken.check()
    return [preferred(taken.prompt(messages), answers, point, taken.extra(), "")]


def write(record: Record) -> list[dict[str, Any]]:
    record = judgment_of(record)
    row: dict[str, Any] = {"context": [dict(m) for m in record.prompt.messages], "overall_preference": point_of(record)}
    row |= {f"response{i + 1}": c.answer for i, c in enumerate(record.candidates)}
    return [finished(row, record, "helpsteer3", FIELDS)]
