"""The pieces that sections are built from: a section with its heading, a grid of charts, tables that scroll alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kilter.reporting.markup import Html, el, join


@dataclass(frozen=True)
class Section:
    """One part of the page; an empty body leaves it out."""

    id: str
    title: str
    body: Html
    lead: Html | str = ""
    """One or two sentences on what is seen and how to read it."""

    def html(self) -> Html:
        lead = el("p", self.lead, class_="lead") if self.lead else None
        return el(
            "section",
            el("h2", self.title, id=f"{self.id}-title"),
            lead,
            self.body,
            id=self.id,
            aria_labelledby=f"{self.id}-title",
        )


def grid(figures: Iterable[Html]) -> Html:
    """Charts side by side, as many as fit."""
    found = [f for f in figures if f]
    return el("div", *found, class_="grid") if found else Html("")


def card(*content: Any, kind: str = "") -> Html:
    return el("div", *content, class_=f"card {kind}".strip())


def folded(summary: Any, *content: Any, kind: str = "", shown: bool = False) -> Html:
    """Content behind a line that opens it."""
    return el("details", el("summary", summary), *content, class_=kind or None, open=shown)


def scrolling(table: Html, label: str) -> Html:
    """A wide table in a frame of its own, so that the page itself never scrolls sideways."""
    return el("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def table(head: Sequence[Any], body: Iterable[Sequence[Any]], label: str, kind: str = "") -> Html:
    """A plain table whose first column names its rows."""
    top = el("tr", *(el("th", h, scope="col") for h in head))
    lines = [el("tr", el("th", row[0], scope="row"), *(el("td", c) for c in row[1:])) for row in body]
    return scrolling(el("table", el("thead", top), el("tbody", *lines), class_=kind or None), label)


def paragraphs(*texts: Any) -> Html:
    return join(el("p", t) for t in texts if t)
