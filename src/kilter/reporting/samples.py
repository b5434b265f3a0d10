"""Answers of all models to the same prompts, side by side, with the oracle's scores and reasons."""

from __future__ import annotations

from typing import Any

from kilter.reporting.files import Run, class_of, figure, mapping, rows
from kilter.reporting.layout import Section
from kilter.reporting.markup import Html, count, el, join
from kilter.reporting.palette import Looks
from kilter.reporting.verdict import class_name, class_order

SHOWN = 12
LONGEST = 2400
"""Characters of one text; more of it stands in answers.jsonl."""
BRIEF = 160
"""Characters of a prompt in its headline; a longer one is shown in full below it."""
EXTRA = ("unsafe", "lookalike", "generation", "open_qa", "brainstorming", "chat")
"""Classes that get a second prompt, in this order, while there is room."""


def chosen(run: Run) -> list[dict[str, Any]]:
    """One prompt of each class, then a second one of some: a choice by hash, the same for every reader."""
    shelves: dict[str, list[dict[str, Any]]] = {}
    for row in run.answers:
        shelves.setdefault(class_of(row), []).append(row)
    order = class_order(shelves)
    if len(order) > SHOWN:
        order = order[:SHOWN]
    picked = {kind: shelves[kind][:1] for kind in order}
    for turn in (1, 2):
        for kind in (*EXTRA, *order):
            room = SHOWN - sum(map(len, picked.values()))
            if room > 0 and kind in picked and len(picked[kind]) == turn and len(shelves[kind]) > turn:
                picked[kind].append(shelves[kind][turn])
    return [row for kind in order for row in picked[kind]]


def samples_section(run: Run, looks: Looks) -> Section:
    picked = chosen(run)
    if not picked:
        return Section("samples", "Side by side", Html(""))
    kinds = list(dict.fromkeys(class_of(r) for r in picked))
    buttons = [
        el("button", "all", type="button", data_filter="", aria_pressed="true"),
        *(el("button", class_name(k), type="button", data_filter=k, aria_pressed="false") for k in kinds),
    ]
    choice = el("div", *buttons, class_="filter", role="group", aria_label="Show one kind of request", hidden=True)
    cards = [_sample(row, run, looks, shown=i == 0) for i, row in enumerate(picked)]
    return Section(
        "samples",
        "Side by side",
        join([choice, el("div", *cards, class_="samples")]),
        f"{len(picked)} of {count(run.answers_total)} held-out prompts, one or two of each kind, picked by a hash of "
        "the prompt: not by hand and not by score. Under each answer, the oracle\u2019s reasons.",
    )


def _sample(row: dict[str, Any], run: Run, looks: Looks, shown: bool) -> Html:
    kind, messages = class_of(row), rows(mapping(row.get("prompt")).get("messages"))
    answers = mapping(row.get("answers"))
    order = [n for n in [*run.models, *answers] if n in answers]
    names = list(dict.fromkeys(order))
    asked = str(messages[-1].get("content") or "") if messages else ""
    gold = {n: figure(mapping(answers[n]).get("gold")) for n in names}
    pills = [el("span", looks.key(n), f"{g:.2f}", class_="pill") for n, g in gold.items() if g is not None]
    line = join(
        [
            el("span", class_name(kind), class_="kind"),
            el("span", clipped(asked, BRIEF), class_="asked"),
            el("span", *pills, class_="pills"),
        ]
    )
    turns = [_turn(m) for m in messages] if len(messages) > 1 or len(asked) > BRIEF else []
    best = max((g for g in gold.values() if g is not None), default=None)
    columns = [_answer(n, mapping(answers[n]), looks, gold[n] is not None and gold[n] == best) for n in names]
    return el(
        "details",
        el("summary", line),
        el("div", *turns, class_="turns") if turns else None,
        el("div", *columns, class_="answers"),
        class_="sample",
        data_kind=kind,
        open=shown,
    )


def _turn(message: dict[str, Any]) -> Html:
    role = str(message.get("role") or "user")
    return el(
        "p",
        el("span", role, class_="role"),
        el("span", clipped(str(message.get("content") or "")), class_="text"),
        class_="turn",
    )


def _answer(name: str, answer: dict[str, Any], looks: Looks, best: bool) -> Html:
    gold, text = figure(answer.get("gold")), str(answer.get("text") or "")
    head = el("header", looks.key(name), el("span", f"{gold:.2f}" if gold is not None else "\u2013", class_="gold"))
    said = el("p", clipped(text) if text.strip() else el("em", "(nothing)"), class_="text")
    cut = answer.get("finished") is False
    tokens = figure(answer.get("tokens"))
    size = ", ".join(
        p for p in (f"{count(tokens)} tokens" if tokens is not None else "", "never ended" if cut else "") if p
    )
    marks = [_meter(k, figure(answer.get(k))) for k in ("helpful", "honest", "harmless")]
    reasons = answer.get("reasons") if isinstance(answer.get("reasons"), list) else []
    why = el("ul", *(el("li", clipped(str(r), 300)) for r in reasons[:12]), class_="reasons") if reasons else None
    return el(
        "article",
        head,
        said,
        el("div", *marks, class_="meters"),
        why,
        el("footer", size) if size else None,
        class_=f"answer {looks.colour(name)}" + (" best" if best else ""),
    )


def _meter(label: str, value: float | None) -> Html | None:
    """A bar from 0 to 1 with its name."""
    if value is None:
        return None
    share = round(100 * min(1.0, max(0.0, value)))
    bar = el("span", el("i", style=f"width:{share}%"), class_="track")
    return el(
        "span", label, bar, class_="meter", title=f"{label} {value:.2f}", role="img", aria_label=f"{label} {value:.2f}"
    )


def clipped(text: str, longest: int = LONGEST) -> str:
    """A text no longer than is good for a page; says how much is left out."""
    if len(text) <= longest:
        return text
    return (
        f"{text[:longest]} \u2026 ({count(len(text) - longest)} more characters)"
        if longest > 400
        else f"{text[:longest]}\u2026"
    )
