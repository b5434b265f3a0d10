"""What curation dropped: a waterfall of rows from step to step, the reasons, and examples beside what they matched."""

from __future__ import annotations

from typing import Any

from kilter.reporting.charts import Scale
from kilter.reporting.dots import WIDE, twice
from kilter.reporting.files import Run, StageFiles, figure, mapping, rows
from kilter.reporting.layout import Section, card, folded, paragraphs, table
from kilter.reporting.markup import DASH, MINUS, Html, count, el, join, number, percent
from kilter.reporting.samples import clipped

SHOWN = 4
"""Examples shown of one step."""


def curation_sections(run: Run) -> list[Section]:
    """One section for each stage that curated."""
    found = [s for s in run.of_method("curate") if rows(s.curation.get("steps")) or s.curation.get("failed")]
    return [_section(run, stage, "curation" if n == 0 else f"curation-{stage.name}") for n, stage in enumerate(found)]


def _section(run: Run, stage: StageFiles, name: str) -> Section:
    steps = rows(stage.curation.get("steps"))
    begun, kept = figure(stage.curation.get("rows")), figure(stage.curation.get("kept"))
    lead = "Each bar is what a step left; the paler end is what it dropped."
    if begun is not None and kept is not None:
        lead = f"{count(kept)} of {count(begun)} rows stayed. {lead}"
    body = join(
        [
            card(waterfall(steps)) if steps else None,
            el("div", paragraphs(*_told(stage)), class_="notes"),
            _failed(stage),
            *(part for step in steps if (part := _step(run, step))),
        ]
    )
    title = "Curation" if stage.name == "curate" else f"Curation: {stage.name}"
    return Section(name, title, body, lead)


def _told(stage: StageFiles) -> list[str]:
    failed, checked = mapping(stage.curation.get("failed")), mapping(stage.curation.get("decontamination"))
    out = [f"The build failed at {failed.get('step')}: {failed.get('why')}"] if failed else []
    if checked.get("checked"):
        names = ", ".join(mapping(checked.get("benchmarks"))) or DASH
        out.append(
            f"Checked against {names}: {count(figure(checked.get('dropped')))} rows overlapped and were dropped, "
            f"{count(figure(checked.get('template_only')))} shared a template only."
        )
    elif checked:
        out.append("These rows were not checked against any benchmark.")
    return out


def _failed(stage: StageFiles) -> Html | None:
    """What the step that refused had found."""
    failed = mapping(stage.curation.get("failed"))
    found = _report(mapping(failed.get("report")), str(failed.get("step")))
    return folded(el("b", str(failed.get("step"))), found, kind="setting", shown=True) if found else None


def _report(report: dict[str, Any], name: str) -> Html | None:
    """What a step says of itself: a measure on each line; measures with parts as a table of their own."""
    plain = [[key, clipped(_plain(v), 600)] for key, v in report.items() if key != "table" and v not in ({}, [], None)]
    parts = [table(["what", "found"], plain, f"What {name} found", "settings")] if plain else []
    measured = {key: mapping(value) for key, value in mapping(report.get("table")).items()}
    if measured:
        head = list(dict.fromkeys(k for row in measured.values() for k in row))
        body = [[key, *(_plain(row.get(k)) for k in head)] for key, row in measured.items()]
        parts.insert(0, table(["measure", *head], body, f"Measures of {name}", "settings"))
    return join(parts) if parts else None


def waterfall(steps: list[dict[str, Any]]) -> Html:
    """Rows left after each step, with what the step dropped at the bar's end."""
    begun = figure(steps[0].get("entered")) or 0.0
    told = "; ".join(
        f"{s.get('step')}: {count(figure(s.get('dropped')))} dropped, {count(figure(s.get('kept')))} left"
        for s in steps
    )
    return twice(lambda width: _waterfall(steps, width, begun, f"Rows left after each step. {told}."))


def _waterfall(steps: list[dict[str, Any]], width: int, begun: float, label: str) -> Html:
    wide = width == WIDE
    left, right, step = (150.0, width - 250.0, 34) if wide else (0.0, float(width), 48)
    x = Scale((0.0, begun or 1.0), (left, right))
    parts = []
    for i, one in enumerate(steps):
        kept, gone = figure(one.get("kept")) or 0.0, figure(one.get("dropped")) or 0.0
        y, thick, base = (
            (4 + step * i + 8, 14, 4 + step * i + 20) if wide else (4 + step * i + 22, 10, 4 + step * i + 14)
        )
        share = percent(gone / (kept + gone), 1) if kept + gone else DASH
        words = f"{count(kept)} left"
        aside = f"{MINUS}{count(gone)} ({share})" if gone else "nothing dropped"
        end = x(kept + gone)
        at = {"x": right + 12, "y": base} if wide else {"x": right, "y": base, "text_anchor": "end"}
        parts.append(el(
            "g",
            el("title", f"{one.get('step')}: {words}, {aside}"),
            el("text", str(one.get("step")), class_="row lead", x=0, y=base),
            el("rect", class_="rail-bar", x=left, y=y, width=right - left, height=thick, rx=3),
            el("rect", class_="second", x=x(kept), y=y, width=max(0.0, end - x(kept)), height=thick) if gone else None,
            el("rect", class_="fill", x=left, y=y, width=max(0.0, x(kept) - left), height=thick, rx=3),
            el("text", el("tspan", words, class_="value lead"), el("tspan", f"  {aside}", class_="faint"),
               class_="row", **at),
            class_="hit m1",
        ))  # fmt: skip
    height = 4 + step * len(steps) + 6
    return el("svg", *parts, viewBox=f"0 0 {width} {height:.0f}", role="img", aria_label=label, class_="rows")


def _step(run: Run, step: dict[str, Any]) -> Html | None:
    """The reasons and a few examples of one step."""
    reasons, notes = mapping(step.get("reasons")), mapping(step.get("notes"))
    name = str(step.get("step"))
    report = _report(mapping(step.get("report")), name)
    if not reasons and not notes and not report:
        return None
    counts = [[reason, count(figure(n))] for reason, n in reasons.items()]
    counts += [[f"{reason} (kept, noted)", count(figure(n))] for reason, n in notes.items()]
    shown = rows(step.get("examples"))[:SHOWN]
    body = [
        [
            clipped(run.within(str(e.get("where") or DASH)), 80),
            str(e.get("reason") or DASH),
            clipped(str(e.get("text") or ""), 300),
            _evidence(e),
        ]
        for e in shown
    ]
    examples = table(["where", "reason", "row", "seen from"], body, f"Examples of rows dropped by {name}", "settings")
    total = f" {count(figure(step.get('dropped')))} dropped"
    return folded(
        join([el("b", name), el("span", total, class_="aside")]),
        table(["reason", "rows"], counts, f"Reasons of {name}", "settings") if counts else None,
        examples if body else None,
        report,
        kind="setting",
    )


def _evidence(example: dict[str, Any]) -> str:
    """Evidence in a line: what was measured, and the text that was matched."""
    found = mapping(example.get("evidence"))
    if rows(found.get("overlaps")):
        first = rows(found["overlaps"])[0]
        return clipped(f"{first.get('benchmark')}: {first.get('span')}", 400)
    parts = [
        f"{k} {_plain(v)}" for k, v in found.items() if k not in ("text", "spans", "nearest", "match_where", "kept")
    ]
    if example.get("match_text"):
        parts.append(f"matched: {example['match_text']}")
    return clipped("; ".join(parts), 400)


def _plain(value: Any) -> str:
    if value is None:
        return DASH
    amount = figure(value)
    if amount is not None:
        return number(amount)
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)
