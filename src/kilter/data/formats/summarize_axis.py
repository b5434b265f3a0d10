"""summarize_from_feedback, axis: one `summary` with ratings of 1 to 7 on several axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kilter.data.formats.summarize_comparisons import asked, info_of, summary, summary_row
from kilter.data.parts import CantHold, Taken, finished, seen
from kilter.data.parts import judgment as judgment_of
from kilter.data.records import Judgment, Record, is_number

ABOUT = "a summary rated overall and for accuracy, coverage and coherence"
LICENSE = "MIT"
KINDS = ("rankings",)
FIELDS = ("info", "summary", "worker", "batch", "split")


def matches(row: Mapping[str, Any]) -> float:
    return 1.0 if {"info", "summary"} <= set(row) else 0.0


def read(taken: Taken) -> list[Record]:
    prompt, info = asked(taken)
    given = taken.value("summary", dict, {})
    made, axes = summary(taken, prompt, 0, given), given.get("axes")
    if axes is not None and not isinstance(axes, dict):
        taken.fault("wrong-type", f"'axes' must be an object, got {seen(axes)}")
    found: dict[str, float | None] = {}
    for name, value in (axes if isinstance(axes, dict) else {}).items():
        found[name] = value if is_number(value) else None
        if value is not None and not is_number(value):
            taken.repair("rating-not-given", f"axis {name} is {value!r:.30}", "the axis is left without a rating")
    if not any(v is not None for v in found.values()):
        taken.fault("no-rating", "no axis has a rating")
    worker = taken.optional("worker", str)
    taken.check()
    overall = found.get("overall")
    return [
        Judgment(
            kind="rating",
            prompt=prompt,
            candidates=(made,),
            tiers=((0,),),
            ratings=() if overall is None else (float(overall),),
            aspects=(found,),
            rater={"id": worker, "type": "person"} if worker else {},
            extra=taken.extra(info=info, worker="" if worker == "" else None),
        )
    ]


def write(record: Record) -> list[dict[str, Any]]:
    record = judgment_of(record)
    if not record.aspects and not record.ratings:
        raise CantHold("the axis format holds ratings of a summary; this judgment has none")
    rows = []
    for i, candidate in enumerate(record.candidates):
        axes = dict(record.aspects[i]) if record.aspects else {"overall": record.ratings[i]}
        one = summary_row(candidate)
        row: dict[str, Any] = {
            "info": info_of(record, "summarize_axis"),
            "summary": one if "axes" in one else {**one, "axes": axes},
        }
        row |= {"worker": record.rater["id"]} if record.rater.get("id") else {}
        rows.append(finished(row, record, "summarize_axis", FIELDS, skip=("split_group", "category")))
    return rows
