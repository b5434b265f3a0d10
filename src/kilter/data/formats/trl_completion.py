"""TRL's prompt and completion, as texts or as lists of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.formats.trl_preference import answered, asked
from kilter.data.parts import Taken, assistant, bits, demonstration, finished
from kilter.data.records import Demonstration, Record

ABOUT = "a prompt and its completion"
LICENSE = ""
KINDS = ("demonstrations",)
FIELDS = ("prompt", "completion")
PLAIN = True


def matches(row: Mapping[str, Any]) -> float:
    return 0.75 if {"prompt", "completion"} <= set(row) and "label" not in row else 0.0


def read(taken: Taken) -> list[Record]:
    messages, chat = asked(taken)
    answer = answered(taken, "completion", messages)
    taken.check()
    prompt = taken.prompt(messages)
    return [Demonstration(prompt=prompt, answer=answer, extra=taken.extra(_chat=chat or None))]


def write(record: Record) -> list[dict[str, Any]]:
    record = demonstration(record)
    messages = [dict(m) for m in record.prompt.messages]
    chat = bits(record, "trl_completion").get("~chat") or len(messages) != 1 or messages[0]["role"] != "user"
    row: dict[str, Any] = {"prompt": messages if chat else messages[0]["content"]}
    row["completion"] = [assistant(record.answer)] if chat else record.answer
    return [finished(row, record, "trl_completion", FIELDS)]
