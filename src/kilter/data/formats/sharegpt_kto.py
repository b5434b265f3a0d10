"""LLaMA-Factory's labelled answers in ShareGPT's shape: `conversations` and `kto_tag`, true for a good last answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.formats.sharegpt import heard, told
from kilter.data.parts import Taken, assistant, bits, candidates, finished, labels, split, without
from kilter.data.parts import judgment as judgment_of
from kilter.data.records import Judgment, Record

ABOUT = "a conversation, and whether its last answer is good"
LICENSE = ""
KINDS = ("labels",)
FIELDS = ("conversations", "system", "kto_tag")


def matches(row: Mapping[str, Any]) -> float:
    return 0.97 if isinstance(row.get("conversations"), list) and "kto_tag" in row else 0.0


def read(taken: Taken) -> list[Record]:
    asked, answer = split(taken, heard(taken))
    label = taken.value("kto_tag", bool, False)
    taken.check()
    prompt, extra = taken.prompt(asked), taken.extra(answer=without(answer))
    made = candidates(prompt, [answer["content"]])
    return [Judgment(kind="flag", prompt=prompt, candidates=made, tiers=((0,),), flags=(label,), extra=extra)]


def write(record: Record) -> list[dict[str, Any]]:
    record = judgment_of(record)
    rows, more = [], bits(record, "sharegpt_kto").get("answer") or {}
    for i, label in labels(record):
        turns = [*record.prompt.messages, {**assistant(record.candidates[i].answer), **more}]
        rows.append(finished({**told(turns), "kto_tag": label}, record, "sharegpt_kto", FIELDS))
    return rows
