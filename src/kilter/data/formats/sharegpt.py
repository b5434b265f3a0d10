"""ShareGPT: `conversations` [{from, value}] with optional `system` and `tools`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kilter.data.parts import CantHold, Taken, check_turns, finished, said, seen, split, system, without
from kilter.data.parts import demonstration as demonstration_of
from kilter.data.records import Demonstration, Message, Prompt, Record

ABOUT = "a conversation of turns {from: human | gpt | system | function_call | observation, value}"
LICENSE = ""
KINDS = ("demonstrations", "prompts")
FIELDS = ("conversations", "system")
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "user": "user",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "tool": "tool",
}
"""Who speaks, as kilter calls it; names that differ from its own way back are kept in the message."""
NAMES = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}


def matches(row: Mapping[str, Any]) -> float:
    turns = row.get("conversations")
    if not isinstance(turns, list) or "chosen" in row or "kto_tag" in row:
        return 0.0
    return 0.95 if all(isinstance(t, dict) and "from" in t for t in turns) else 0.6


def read(taken: Taken) -> list[Record]:
    turns = heard(taken)
    if turns and turns[-1]["role"] == "user":
        check_turns(taken, turns)
        taken.check()
        return [Prompt(**{**vars(taken.prompt(turns)), "extra": taken.extra()})]
    asked, answer = split(taken, turns)
    taken.check()
    return [
        Demonstration(prompt=taken.prompt(asked), answer=answer["content"], extra=taken.extra(answer=without(answer)))
    ]


def write(record: Record) -> list[dict[str, Any]]:
    whole = (
        [dict(m) for m in record.messages] if isinstance(record, Prompt) else said(demonstration_of(record), "sharegpt")
    )
    return [finished(told(whole), record, "sharegpt", FIELDS)]


def heard(taken: Taken) -> list[Message]:
    """The system text and the turns of a row, as messages."""
    before = taken.optional("system", str)
    found = turns_of(taken, taken.value("conversations", list, []), "conversations")
    return [{**system(before), "kind": "field"}, *found] if before else found


def turns_of(taken: Taken, turns: Sequence[Any], name: str) -> list[Message]:
    """Turns {from, value} as messages."""
    found: list[Message] = []
    for number, turn in enumerate(turns):
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("from"), str)
            or not isinstance(turn.get("value"), str)
        ):
            taken.fault("wrong-type", f'{name} {number} must be {{"from": ..., "value": text}}, got {seen(turn)}')
            continue
        role = ROLES.get(turn["from"])
        if role is None:
            taken.fault("unknown-role", f"{name} {number} is from {turn['from']!r:.40}; known: {', '.join(ROLES)}")
            continue
        message = {"role": role, "content": turn["value"]}
        message |= {"from": turn["from"]} if NAMES[role] != turn["from"] else {}
        message |= {"tool_calls": turn["value"]} if turn["from"] == "function_call" else {}
        found.append({**message, **{k: v for k, v in turn.items() if k not in ("from", "value") and v is not None}})
    return found


def told(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Messages as the fields of a row."""
    row: dict[str, Any] = {}
    if messages and messages[0].get("kind") == "field":
        row["system"], messages = messages[0]["content"], messages[1:]
    return {"conversations": [turn_of(m) for m in messages], **row}


def turn_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as {from, value}."""
    call = message.get("from") == "function_call"
    if message.get("tool_calls") and not call:
        raise CantHold("ShareGPT writes a call of a tool as a turn of its own; `tool_calls` would be lost")
    more = {
        k: v for k, v in message.items() if k not in ("role", "content", "from") and not (call and k == "tool_calls")
    }
    return {
        "from": message.get("from", NAMES.get(message["role"], message["role"])),
        "value": message["content"],
        **more,
    }
