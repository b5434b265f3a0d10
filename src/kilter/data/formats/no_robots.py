"""No Robots: `prompt`, `prompt_id`, `messages`, `category`; written by people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.formats.ultrachat import first_question, with_question
from kilter.data.parts import Taken, conversation, demonstration, finished, said, split, without
from kilter.data.records import Demonstration, Record

ABOUT = "an answer that a person wrote, with its category"
LICENSE = "CC-BY-NC-4.0"
KINDS = ("demonstrations",)
FIELDS = ("prompt", "prompt_id", "messages", "category")


def matches(row: Mapping[str, Any]) -> float:
    return 1.0 if set(FIELDS) <= set(row) and not {"chosen", "rejected", "candidates"} & set(row) else 0.0


def read(taken: Taken) -> list[Record]:
    turns = conversation(taken, taken.value("messages", list, []), "message")
    own = first_question(taken, turns)
    asked, answer = split(taken, turns)
    taken.check()
    extra_of = {"answer": without(answer), **own}
    prompt = taken.prompt(asked)
    return [Demonstration(prompt=prompt, answer=answer["content"], extra=taken.extra(**extra_of))]


def write(record: Record) -> list[dict[str, Any]]:
    record = demonstration(record)
    row = with_question(record, said(record, "no_robots"))
    row = finished(row, record, "no_robots", FIELDS)
    return [row if "category" in row else {**row, "category": ""}]
