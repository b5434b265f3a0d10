"""OpenAI messages: `messages` [{role, content, tool_calls?, name?}], and `tools` beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.parts import Taken, check_turns, conversation, finished, said, split, without
from kilter.data.parts import demonstration as demonstration_of
from kilter.data.records import Demonstration, Prompt, Record

ABOUT = "a conversation as a list of messages with roles; calls of tools are kept"
LICENSE = ""
KINDS = ("demonstrations", "prompts")
FIELDS = ("messages",)
PLAIN = True


def matches(row: Mapping[str, Any]) -> float:
    if not isinstance(row.get("messages"), list) or {"candidates", "prompt", "chosen", "rejected"} & set(row):
        return 0.0
    return 0.7 if all(isinstance(m, dict) and "role" in m for m in row["messages"]) else 0.4


def read(taken: Taken) -> list[Record]:
    turns = conversation(taken, taken.value("messages", list, []), "message")
    if turns and turns[-1]["role"] == "user":
        check_turns(taken, turns)
        taken.check()
        return [Prompt(**{**vars(taken.prompt(turns)), "extra": taken.extra()})]
    asked, answer = split(taken, turns)
    taken.check()
    prompt = taken.prompt(asked)
    return [Demonstration(prompt=prompt, answer=answer["content"], extra=taken.extra(answer=without(answer)))]


def write(record: Record) -> list[dict[str, Any]]:
    if isinstance(record, Prompt):
        turns: list[dict[str, Any]] = [dict(m) for m in record.messages]
    else:
        turns = said(demonstration_of(record), "messages")
    for turn in turns:
        if turn.get("tool_calls") and not turn["content"]:
            turn["content"] = None
    return [finished({"messages": turns}, record, "messages", FIELDS)]
