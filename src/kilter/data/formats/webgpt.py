"""webgpt_comparisons: two answers to a `question`, the quotes they rest on, and scores from -1 to 1 (0 is a tie)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data import judgments
from kilter.data.parts import CantHold, Taken, bits, check_answers, finished, one_question, seen, user
from kilter.data.parts import judgment as judgment_of
from kilter.data.records import Candidate, Judgment, Record, content_id

ABOUT = "two answers with their sources, scored against each other"
LICENSE = ""
KINDS = ("rankings",)
PARTS = ("quotes", "tokens")
FIELDS = ("question", "quotes_0", "answer_0", "tokens_0", "score_0", "quotes_1", "answer_1", "tokens_1", "score_1")


def matches(row: Mapping[str, Any]) -> float:
    return 1.0 if {"question", "answer_0", "answer_1"} <= set(row) else 0.0


def read(taken: Taken) -> list[Record]:
    question = taken.row.get("question")
    if isinstance(question, str):
        question = {"full_text": question}
        taken.used.add("question")
        taken.repair("question-as-text", "the question is a text, not an object", "it is read as its full text")
    else:
        question = taken.value("question", dict, {})
    asked = question.get("full_text")
    if not isinstance(asked, str) and not taken.faults:
        taken.fault("wrong-type", f"the question must have a full_text, got {seen(asked)}")
    elif isinstance(asked, str) and not asked.strip():
        taken.fault("empty-prompt", "the question is empty")
    answers = [taken.text(f"answer_{i}", "empty-answer") for i in (0, 1)]
    scores = tuple(float(taken.number(f"score_{i}", -1, 1)) for i in (0, 1))
    if sum(scores) and abs(sum(scores)) > 1e-3 and not taken.faults:
        taken.fault("rating-out-of-range", f"the scores {scores} must sum to 0")
    check_answers(taken, answers)
    taken.check()
    name = question.get("id")
    group = name if isinstance(name, str) and name else content_id(asked)
    prompt = taken.prompt([user(str(asked))], split_group=group)
    made = []
    for i, answer in enumerate(answers):
        more = {part: taken.row[f"{part}_{i}"] for part in PARTS if f"{part}_{i}" in taken.row}
        taken.used |= {f"{part}_{i}" for part in PARTS}
        made.append(Candidate(prompt_id=prompt.id, answer=answer, extra=more))
    tiers, rest = judgments.tiers_from_scores(scores), {k: v for k, v in question.items() if k != "full_text"}
    extra = taken.extra(question=rest or None)
    return [Judgment(kind="pair", prompt=prompt, candidates=tuple(made), tiers=tiers, ratings=scores, extra=extra)]


def write(record: Record) -> list[dict[str, Any]]:
    record = judgment_of(record)
    if len(record.candidates) != 2:
        raise CantHold(f"webgpt holds two answers, this judgment has {len(record.candidates)}")
    asked, own = one_question(record.prompt.messages, "webgpt"), bits(record, "webgpt").get("question")
    told = {"full_text": asked, **(own if isinstance(own, dict) else {})}
    if own is None and record.prompt.split_group not in ("", content_id(asked)):
        told["id"] = record.prompt.split_group
    scores = record.ratings
    if len(scores) != 2 or abs(sum(scores)) > 1e-3 or max(map(abs, scores)) > 1:
        sign = 0 if len(record.tiers) == 1 else 1 if record.tiers[0] == (0,) else -1
        scores = (float(sign), float(-sign))
    row: dict[str, Any] = {"question": told}
    for i, c in enumerate(record.candidates):
        row |= {f"{part}_{i}": c.extra[part] for part in PARTS if part in c.extra}
        row |= {f"answer_{i}": c.answer, f"score_{i}": scores[i]}
    return [finished(row, record, "webgpt", FIELDS, skip=("split_group",))]
