"""SHP: two comments on a post of Reddit (`history`), `labels` 1 where A is the better; rows of a post stay together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.parts import CantHold, Taken, bits, candidates, check_answers, finished, one_question, user
from kilter.data.parts import judgment as judgment_of
from kilter.data.records import Judgment, Record

ABOUT = "two comments on one post, with the votes they got"
LICENSE = "MIT"
KINDS = ("rankings",)
FIELDS = (
    "post_id",
    "domain",
    "upvote_ratio",
    "history",
    "c_root_id_A",
    "c_root_id_B",
    "created_at_utc_A",
    "created_at_utc_B",
    "score_A",
    "score_B",
    "human_ref_A",
    "human_ref_B",
    "labels",
    "seconds_difference",
    "score_ratio",
)


def matches(row: Mapping[str, Any]) -> float:
    known = sum(f in row for f in FIELDS)
    return 0.7 + 0.3 * known / len(FIELDS) if {"history", "human_ref_A", "human_ref_B"} <= set(row) else 0.0


def read(taken: Taken) -> list[Record]:
    asked = taken.text("history", "empty-prompt")
    answers = [taken.text(f"human_ref_{x}", "empty-answer") for x in "AB"]
    label, post = taken.number("labels"), taken.optional("post_id", str)
    if label not in (0, 1) and "labels" in taken.row and not taken.faults:
        taken.fault("rating-out-of-range", f"field 'labels' must be 1 (A is better) or 0, got {label}")
    scores = [taken.number(f"score_{x}") for x in "AB"] if taken.has("score_A") and taken.has("score_B") else []
    if scores and scores[0] != scores[1] and (scores[0] > scores[1]) != bool(label) and not taken.faults:
        taken.fault("label-against-scores", f"labels is {label}, but A has {scores[0]} votes and B {scores[1]}")
    check_answers(taken, answers)
    taken.check()
    domain = taken.optional("domain", str)
    given = {k: v for k, v in {"split_group": post, "category": domain}.items() if v}
    empty = {k: "" for k, v in {"post_id": post, "domain": domain}.items() if v == ""}
    prompt = taken.prompt([user(asked)], **given)
    tiers = ((0,), (1,)) if label else ((1,), (0,))
    ratings = tuple(map(float, scores))
    extra = taken.extra(**empty)
    made = candidates(prompt, answers)
    return [Judgment(kind="pair", prompt=prompt, candidates=made, tiers=tiers, ratings=ratings, extra=extra)]


def write(record: Record) -> list[dict[str, Any]]:
    record = judgment_of(record)
    if len(record.candidates) != 2 or len(record.tiers) != 2:
        raise CantHold("SHP holds two answers of which one is better; a tie or more answers would be lost")
    a, b = (c.answer for c in record.candidates)
    row: dict[str, Any] = {"history": one_question(record.prompt.messages, "SHP"), "human_ref_A": a, "human_ref_B": b}
    row["labels"] = int(record.tiers[0] == (0,))
    if record.prompt.split_group:
        row["post_id"] = record.prompt.split_group
    if record.prompt.category:
        row["domain"] = record.prompt.category
    if record.ratings:
        row |= {"score_A": record.ratings[0], "score_B": record.ratings[1]}
    if not bits(record, "shp"):
        row.setdefault("post_id", record.prompt.id)
    return [finished(row, record, "shp", FIELDS, skip=("split_group", "category"))]
