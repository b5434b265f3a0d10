"""UltraFeedback binarized: `chosen` and `rejected` as whole conversations, with `score_chosen` and `score_rejected`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.parts import (
    CantHold,
    Taken,
    assistant,
    candidates,
    check_answers,
    conversation,
    finished,
    pairs,
    split,
)
from kilter.data.parts import judgment as judgment_of
from kilter.data.records import Judgment, Record

ABOUT = "two conversations that differ in the last answer, each with a score"
LICENSE = "MIT"
KINDS = ("rankings",)
FIELDS = ("prompt", "prompt_id", "chosen", "rejected", "messages", "score_chosen", "score_rejected")


def matches(row: Mapping[str, Any]) -> float:
    if not {"chosen", "rejected"} <= set(row) or isinstance(row["chosen"], str):
        return 0.0
    return 0.5 + 0.3 * ("score_chosen" in row or "score_rejected" in row) + 0.2 * ("prompt_id" in row)


def read(taken: Taken) -> list[Record]:
    sides = []
    for name in ("chosen", "rejected"):
        asked, answer = split(taken, conversation(taken, taken.value(name, list, []), name), f"empty-{name}")
        sides.append((asked, answer["content"]))
    if sides[0][0] != sides[1][0]:
        taken.fault("prompts-differ", "chosen and rejected differ before their last answer")
    first = next((m["content"] for m in sides[0][0] if m["role"] == "user"), None)
    said = taken.optional("prompt", str)
    if said is not None and first is not None and said != first and not taken.faults:
        taken.fault("prompts-differ", "field 'prompt' is not what chosen and rejected ask")
    scores = [taken.number(k) for k in ("score_chosen", "score_rejected") if taken.has(k)]
    check_answers(taken, [answer for _, answer in sides])
    taken.check()
    prompt = taken.prompt(sides[0][0])
    tiers: tuple[tuple[int, ...], ...] = ((0,), (1,))
    if len(scores) == 2 and scores[0] == scores[1]:
        tiers = ((0, 1),)
    elif len(scores) == 2 and scores[0] < scores[1]:
        taken.repair("scores-reversed", f"the chosen scores {scores[0]}, the rejected {scores[1]}", "the choice stands")
    ordered = len(scores) == 2 and scores[0] >= scores[1]
    extra = taken.extra(
        prompt=None if said is None else said if said != first else None,
        messages=taken.row.get("messages"),
        score_chosen=None if ordered else taken.row.get("score_chosen"),
        score_rejected=None if ordered else taken.row.get("score_rejected"),
    )
    ratings = tuple(map(float, scores)) if ordered else ()
    made = candidates(prompt, [answer for _, answer in sides])
    return [Judgment(kind="pair", prompt=prompt, candidates=made, tiers=tiers, ratings=ratings, extra=extra)]


def write(record: Record) -> list[dict[str, Any]]:
    record, rows = judgment_of(record), []
    asked = next((m["content"] for m in record.prompt.messages if m["role"] == "user"), None)
    if asked is None:
        raise CantHold("the prompt has no user's turn")
    two_tied = len(record.candidates) == 2 and len(record.tiers) == 1 and len(record.ratings) == 2
    for better, worse, _ in [(0, 1, 0.0)] if two_tied else pairs(record):
        sides = [[*record.prompt.messages, assistant(record.candidates[i].answer)] for i in (better, worse)]
        row: dict[str, Any] = {"prompt": asked, "prompt_id": record.prompt.id, "chosen": sides[0], "rejected": sides[1]}
        row["messages"] = sides[0]
        if record.ratings:
            row |= {"score_chosen": record.ratings[better], "score_rejected": record.ratings[worse]}
        rows.append(finished(row, record, "ultrafeedback_binarized", FIELDS))
        kept = record.extra.get("ultrafeedback_binarized") or {}
        rows[-1] |= {k: v for k, v in kept.items() if k in FIELDS}
    return rows
