"""UltraFeedback: four `completions` of an `instruction`, each with an overall score and a rating for every aspect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data import judgments
from kilter.data.parts import CantHold, Taken, bits, check_answers, finished, one_question, seen, user
from kilter.data.parts import judgment as judgment_of
from kilter.data.records import Candidate, Judgment, Record, is_number

ABOUT = "completions of several models, each scored from 1 to 10 and rated in aspects"
LICENSE = "MIT"
KINDS = ("rankings",)
FIELDS = ("source", "instruction", "models", "completions", "correct_answers", "incorrect_answers")
PARTS = ("model", "principle", "custom_system_prompt", "response", "overall_score")


def matches(row: Mapping[str, Any]) -> float:
    return 0.8 + 0.2 * ("models" in row) if "instruction" in row and "completions" in row else 0.0


def read(taken: Taken) -> list[Record]:
    prompt = taken.prompt([user(taken.text("instruction", "empty-prompt"))])
    found, lost = [], {}
    for number, given in enumerate(taken.value("completions", list, [])):
        one = _completion(taken, number, given)
        name = _unusable(one) if one is not None else ""
        if name:
            taken.repair(name, f"completion {number} has {LACKS[name]}", "it is set aside; the others stay")
            lost[str(number)] = given
        elif one is not None:
            found.append(one)
    if len(found) < 2 and not taken.faults:
        name = next((n for n in LACKS if any(r[0] == n for r in taken.repairs)), "no-rating")
        taken.fault(name, f"{len(found)} of the completions have a text and an overall score; a ranking needs 2")
    check_answers(taken, [answer for answer, *_ in found])
    taken.check()
    made = tuple(
        Candidate(prompt_id=prompt.id, answer=answer, generator=generator, extra=more)
        for answer, _, _, generator, more in found
    )
    scores = tuple(float(score) for _, score, *_ in found)
    aspects = tuple(rated for _, _, rated, _, _ in found)
    return [
        Judgment(
            kind="rating",
            prompt=prompt,
            candidates=made,
            tiers=judgments.tiers_from_scores(scores),
            ratings=scores,
            aspects=aspects if any(aspects) else (),
            extra=taken.extra(_unrated=lost or None),
        )
    ]


LACKS = {"empty-answer": "no text", "no-rating": "no overall score"}


def _unusable(one: tuple[str, Any, dict, dict, dict]) -> str:
    """Why a completion can't be ranked, if it can't."""
    return "empty-answer" if not one[0].strip() else "no-rating" if one[1] is None else ""


def _completion(taken: Taken, number: int, given: Any) -> tuple[str, Any, dict, dict, dict] | None:
    """(response, overall score or None, aspects, generator, the rest) of one completion."""
    if not isinstance(given, dict) or not isinstance(given.get("response"), str):
        taken.fault("wrong-type", f"completion {number} must be an object with a response, got {seen(given)}")
        return None
    rated, notes = _aspects(taken, number, given.get("annotations"))
    names = {"model": "model", "principle": "principle", "custom_system_prompt": "system"}
    generator = {names[k]: given[k] for k in names if isinstance(given.get(k), str)}
    used = {k for k in names if names[k] in generator} | {"response", "annotations"}
    score = given.get("overall_score")
    number_of = as_number(score)
    if number_of is not None and not 0 <= number_of <= 10:
        taken.fault("rating-out-of-range", f"the overall score of completion {number} is {score}, not from 1 to 10")
    if is_number(score):
        used.add("overall_score")
    elif number_of is not None:
        taken.repair(
            "score-as-text", f"the overall score of completion {number} is the text {score!r:.20}", "read as a number"
        )
        used.add("overall_score")
    more = {k: v for k, v in given.items() if k not in used}
    return given["response"], number_of, rated, generator, {**more, **({"annotations": notes} if notes else {})}


def _aspects(taken: Taken, number: int, annotations: Any) -> tuple[dict[str, float | None], dict[str, Any]]:
    """The rating of every aspect, and the annotations as they stood (rationales, types)."""
    if annotations is None:
        return {}, {}
    if not isinstance(annotations, dict):
        taken.fault("wrong-type", f"the annotations of completion {number} must be an object, got {seen(annotations)}")
        return {}, {}
    found: dict[str, float | None] = {}
    for name, given in annotations.items():
        if given is None:
            continue
        rating = given.get("Rating") if isinstance(given, dict) else given
        found[name] = as_number(rating)
        if found[name] is None:
            told = f"the rating of completion {number} for {name} is {rating!r:.30}"
            taken.repair("rating-not-given", told, "the aspect is left without a rating")
    return found, annotations


def as_number(value: Any) -> float | None:
    """A number, also one that is written as a text; None for "N/A" and the like."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
        value = int(value) if value.is_integer() else value
    return value if is_number(value) else None


def write(record: Record) -> list[dict[str, Any]]:
    record = judgment_of(record)
    if not record.ratings:
        raise CantHold("UltraFeedback holds a score for each completion; this judgment has none")
    if len(record.candidates) < 2:
        raise CantHold("UltraFeedback compares completions; this judgment has one answer")
    if not all(0 <= score <= 10 for score in record.ratings):
        raise CantHold("UltraFeedback's scores run from 1 to 10; those of this judgment do not")
    asked, own = one_question(record.prompt.messages, "UltraFeedback"), bits(record, "ultrafeedback")
    rows = []
    for i, c in enumerate(record.candidates):
        names = {"model": "model", "principle": "principle", "system": "custom_system_prompt"}
        row = {names[k]: v for k, v in c.generator.items() if k in names} | {"response": c.answer}
        aspects = record.aspects[i] if record.aspects else {}
        if aspects and "annotations" not in c.extra:
            row["annotations"] = {a: {"Rating": "N/A" if v is None else f"{v:g}"} for a, v in aspects.items()}
        rows.append({**row, **c.extra, "overall_score": record.ratings[i]})
    for place, given in sorted((own.get("~unrated") or {}).items(), key=lambda kv: int(kv[0])):
        rows.insert(int(place), given)
    row = {"instruction": asked, "completions": rows}
    if not own:
        row["models"] = [str(c.generator.get("model", "")) for c in record.candidates]
    return [finished(row, record, "ultrafeedback", FIELDS)]
