"""Super-NaturalInstructions: a task as one object, with a `Definition`, examples, and `Instances` with references.

Every instance becomes a demonstration; its other references are kept beside the first. What the whole task says
(contributors, examples) stands with its first instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.parts import CantHold, Taken, seen, user
from kilter.data.parts import demonstration as demonstration_of
from kilter.data.records import Demonstration, Record, content_id

ABOUT = "a task with its definition, examples and instances"
LICENSE = "Apache-2.0"
KINDS = ("demonstrations",)
FIELDS = ("Definition", "Instances", "Categories", "Instance License", "Positive Examples", "Negative Examples")
GATHERED = True
"""Demonstrations of one task are written as one row."""


def matches(row: Mapping[str, Any]) -> float:
    return 1.0 if {"Definition", "Instances"} <= set(row) else 0.5 if "Definition" in row else 0.0


def read(taken: Taken) -> list[Record]:
    told = taken.row.get("Definition")
    taken.used |= {"Definition", "Instances"}
    texts = [told] if isinstance(told, str) else told
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        taken.fault("missing-field" if told is None else "wrong-type", f"'Definition' must be texts, got {seen(told)}")
        texts = []
    elif not any(t.strip() for t in texts):
        taken.fault("empty-prompt", "the definition is empty")
    instances = taken.value("Instances", list, [])
    if not instances and isinstance(taken.row.get("Instances"), list):
        taken.fault("no-messages", "the task has no instances")
    taken.check()
    first = {k: v for k, v in taken.row.items() if k not in ("Definition", "Instances")}
    definition, group = "\n".join(texts), content_id(texts, first)
    given = _provenance(taken.row)
    found: list[Record] = []
    for number, instance in enumerate(instances):
        record = _instance(taken, number, instance, definition, {**given, "split_group": group})
        if record is not None:
            own = {"definition": told, **({"task": first} if not found else {}), **record.extra["natural_instructions"]}
            found.append(Demonstration(prompt=record.prompt, answer=record.answer, extra={"natural_instructions": own}))
    if not found:
        taken.fault("empty-answer", f"none of the {len(instances)} instances can be used")
    taken.check()
    return found


def _provenance(row: Mapping[str, Any]) -> dict[str, str]:
    def joined(key: str, glue: str) -> str:
        values = row.get(key)
        return glue.join(v for v in values if isinstance(v, str)) if isinstance(values, list) else ""

    given = {"license": joined("Instance License", " and "), "category": joined("Categories", ", ")}
    return {k: v for k, v in {**given, "source": joined("Source", ", ")}.items() if v}


def _instance(taken: Taken, number: int, given: Any, definition: str, more: dict[str, str]) -> Demonstration | None:
    """An instance as a demonstration; one that can't be used is noted and left out of the task."""
    outputs = given.get("output") if isinstance(given, dict) else None
    outputs = [outputs] if isinstance(outputs, str) else outputs
    right = isinstance(outputs, list) and all(isinstance(o, str) for o in outputs)
    if not isinstance(given, dict) or not isinstance(given.get("input"), str) or not right:
        taken.repair("broken-instance", f"instance {number} is {seen(given)}", "it is left out; the others stay")
        return None
    if not outputs or not outputs[0].strip():
        taken.repair("empty-instance", f"instance {number} has no output", "it is left out; the others stay")
        return None
    asked = f"{definition}\n\n{given['input']}" if given["input"] else definition
    own = {"instance": {k: v for k, v in given.items() if k != "input"}, "input": given["input"]}
    prompt = taken.prompt([user(asked)], **more)
    return Demonstration(prompt=prompt, answer=outputs[0], extra={"natural_instructions": own})


def group_of(record: Record) -> str:
    """What the demonstrations of one task share."""
    return demonstration_of(record).prompt.split_group


def write(record: Record) -> list[dict[str, Any]]:
    return write_group([record])


def write_group(records: list[Record]) -> list[dict[str, Any]]:
    """Demonstrations of one task as its one row."""
    rows: list[dict[str, Any]] = []
    head: dict[str, Any] = {}
    definition: Any = None
    for record in map(demonstration_of, records):
        own = record.extra.get("natural_instructions")
        if not isinstance(own, dict):
            raise CantHold("a task has a definition that its instances share; these demonstrations have none")
        rows.append({"input": own["input"], **own["instance"]})
        head, definition = own.get("task") or head, own["definition"]
    return [{**head, "Definition": definition, "Instances": rows}]
