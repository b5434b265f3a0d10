"""summarize_from_feedback, comparisons: two `summaries` of a post or an article, the `choice`, and how sure it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.parts import CantHold, Taken, bits, check_answers, finished, one_question, seen, user
from kilter.data.parts import judgment as judgment_of
from kilter.data.records import Candidate, Judgment, Prompt, Record

ABOUT = "two summaries of one post or article and which of them a worker preferred"
LICENSE = "MIT"
KINDS = ("rankings",)
FIELDS = ("info", "summaries", "choice", "worker", "batch", "split", "extra")


def matches(row: Mapping[str, Any]) -> float:
    return 1.0 if {"info", "summaries", "choice"} <= set(row) else 0.5 if {"info", "summaries"} <= set(row) else 0.0


def read(taken: Taken) -> list[Record]:
    prompt, info = asked(taken)
    given = taken.value("summaries", list, [])
    if len(given) != 2 and "summaries" in taken.row and not taken.faults:
        taken.fault("wrong-type", f"'summaries' must hold 2 summaries, got {len(given)}")
    made = [summary(taken, prompt, number, one) for number, one in enumerate(given)]
    choice = taken.number("choice")
    if choice not in (0, 1) and not taken.faults:
        taken.fault("rating-out-of-range", f"field 'choice' must be 0 or 1, got {choice}")
    check_answers(taken, [c.answer for c in made])
    worker = taken.optional("worker", str)
    taken.check()
    tiers = ((1,), (0,)) if choice else ((0,), (1,))
    rater = {"id": worker, "type": "person"} if worker else {}
    extra = taken.extra(info=info, worker="" if worker == "" else None)
    return [Judgment(kind="pair", prompt=prompt, candidates=tuple(made), tiers=tiers, rater=rater, extra=extra)]


def asked(taken: Taken) -> tuple[Prompt, dict[str, Any]]:
    """The post or article with the words that ask for its summary, and `info` as it stood."""
    info = taken.value("info", dict, {})
    body = info.get("post") if info.get("post") is not None else info.get("article")
    if not isinstance(body, str) and not taken.faults:
        taken.fault("wrong-type", f"'info' must hold a post or an article, got {seen(body)}")
    elif isinstance(body, str) and not body.strip():
        taken.fault("empty-prompt", "the post or article is empty")
    parts = [f"SUBREDDIT: r/{info['subreddit']}"] if info.get("subreddit") else []
    parts += [f"TITLE: {info['title']}"] if info.get("title") else []
    parts += [f"{'POST' if info.get('post') is not None else 'ARTICLE'}: {body}", "TL;DR:"]
    group, kind = info.get("id"), info.get("subreddit") or info.get("site")
    given = {"split_group": group, "category": kind}
    return taken.prompt(
        [user("\n\n".join(parts))], **{k: v for k, v in given.items() if isinstance(v, str) and v}
    ), info


def summary(taken: Taken, prompt: Prompt, number: int, given: Any) -> Candidate:
    """A summary as a candidate."""
    if not isinstance(given, dict) or not isinstance(given.get("text"), str):
        taken.fault("wrong-type", f"summary {number} must be an object with a text, got {seen(given)}")
        return Candidate(prompt_id=prompt.id, answer="")
    if not given["text"].strip():
        taken.fault("empty-answer", f"summary {number} is empty")
    policy = given.get("policy")
    made = {"model": policy} if isinstance(policy, str) and policy else {}
    more = {k: v for k, v in given.items() if k != "text" and not (k == "policy" and made)}
    return Candidate(prompt_id=prompt.id, answer=given["text"], generator=made, extra=more)


def summary_row(candidate: Candidate) -> dict[str, Any]:
    """A candidate as a summary."""
    made = {"policy": candidate.generator["model"]} if "model" in candidate.generator else {}
    return {"text": candidate.answer, **made, **candidate.extra}


def info_of(record: Judgment, name: str) -> dict[str, Any]:
    """`info` of a row: as it was read, or the question as its post."""
    known = bits(record, name).get("info")
    if isinstance(known, dict):
        return known
    group = record.prompt.split_group or record.prompt.id
    return {"id": group, "post": one_question(record.prompt.messages, "summarize_from_feedback")}


def write(record: Record) -> list[dict[str, Any]]:
    record = judgment_of(record)
    if len(record.candidates) != 2 or len(record.tiers) != 2:
        raise CantHold("a comparison holds two summaries of which one is chosen; a tie or more would be lost")
    row: dict[str, Any] = {"info": info_of(record, "summarize_comparisons")}
    row |= {"summaries": [summary_row(c) for c in record.candidates], "choice": record.tiers[0][0]}
    row |= {"worker": record.rater["id"]} if record.rater.get("id") else {}
    return [finished(row, record, "summarize_comparisons", FIELDS, skip=("split_group", "category"))]
