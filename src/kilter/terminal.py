"""Tables for the terminal: a run's verdict, several seeds side by side, and what your own choices changed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kilter.progress import clock
from kilter.runs import read_done
from kilter.text import printable


def console() -> Console:
    """Standard output; wide enough for the tables where it is a file or a pipe."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 110, highlight=False, markup=False)


def number(value: Any, digits: int = 2) -> str:
    """A figure, or a dash where there is none; an interval's mean."""
    if isinstance(value, Mapping):
        value = value.get("mean")
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) and value == value else "–"


def with_interval(value: Any, digits: int = 2, sign: bool = False) -> str:
    """`0.71 [0.67, 0.74]`, as much of it as there is."""
    if not isinstance(value, Mapping):
        return number(value, digits)
    show = (lambda v: f"{v:+.{digits}f}") if sign else (lambda v: f"{v:.{digits}f}")
    mean, lo, hi = (value.get(k) for k in ("mean", "lo", "hi"))
    if mean is None:
        return "–"
    return show(mean) if lo is None or hi is None else f"{show(mean)} [{show(lo)}, {show(hi)}]"


COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("oracle", "oracle", number),
    ("win vs SFT [95 %]", "win_vs_sft", with_interval),
    ("KL nats", "kl", lambda v: number(v, 1)),
    ("length", "length", lambda v: number(v, 1)),
    ("corpus ppl", "corpus_ppl", lambda v: number(v, 2)),
    ("over-refusal", "over_refusal", number),
    ("unsafe answered", "unsafe_compliance", number),
)
"""Heading, key in `summary.json`, how it is shown."""


def verdict_table(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per model, in the order in which they were made."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("model")
    for heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for name, figures in models.items():
        table.add_row(Text(printable(name), style="bold"), *(show(figures.get(key)) for _, key, show in COLUMNS))
    return table


def show_run(run: Any) -> None:
    """The verdict, what the bars say, and how long each stage took."""
    out, summary = console(), run.summary
    if summary.get("models"):
        out.print()
        out.print(verdict_table(summary["models"]))
        out.print()
        for line in footnotes(summary):
            out.print(line, soft_wrap=True)
    times = stage_seconds(run.folder)
    if times:
        parts = " · ".join(f"{name} {clock(s)}" for name, s in times.items())
        out.print(f"time: {parts} · in all {clock(sum(times.values()))}", soft_wrap=True)


def footnotes(summary: Mapping[str, Any]) -> list[str]:
    """What is true of the run as a whole."""
    lines = []
    reward = summary.get("reward_model") or {}
    if reward:
        lines.append(
            f"reward model: agrees with raters on {number(reward.get('accuracy_raters'))} of held-out pairs, "
            f"with the oracle on {number(reward.get('accuracy_oracle'))} "
            f"({number(reward.get('accuracy_clear'))} of clear ones); "
            f"correlation with length {number(reward.get('length_corr'))}"
        )
    agreement = (summary.get("raters") or {}).get("agreement")
    if agreement is not None:
        lines.append(f"two raters agree on {number(agreement)} of the pairs that both order")
    bars = summary.get("bars") or []
    if bars:
        lines.append(f"bars: {sum(bool(b.get('passed')) for b in bars)} of {len(bars)} met")
        lines += [
            f"  not met: {printable(str(b.get('name')))}: {number(b.get('value'), 3)}, wanted {b.get('bar')}"
            for b in bars
            if not b.get("passed")
        ]
    return lines


def stage_seconds(folder: Path) -> dict[str, float]:
    """Seconds that each finished stage of a run took, in the recipe's order."""
    path = folder / "recipe.yaml"
    names = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages", {}) if path.is_file() else {}
    done = {name: read_done(folder / name) for name in names}
    return {name: float(d.get("seconds") or 0.0) for name, d in done.items() if d}


def show_seeds(summaries: Mapping[int, Mapping[str, Any]]) -> None:
    """Oracle score and win rate of every model, seed by seed, and their means."""
    models = list(dict.fromkeys(name for s in summaries.values() for name in s.get("models", {})))
    if not models:
        return
    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        padding=(0, 2, 0, 0),
        title="oracle / win vs SFT",
        title_justify="left",
    )
    table.add_column("model")
    for heading in (*(f"seed {s}" for s in summaries), "mean"):
        table.add_column(heading, justify="right")
    for name in models:
        found = [s.get("models", {}).get(name, {}) for s in summaries.values()]
        cells = [f"{number(f.get('oracle'))} / {number(f.get('win_vs_sft'))}" for f in found]
        means = " / ".join(number(_mean([f.get(key) for f in found])) for key in ("oracle", "win_vs_sft"))
        table.add_row(Text(printable(name), style="bold"), *cells, means)
    out = console()
    out.print()
    out.print(table)


def _mean(values: Sequence[Any]) -> float | None:
    plain = [v.get("mean") if isinstance(v, Mapping) else v for v in values]
    known = [float(v) for v in plain if v is not None]
    return sum(known) / len(known) if known else None


def show_comparison(found: Any) -> None:
    """What each method got and spent, and what each had got at each equal budget."""
    from kilter.reporting.compared import by_axis

    out = console()
    table = _plain_table("method")
    win = f"win vs {found.baseline}"
    for heading in (win, "reward", "oracle", "KL nats", "length", "prompts", "tokens", "steps", "time", "MB", "seeds"):
        table.add_column(heading, justify="right", no_wrap=heading == win)
    for g in found.groups:
        table.add_row(Text(printable(g.label), style="bold"), *_line(g, found.baseline))
    out.print()
    out.print(table)
    several = any(len(g.members) > 1 for g in found.groups)
    out.print(
        "wins: mean over seeds ± their standard deviation [lowest, highest]"
        if several
        else "wins: with 95 % intervals over the prompts of one run; another seed may differ by more",
        soft_wrap=True,
    )
    _show_labels(found, out)
    for g in found.groups:
        if g.members[0].note:
            out.print(f"{printable(g.label)}: {printable(g.members[0].note)}", soft_wrap=True)
    for axis, at in by_axis(found).items():
        _show_matched(axis, at, found, out)
    for note in found.notes:
        out.print(f"note: {printable(note)}", soft_wrap=True)


def _show_labels(found: Any, out: Any) -> None:
    """What people were asked for, once for all methods that learned from the same."""
    from kilter.reporting.compared import labels_of

    who: dict[str, list[str]] = {}
    for g in found.groups:
        who.setdefault(labels_of(g.members[0]), []).append(printable(g.label))
    for told, names in who.items():
        said = "no labels:" if told == "–" else f"labels: {told} for"
        out.print(f"{said} {', '.join(names)}", soft_wrap=True)


def _line(g: Any, baseline: str) -> list[str]:
    win, spread = ("–" if g.label == baseline else _of(g.end("win"), 2, True)), g.spread("win")
    if spread is not None and win != "–":
        win = win.replace(" [", f" ± {number(spread, 3)} [")
    ends = [_of(g.end(k), 2 if k != "length" else 1) for k in ("reward", "gold", "kl", "length")]
    spent = [_count(g.spent(k)) for k in ("prompts", "tokens", "steps")]
    took = g.over(lambda m: m.budget("seconds", m.spent, {}))
    peak = _count(g.over(lambda m: m.peak_mb))
    return [win, *ends, *spent, clock(took.mean) if took else "–", peak, str(len(g.members))]


def _show_matched(axis: str, at: Sequence[Any], found: Any, out: Any) -> None:
    """Methods down, budgets across: who wins how often, at what drift."""
    from kilter.reporting.compared import AXIS_NAMES, amount, picked, why

    budgets = [m for m in at if m.budget is not None]
    out.print()
    out.print(f"at equal {AXIS_NAMES[axis]}, " + ("within" if budgets else "nobody's are known"), style="bold")
    if not budgets:
        return
    table = _plain_table("method")
    for m in budgets:
        told = clock(m.budget) if axis == "seconds" else amount(axis, m.budget)
        table.add_column(told, justify="right", no_wrap=True)
    star = False
    for g in found.groups:
        cells = [_by_then([p for _, p in picked(m, g)], g.label == found.baseline) for m in budgets]
        if any(c != "–" for c in cells):
            star = star or any("*" in c for c in cells)
            table.add_row(Text(printable(g.label), style="bold"), *cells)
    out.print(table)
    if star:
        out.print("  * by the reward model, on its way; the others by the verdict, at their end", soft_wrap=True)
    for u in budgets[-1].left_out:
        out.print(f"  not matched: {printable(u.group.label)} {why(axis, u)}", soft_wrap=True)


def _by_then(points: Sequence[Any], itself: bool) -> str:
    from kilter.reporting.contest import over_seeds

    if not points:
        return "–"
    win, reward, kl = (over_seeds([p.got.get(k) for p in points]) for k in ("win", "reward", "kl"))
    first = "start" if itself else _of(win) if win else f"reward {_of(reward)}"
    return f"{first}{'*' if any(p.by == 'reward' for p in points) else ''}, KL {_of(kl, 1)}"


def _plain_table(first: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    return table


def _of(value: Any, digits: int = 2, interval: bool = False) -> str:
    """An estimate, with its interval where that is asked for and known."""
    if value is None:
        return "–"
    if interval and value.has_interval:
        return with_interval({"mean": value.mean, "lo": value.lo, "hi": value.hi}, digits)
    return number(value.mean, digits)


def _count(value: Any) -> str:
    return "–" if value is None else f"{value.mean:,.0f}"
