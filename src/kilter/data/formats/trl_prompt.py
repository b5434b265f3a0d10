"""TRL's prompts alone, as texts or as lists of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.formats.trl_preference import asked
from kilter.data.parts import CantHold, Taken, bits, finished
from kilter.data.records import Prompt, Record

ABOUT = "a prompt and nothing else"
LICENSE = ""
KINDS = ("prompts",)
FIELDS = ("prompt",)
PLAIN = True
MORE = {"completion", "completions", "chosen", "rejected", "response", "answer", "answers", "output", "messages"}


def matches(row: Mapping[str, Any]) -> float:
    return 0.7 if "prompt" in row and not isinstance(row["prompt"], dict) and not MORE & set(row) else 0.0


def read(taken: Taken) -> list[Record]:
    messages, chat = asked(taken)
    taken.check()
    return [Prompt(**{**vars(taken.prompt(messages)), "extra": taken.extra(_chat=chat or None)})]


def write(record: Record) -> list[dict[str, Any]]:
    if not isinstance(record, Prompt):
        raise CantHold(f"this format holds prompts, not a {type(record).__name__.lower()}")
    messages = [dict(m) for m in record.messages]
    chat = bits(record, "trl_prompt").get("~chat") or len(messages) != 1 or messages[0]["role"] != "user"
    return [finished({"prompt": messages if chat else messages[0]["content"]}, record, "trl_prompt", FIELDS)]
