"""HelpSteer2: a `response` to a `prompt` with five ratings of 0 to 4; neighbouring rows of one prompt are compared.

Turns of a longer prompt are marked by `<extra_id_1>User` and `<extra_id_1>Assistant` lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kilter.data import judgments
from kilter.data.parts import CantHold, Taken, assistant, check_turns, finished, user
from kilter.data.parts import judgment as judgment_of
from kilter.data.records import Candidate, Judgment, Message, Record

ABOUT = "an answer rated for helpfulness, correctness, coherence, complexity and verbosity"
LICENSE = "CC-BY-4.0"
KINDS = ("rankings",)
ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
FIELDS = ("prompt", "response", *ASPECTS)
ADJACENT = True
MARK = re.compile(r"\n<extra_id_1>(User|Assistant)\n")


def matches(row: Mapping[str, Any]) -> float:
    known = sum(a in row for a in ASPECTS)
    return 0.5 + 0.1 * known if {"prompt", "response"} <= set(row) and known >= 2 else 0.0


def group(row: Mapping[str, Any]) -> Any:
    """Rows that stand one after another and share this are read together."""
    return row.get("prompt")


def read_group(rows: Sequence[Taken]) -> list[Record]:
    good: list[tuple[Taken, str, dict[str, float | None]]] = []
    messages: list[Message] = []
    for taken in rows:
        messages = turns(taken, taken.text("prompt", "empty-prompt"))
        answer, rated = taken.text("response", "empty-answer"), _ratings(taken)
        if not taken.faults:
            good.append((taken, answer, rated))
    if not good:
        return []
    first = good[0][0]
    prompt = first.prompt(messages)
    made = []
    for taken, answer, _ in good:
        taken.used |= first.used
        made.append(Candidate(prompt_id=prompt.id, answer=answer, extra=taken.extra()))
    aspects = tuple(rated for _, _, rated in good)
    scores = tuple(float(rated["helpfulness"] or 0) for rated in aspects)
    tiers = judgments.tiers_from_scores(scores)
    return [
        Judgment(kind="rating", prompt=prompt, candidates=tuple(made), tiers=tiers, ratings=scores, aspects=aspects)
    ]


def _ratings(taken: Taken) -> dict[str, float | None]:
    found: dict[str, float | None] = {"helpfulness": taken.number("helpfulness", 0, 4)}
    for name in ASPECTS[1:]:
        if taken.has(name):
            value = taken.row[name]
            if isinstance(value, str):
                taken.used.add(name)
                taken.repair("rating-not-given", f"{name} is {value!r:.30}", "the aspect is left without a rating")
                found[name] = None
            else:
                found[name] = taken.number(name, 0, 4)
    return found


def turns(taken: Taken, text: str) -> list[Message]:
    """A prompt with marked turns as messages."""
    parts = MARK.split(text)
    found = [user(parts[0])]
    for role, said in zip(parts[1::2], parts[2::2], strict=True):
        found.append(user(said) if role == "User" else assistant(said))
    if len(found) > 1:
        check_turns(taken, found, "user")
    return found


def marked(messages: Sequence[Mapping[str, Any]]) -> str:
    """Messages as a prompt with marked turns."""
    names = {"user": "User", "assistant": "Assistant"}
    if not messages or messages[0]["role"] != "user" or not all(m["role"] in names for m in messages):
        raise CantHold("HelpSteer2 holds turns of the user and the assistant alone; others would be lost")
    if any(MARK.search(m["content"]) for m in messages):
        raise CantHold("a message holds a turn's mark as text, which would become a turn")
    rest = [f"\n<extra_id_1>{names[m['role']]}\n{m['content']}" for m in messages[1:]]
    return str(messages[0]["content"]) + "".join(rest)


def write(record: Record) -> list[dict[str, Any]]:
    record = judgment_of(record)
    if not record.aspects and not record.ratings:
        raise CantHold("HelpSteer2 holds ratings of each answer; this judgment has none")
    marks = [v for rated in record.aspects for v in rated.values() if v is not None] if record.aspects else []
    if not all(0 <= v <= 4 for v in (*marks, *(() if record.aspects else record.ratings))):
        raise CantHold("HelpSteer2's ratings run from 0 to 4; those of this judgment do not")
    rows = []
    for i, candidate in enumerate(record.candidates):
        rated = dict(record.aspects[i]) if record.aspects else {"helpfulness": record.ratings[i]}
        if "helpfulness" not in rated and record.ratings:
            rated["helpfulness"] = record.ratings[i]
        row = {"prompt": marked(record.prompt.messages), "response": candidate.answer, **rated}
        row = finished(row, record, "helpsteer2", FIELDS)
        own = candidate.extra.get("helpsteer2") or {}
        row |= {k: v for k, v in candidate.extra.items() if k != "helpsteer2" and k not in row}
        rows.append(row | {k: v for k, v in own.items() if k not in row})
    return rows
