"""An examination on a terminal: findings as a table, rows with their trained spans in colour; plain text in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kilter.doctor.finding import Section, Span, count, worst
from kilter.doctor.targets import Examination
from kilter.text import printable

STYLES = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "bold red"}
TRAINED = "bold green"
LONGEST = 600
"""Characters of a row that are shown."""


def show(examination: Examination, out: Console) -> None:
    """Print every section, and what it comes to."""
    for section in examination.sections:
        out.print()
        out.print(Text(printable(f"{section.name}: {section.about}"), style="bold"), soft_wrap=True)
        _table(section, out)
        if section.missing:
            out.print(Text(f"  not yet checkable: {printable(section.missing)}", style="dim"), soft_wrap=True)
        if section.rows:
            out.print(Text(f"  rows, what is trained {'in colour' if out.is_terminal else 'in ⟦ ⟧'}:", style="dim"))
        for where, spans in section.rows:
            out.print(row_text(where, spans, out.is_terminal), soft_wrap=not out.is_terminal)
    out.print()
    level = worst(examination.findings)
    out.print(Text(count(examination.findings), style=STYLES[level]))


def _table(section: Section, out: Console) -> None:
    """Findings in two columns; in a pipe, a line for each, as long as it is."""
    if not out.is_terminal:
        for f in section.findings:
            print(printable(f"  {f.level:<4}  {f.name}: {f.saw}{f'; {f.do}' if f.do else ''}"), file=out.file)
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for f in section.findings:
        said = Text(printable(f.saw))
        if f.do:
            said.append(f"\n→ {printable(f.do)}", style="italic")
        table.add_row(Text(f.level, style=STYLES[f.level]), Text(printable(f.name)), said)
    out.print(table)


def row_text(where: str, spans: Sequence[Span], colour: bool) -> Text:
    """A row with its trained stretches set apart; a line break is shown as ⏎."""
    text = Text.assemble((f"  {printable(where)}  ", "dim"))
    left = LONGEST
    for raw, trained in spans:
        part = _flat(raw)[:left]
        left -= len(part)
        if not part:
            continue
        shown = part if colour or not trained else f"⟦{part}⟧"
        text.append(shown, style=TRAINED if trained else "")
    if left <= 0:
        text.append("…", style="dim")
    return text


def _flat(text: str) -> str:
    """Printable text on one line."""
    return printable(text).replace("\n", "⏎").replace("\t", "→")
