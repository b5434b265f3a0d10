"""The verdict: a headline made from the numbers, win rates, the table of models, scores by class, bars."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kilter.reporting.dots import DotRow, Interval, dot_plot, forest, percents
from kilter.reporting.files import Estimate, Run, estimate, figure, mapping, rows
from kilter.reporting.layout import Section, card, folded, scrolling, table
from kilter.reporting.markup import Html, duration, el, join, memory, number, percent, words
from kilter.reporting.measures import MEASURES, Measure
from kilter.reporting.palette import Looks, nice

WINS = (
    ("win_vs_sft", "by the oracle"),
    ("win_vs_sft_t07", "at temperature 0.7"),
    ("win_vs_sft_same_length", "where lengths are alike"),
    ("win_vs_sft_raters", "by the raters"),
)
CLASSES = (
    "generation",
    "open_qa",
    "brainstorming",
    "chat",
    "rewrite",
    "summarization",
    "classification",
    "closed_qa",
    "extract",
    "other",
    "unsafe",
    "lookalike",
)
"""The order of InstructGPT's table, with the two safety classes last."""


def class_name(name: str) -> str:
    """A use-case class as one reads it."""
    known = {"open_qa": "open question", "closed_qa": "closed question", "lookalike": "innocent look-alike"}
    return known.get(name, name.replace("_", " "))


def class_order(names: Any) -> list[str]:
    return sorted(names, key=lambda n: (CLASSES.index(n) if n in CLASSES else len(CLASSES), n))


def judged(run: Run) -> dict[str, Estimate]:
    """Win rate against the baseline of every model that was aligned: not the baseline, and not what it came from."""
    found: dict[str, Estimate] = {}
    for name, figures in run.models.items():
        win = estimate(figures.get("win_vs_sft"))
        if win and name not in (run.baseline, "base"):
            found[name] = win
    return found


def outcome(win: Estimate) -> str:
    """What an interval allows to be said: wins, loses, or neither."""
    if not win.has_interval:
        return "open"
    return "wins" if (win.lo or 0) > 0.5 else "loses" if (win.hi or 1) < 0.5 else "open"


def headline(run: Run) -> str:
    """The verdict in a sentence, from the intervals alone; neutral where they say nothing."""
    wins = judged(run)
    trained = {n: w for n, w in wins.items() if n != "best-of-n"} or wins
    if not trained:
        done = [s.name for s in run.stages if s.finished]
        if not run.judges and len(done) == len(run.stages):
            return "The stage has finished." if len(done) == 1 else f"All {len(done)} stages have finished."
        return f"No verdict yet: {len(done)} of {len(run.stages)} stages have finished."
    claims = [
        _claim(kind, {n: w for n, w in trained.items() if outcome(w) == kind}, nice(run.baseline))
        for kind in ("wins", "loses", "open")
    ]
    return "; ".join(c for c in claims if c) + "."


def _claim(kind: str, members: Mapping[str, Estimate], base: str) -> str:
    """`DPO and PPO both beat SFT in 64 % [61, 67] and 63 % [60, 66] of 600 held-out prompts`."""
    if not members:
        return ""
    many = len(members) > 1
    verb = {
        "wins": ("both beat" if len(members) == 2 else "beat") if many else "beats",
        "loses": "lose to" if many else "loses to",
        "open": "can\u2019t be told from",
    }[kind]
    how = {"wins": " in", "loses": ", winning only", "open": ", winning"}[kind]
    shares = words([percents(w) for w in members.values()])
    counts = {w.n for w in members.values()}
    of = f" of {counts.pop()} held-out prompts" if len(counts) == 1 and None not in counts else ""
    return f"{words([nice(n) for n in members])} {verb} {base}{how} {shares}{of}"


def standfirst(run: Run) -> str:
    """What stands under the headline: the scores behind it, and what a win is."""
    if not judged(run):
        return ""
    start = estimate(run.models.get(run.baseline, {}).get("oracle"))
    ends = {n: estimate(run.models[n].get("oracle")) for n in judged(run) if n != "best-of-n"}
    steps = [f"{e.mean:.2f} ({nice(n)})" for n, e in ends.items() if e]
    scores = ""
    if start and steps:
        rises = all(e.mean > start.mean for e in ends.values() if e)
        scores = (
            f"The oracle\u2019s mean score of an answer {'rises' if rises else 'goes'} from {start.mean:.2f} "
            f"({nice(run.baseline)}) to {words(steps)}. "
        )
    return (
        scores
        + "A win is an answer that the oracle scores higher than the other model\u2019s to the same prompt; ties "
        "count a half, and brackets are 95\u202f% intervals."
    )


FAR = 0.25
"""A model that wins less often than this is told in words: drawn, it would squeeze all others together."""


def wins_section(run: Run, looks: Looks) -> Section:
    found: dict[str, list[Interval]] = {}
    for name, figures in run.models.items():
        values = [(key, label, estimate(figures.get(key))) for key, label in WINS if name != run.baseline]
        found[name] = [Interval(name, label, v, lead=key == "win_vs_sft") for key, label, v in values if v]
    far = {n: rows_[0].value for n, rows_ in found.items() if rows_ and all(r.value.mean < FAR for r in rows_)}
    drawn = [row for name, rows_ in found.items() if name not in far or len(far) == len(found) for row in rows_]
    aside = (
        el(
            "p",
            "Too far left to draw: " + words([f"{nice(n)} wins {percents(v)}" for n, v in far.items()]) + ".",
            class_="hint",
        )
        if far and drawn
        else None
    )
    base = nice(run.baseline)
    return Section(
        "wins",
        "Win rates",
        card(forest(drawn, looks, run.baseline), aside) if drawn else Html(""),
        f"How often each model\u2019s answer is better than {base}\u2019s to the same prompt. An interval that stays "
        "right of 50\u202f% is a win that chance does not explain. The smaller marks ask whether the win survives a "
        "cooler temperature, the same length, and noisy raters.",
    )


def models_section(run: Run, looks: Looks) -> Section:
    names = list(run.models)
    lines, known = [], []
    for group, measures in MEASURES:
        body = [line for m in measures if (line := _measure_row(m, run))]
        if body:
            lines += [el("tr", el("th", group, scope="colgroup", colspan=len(names) + 1), class_="group"), *body]
            known += [m for m in measures if any(estimate(f.get(m.key)) for f in run.models.values())]
    if not lines:
        return Section("models", "The models", Html(""))
    head = el(
        "tr",
        el("td", el("span", "measure", class_="sr")),
        *(el("th", looks.key(n), scope="col", title=_about(run, n) or None) for n in names),
    )
    whole = el("table", el("thead", head), el("tbody", *lines), class_="models")
    about = [(looks.key(n), _about(run, n)) for n in names if _about(run, n)]
    glossary = el("dl", *(join([el("dt", m.label), el("dd", m.meaning)]) for m in known))
    made = el("dl", *(join([el("dt", k), el("dd", v)]) for k, v in about)) if about else None
    return Section(
        "models",
        "The models, number by number",
        join(
            [
                scrolling(whole, "Table of models"),
                folded("What each row means, and how each model was made", glossary, made, kind="glossary"),
            ]
        ),
        "Shaded: the best of the row, where there is a better and a worse (base left out: who says nothing refuses "
        "nothing). Small numbers are 95\u202f% intervals: where they overlap, so may the truth.",
    )


def _about(run: Run, name: str) -> str:
    """How a model was made, as the verdict says it."""
    return run.within(str(run.models[name].get("about") or ""))


def _measure_row(measure: Measure, run: Run) -> Html | None:
    values = {
        n: estimate(f.get(f"{measure.key}_interval")) or estimate(f.get(measure.key)) for n, f in run.models.items()
    }
    if not any(values.values()):
        return None
    ranked = [v.mean for n, v in values.items() if v and n != "base"]
    best = (max(ranked) if measure.best > 0 else min(ranked)) if measure.best and len(ranked) > 1 else None
    cells = []
    for name, value in values.items():
        top = (
            value is not None
            and name != "base"
            and best is not None
            and _shown(measure, value) == _shown(measure, Estimate(best))
        )
        itself = measure.kind == "win" and name == run.baseline
        cells.append(
            el(
                "td",
                DASH_CELL if itself or value is None else _cell(measure, value),
                class_="best" if top and not itself else None,
            )
        )
    return el("tr", el("th", measure.label, scope="row", title=measure.meaning), *cells)


DASH_CELL = el("span", "\u2013", class_="none")


def _shown(measure: Measure, value: Estimate) -> str:
    mean = value.mean
    if measure.kind in ("win", "share"):
        return percent(mean, 1 if measure.kind == "share" else 0)
    if measure.kind == "time":
        return duration(mean)
    if measure.kind == "memory":
        return memory(mean)
    return f"{mean:.3f}" if measure.kind == "score" else number(mean)


def _cell(measure: Measure, value: Estimate) -> Html:
    """A value, its interval small under it."""
    if not value.has_interval:
        return el("span", _shown(measure, value))
    lo, hi = 100 * (value.lo or 0), 100 * (value.hi or 0)
    inner = f"{lo:.0f}\u2013{hi:.0f}" if measure.kind in ("win", "share") else f"{lo / 100:.3f}\u2013{hi / 100:.3f}"
    told = f"95\u202f% interval{f', {value.n} prompts' if value.n else ''}"
    return join([el("span", _shown(measure, value)), el("small", inner, title=told)])


def classes_section(run: Run, looks: Looks) -> Section:
    found: dict[str, dict[str, tuple[float, int | None]]] = {}
    for name, figures in run.models.items():
        for kind, entry in mapping(figures.get("oracle_by_class")).items():
            value = estimate(entry)
            if value:
                found.setdefault(kind, {})[name] = (value.mean, value.n)
    if not found:
        return Section("classes", "By kind of request", Html(""))
    kinds = class_order(found)
    lines = []
    for kind in kinds:
        n = next((n for _, n in found[kind].values() if n), None)
        lines.append(DotRow(class_name(kind), {m: v for m, (v, _) in found[kind].items()}, str(n) if n else ""))
    names = [n for n in run.models if any(n in found[k] for k in kinds)]
    legend = el("p", *(looks.key(n) for n in names), class_="legend")
    body = [
        [join([r.label, el("small", r.note)]), *(f"{r.values[n]:.2f}" if n in r.values else "\u2013" for n in names)]
        for r in lines
    ]
    numbers = table(["class", *(looks.key(n) for n in names)], body, "Scores by class", "models")
    return Section(
        "classes",
        "By kind of request",
        join(
            [
                card(legend, dot_plot(lines, looks, "Mean oracle score by kind of request")),
                folded("The same as numbers", numbers),
            ]
        ),
        "Mean oracle score of each model in each class, with the number of prompts beside its name. Classes of few "
        "prompts jump about by chance.",
    )


def bars_section(run: Run) -> Section:
    found = rows(run.summary.get("bars"))
    items = [_bar(b, run) for b in found]
    met = sum(b.get("passed") is True for b in found)
    return Section(
        "bars",
        f"Bars: {met} of {len(found)} met",
        el("ul", *items, class_="bars") if items else Html(""),
        "What a run is held to, fixed before it began. Nothing within a run selects, stops or tunes by them.",
    )


def _bar(bar: Mapping[str, Any], run: Run) -> Html:
    passed = bar.get("passed")
    state, word = (
        ("met", "met") if passed is True else ("missed", "not met") if passed is False else ("open", "not measured")
    )
    value = estimate(bar.get("value"))
    text = number(value.mean) if value else str(bar.get("value") if bar.get("value") is not None else "\u2013")
    limit = bar.get("bar")
    said = re.sub(r"[\w-]+", lambda m: nice(m[0]) if m[0] in run.models else m[0], str(bar.get("name") or ""))
    wanted = (
        number(figure(limit))
        if figure(limit) is not None
        else str(limit or "").replace(">=", "\u2265").replace("<=", "\u2264")
    )
    mark = el(
        "svg",
        el(
            "path",
            d="M3 8.5l3.2 3.2L13 4.8" if state == "met" else "M4 4l8 8M12 4l-8 8" if state == "missed" else "M4 8h8",
        ),
        viewBox="0 0 16 16",
        aria_hidden="true",
    )
    return el(
        "li",
        mark,
        el("span", word, class_="sr"),
        el("span", said, class_="what"),
        el("span", text, class_="value"),
        el("span", wanted, class_="wanted"),
        class_=state,
    )
