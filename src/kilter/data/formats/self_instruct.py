"""Self-Instruct's seeds: `id`, `name`, `instruction`, `instances` [{input, output}], `is_classification`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.parts import Taken, bits, finished, one_question, seen, user
from kilter.data.parts import demonstration as demonstration_of
from kilter.data.records import Demonstration, Record, content_id

ABOUT = "a task written by a person, with one instance or several"
LICENSE = "Apache-2.0"
KINDS = ("demonstrations",)
FIELDS = ("id", "name", "instruction", "instances", "is_classification")
GATHERED = True


def matches(row: Mapping[str, Any]) -> float:
    return 0.9 + 0.1 * ("is_classification" in row) if {"instruction", "instances"} <= set(row) else 0.0


def read(taken: Taken) -> list[Record]:
    instruction, instances = taken.text("instruction", "empty-prompt"), taken.value("instances", list, [])
    if not instances and isinstance(taken.row.get("instances"), list):
        taken.fault("no-messages", "the task has no instances")
    for number, one in enumerate(instances):
        if (
            not isinstance(one, dict)
            or not isinstance(one.get("output"), str)
            or not isinstance(one.get("input", ""), str)
        ):
            taken.fault("wrong-type", f"instance {number} must be {{input: text, output: text}}, got {seen(one)}")
        elif not one["output"].strip():
            taken.fault("empty-answer", f"the output of instance {number} is empty")
    taken.check()
    group = str(taken.row.get("id") or content_id(instruction))
    found: list[Record] = []
    for number, one in enumerate(instances):
        given = one.get("input", "")
        own = {**({"input": one["input"]} if "input" in one else {}), "instruction": instruction, "group": group}
        own |= {"instance": {k: v for k, v in one.items() if k not in ("input", "output")}}
        prompt = taken.prompt([user(f"{instruction}\n\n{given}" if given else instruction)], split_group=group)
        rest = taken.extra() if not number else {}
        extra = {**rest, "self_instruct": {**(rest.get("self_instruct") or {}), **own}}
        found.append(Demonstration(prompt=prompt, answer=one["output"], extra=extra))
    return found


def group_of(record: Record) -> str:
    """What the instances of one task share."""
    record = demonstration_of(record)
    return str(bits(record, "self_instruct").get("group") or record.prompt.id)


def write(record: Record) -> list[dict[str, Any]]:
    return write_group([record])


def write_group(records: list[Record]) -> list[dict[str, Any]]:
    """Demonstrations of one task as its one row."""
    rows, instruction, head = [], "", demonstration_of(records[0])
    for record in map(demonstration_of, records):
        own = bits(record, "self_instruct")
        asked = one_question(record.prompt.messages, "a seed task")
        instruction = own.get("instruction", asked)
        given = {"input": own["input"]} if "input" in own else {}
        rows.append({**(given if own else {"input": ""}), "output": record.answer, **(own.get("instance") or {})})
    return [
        finished({"instruction": instruction, "instances": rows}, head, "self_instruct", FIELDS, skip=("split_group",))
    ]
