"""Alpaca: `instruction`, `input`, `output`; LLaMA-Factory adds `system` and `history` [[question, answer], ...]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.parts import (
    CantHold,
    Taken,
    assistant,
    bits,
    check_turns,
    demonstration,
    finished,
    seen,
    system,
    user,
)
from kilter.data.records import Demonstration, Record

ABOUT = "an instruction, an optional input and the output"
LICENSE = "CC-BY-NC-4.0"
KINDS = ("demonstrations",)
FIELDS = ("instruction", "input", "output", "system", "history")


def matches(row: Mapping[str, Any]) -> float:
    if "instruction" not in row or "output" not in row:
        return 0.0
    return 0.9 if "input" in row else 0.6


def plain(row: Mapping[str, Any]) -> bool:
    """Whether kilter's own reader sees all that the row asks."""
    return not any(row.get(k) for k in ("input", "system", "history"))


def read(taken: Taken) -> list[Record]:
    instruction, given = taken.text("instruction", "empty-prompt"), taken.optional("input", str)
    messages, past = [], taken.optional("history", list)
    before = taken.optional("system", str)
    if before:
        messages.append(system(before))
    for number, turn in enumerate(past or []):
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(t, str) for t in turn):
            taken.fault("wrong-type", f"history {number} must be [question, answer], got {seen(turn)}")
        else:
            messages += [user(turn[0]), assistant(turn[1])]
    messages.append(user(f"{instruction}\n\n{given}" if given else instruction))
    answer = taken.text("output", "empty-answer")
    check_turns(taken, messages[:-1]) if past else None
    taken.check()
    prompt = taken.prompt(messages)
    extra = taken.extra(input=given, history=[] if past == [] else None, system="" if before == "" else None)
    return [Demonstration(prompt=prompt, answer=answer, extra=extra)]


def write(record: Record) -> list[dict[str, Any]]:
    record = demonstration(record)
    turns, own = [dict(m) for m in record.prompt.messages], bits(record, "alpaca")
    row: dict[str, Any] = {"instruction": "", "output": record.answer}
    if turns[0]["role"] == "system":
        row["system"] = turns.pop(0)["content"]
    if [m["role"] for m in turns] != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise CantHold("alpaca holds a question, its answer and turns before them; other roles would be lost")
    if len(turns) > 1:
        row["history"] = [[q["content"], a["content"]] for q, a in zip(turns[:-1:2], turns[1::2], strict=True)]
    given, asked = own.get("input"), turns[-1]["content"]
    row["instruction"] = asked.removesuffix(f"\n\n{given}") if given else asked
    if not own:
        row["input"] = ""
    return [finished(row, record, "alpaca", FIELDS)]
