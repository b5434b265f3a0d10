"""The page of `kilter compare`: one figure, what each method got and spent, and all of them at equal budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kilter.reporting.charts import Scale, ticks
from kilter.reporting.contest import Contestant, Group, Matched, Unmatched, over_seeds
from kilter.reporting.dots import WIDE, percents, twice
from kilter.reporting.files import Estimate
from kilter.reporting.layout import Section, card, paragraphs, table
from kilter.reporting.ledger import Point
from kilter.reporting.markup import DASH, Html, count, duration, el, join, memory, number, percent, short, words
from kilter.reporting.page import HERE, head
from kilter.reporting.palette import Looks, nice

AXIS_NAMES = {"prompts": "prompts", "tokens": "tokens", "seconds": "seconds", "cost": "label cost"}
AXIS_MEANING = {
    "prompts": "Prompts seen, each time counted: rows of data, or prompts that were answered.",
    "tokens": "Tokens sampled to learn from, and tokens that went through the loss; a prompt’s count with each of its "
    "answers.",
    "seconds": "Seconds from the common start: the stages before (collecting, the reward model) and the method’s own.",
    "cost": "What people’s labels cost at the stated prices, with those that the reward model learned from.",
}


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown."""

    groups: list[Group]
    matched: list[Matched]
    prices: dict[str, float]
    baseline: str
    runs: list[str]
    notes: list[str]


def page(found: Comparison) -> Html:
    """The comparison as one HTML document."""
    looks = Looks([g.label for g in found.groups])
    sections = [
        _figure(found, looks),
        _got(found, looks),
        _spent(found, looks),
        *(_matched(axis, at, found, looks) for axis, at in by_axis(found).items()),
        _notes(found),
    ]
    toggle = el("button", "Dark", type="button", id="theme", hidden=True, aria_label="Switch between light and dark")
    body = el(
        "body",
        el("nav", el("span", el("b", "kilter"), el("i", "compare"), class_="brand"), _links(found), toggle),
        el("main", _hero(found), *(s.html() for s in sections if s.body)),
        el(
            "footer",
            "Made by kilter from the files of these runs alone; nothing is loaded from anywhere.",
            class_="end",
        ),
        el("script", Html((HERE / "page.js").read_text(encoding="utf-8"))),
    )
    return join([Html("<!doctype html>\n"), el("html", head("kilter compare"), body, lang="en"), "\n"])


def _links(found: Comparison) -> Html:
    named = [("figure", "Figure"), ("got", "Got"), ("spent", "Spent")]
    named += [(f"at-{axis}", f"Equal {AXIS_NAMES[axis]}") for axis in by_axis(found)]
    return el("div", *(el("a", text, href=f"#{to}") for to, text in named), class_="links")


def headline(found: Comparison) -> str:
    """Who wins most, and who can't be told from it, by the intervals alone."""
    wins = {g.label: w for g in found.groups if (w := g.end("win")) and g.label != found.baseline}
    if not wins:
        return f"{len(found.groups)} methods side by side."
    first = max(wins, key=lambda n: wins[n].mean)
    near = [n for n, w in wins.items() if n != first and (w.hi or w.mean) >= (wins[first].lo or wins[first].mean)]
    told = f"{nice(first)} wins most often against {nice(found.baseline)}: {percents(wins[first])}"
    if near:
        names, one = words([nice(n) for n in near]), len(near) == 1
        return f"{told}; the interval{'' if one else 's'} of {names} meet{'s' if one else ''} it."
    return f"{told}; no other interval meets it."


def _hero(found: Comparison) -> Html:
    seeds = sorted({s for g in found.groups for s in g.seeds if s is not None})
    told = f"seed{'s' if len(seeds) > 1 else ''} {words([str(s) for s in seeds])}" if seeds else ""
    kicker = " · ".join(t for t in (words(found.runs), told) if t)
    several = any(len(g.members) > 1 for g in found.groups)
    brackets = (
        "Brackets are the lowest and the highest seed where there are several, else 95 % intervals over prompts."
        if several
        else "Brackets are 95 % intervals over the prompts of one run; another seed may differ by more."
    )
    return el(
        "header",
        el("p", kicker, class_="kicker"),
        el("h1", headline(found)),
        el("p", brackets, class_="stand"),
        class_="hero",
        id="verdict",
    )


# --- the figure -------------------------------------------------------------------------------------------------------


def _figure(found: Comparison, looks: Looks) -> Section:
    spots = [(g, k, w) for g in found.groups if (k := g.end("kl")) and (w := g.end("win"))]
    lead = (
        f"How often each method’s answer beats {nice(found.baseline)}’s to the same prompt, over how far it drifted "
        "to get there: up is better, left is nearer to the start. Best-of-n’s drift is an upper bound."
    )
    if len(spots) < 2:
        return Section("figure", "Win rate over drift", Html(""))
    told = "; ".join(f"{nice(g.label)}: wins {percents(w)} at {number(k.mean)} nats" for g, k, w in spots)
    label = f"Win rate against {nice(found.baseline)} over KL from it. {told}."
    drawing = twice(lambda width: _scatter(spots, looks, width, label, found.baseline))
    return Section("figure", "Win rate over drift", card(drawing), lead)


def _scatter(
    spots: Sequence[tuple[Group, Estimate, Estimate]], looks: Looks, width: int, label: str, base: str
) -> Html:
    wide = width == WIDE
    height, left, right, top = (470, 52.0, width - 30.0, 18.0) if wide else (360, 40.0, width - 14.0, 14.0)
    bottom = height - 52.0
    ends = [v for _, _, w in spots for v in (w.mean, w.lo, w.hi) if v is not None] + [0.5]
    pad = 0.06 * (max(ends) - min(ends) or 0.1)
    reach = max(max(k.hi or k.mean, k.mean) for _, k, _ in spots) or 1.0
    x = Scale((0.0, 1.08 * reach), (left, right))
    y = Scale((max(0.0, min(ends) - pad), min(1.0, max(ends) + pad)), (bottom, top))
    across, up = ticks(x.lo, x.hi, 8 if wide else 4), ticks(y.lo, y.hi, 6)
    parts: list[Html] = [el("line", class_="grid", x1=left, x2=right, y1=y(t), y2=y(t)) for t in up]
    parts += [el("text", f"{100 * t:.0f}", class_="tick", x=left - 7, y=y(t) + 4, text_anchor="end") for t in up]
    parts += [el("text", short(t), class_="tick", x=x(t), y=bottom + 17, text_anchor="middle") for t in across]
    parts += [
        el("line", class_="axis", x1=left, x2=right, y1=bottom, y2=bottom),
        el("line", class_="even", x1=left, x2=right, y1=y(0.5), y2=y(0.5)),
        el("text", f"KL from {nice(base)}, nats per answer →", class_="side", x=right, y=bottom + 38,
           text_anchor="end"),
        el("text", f"win rate against {nice(base)}, %", class_="side", x=left + 6, y=top + 4),
    ]  # fmt: skip
    at = {g.label: (x(k.mean), y(w.mean)) for g, k, w in spots}
    bars = {g.label: (y(w.lo), y(w.hi)) for g, _, w in spots if w.lo is not None and w.hi is not None}
    across_bars = [(x(k.lo or 0), y(w.mean) - 2, x(k.hi or 0), y(w.mean) + 2) for _, k, w in spots if k.has_interval]
    lines = [*across_bars, (left, y(0.5) - 1, right, y(0.5) + 1)]
    places = _placed({n: nice(n) for n in at}, at, bars, lines, (left, right), 7.6 if wide else 10.0)
    for g, k, w in spots:
        px, py = at[g.label]
        tx, ty, anchor = places[g.label]
        bar = bars.get(g.label)
        parts.append(el(
            "g",
            el("title", f"{nice(g.label)}: wins {percents(w)}, KL {number(k.mean)}, {_seeds(g)}"),
            el("line", class_="bar", x1=px, x2=px, y1=bar[0], y2=bar[1]) if bar else None,
            el("line", class_="bar", x1=x(k.lo or 0), x2=x(k.hi or 0), y1=py, y2=py) if k.has_interval else None,
            _leader(px, py, tx, ty, anchor),
            looks.shape(g.label, px, py, 6.5),
            el("text", nice(g.label), class_="row lead", x=tx, y=ty, text_anchor=anchor),
            class_=f"hit {looks.colour(g.label)}",
        ))  # fmt: skip
    return el("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=label, class_="rows")


def _leader(px: float, py: float, tx: float, ty: float, anchor: str) -> Html | None:
    """A thin line to a name that found no place beside its mark."""
    if anchor == "middle" or (abs(tx - px) < 12 and abs(ty - py) < 20):
        return None
    return el("line", class_="grid", x1=px, y1=py, x2=tx + (-3 if anchor == "start" else 3), y2=ty - 4)


Box = tuple[float, float, float, float]


def _placed(
    texts: Mapping[str, str],
    at: Mapping[str, tuple[float, float]],
    bars: Mapping[str, tuple[float, float]],
    lines: Sequence[Box],
    sides: tuple[float, float],
    letter: float,
) -> dict[str, tuple[float, float, str]]:
    """Where each name stands: the nearest place to its mark that covers no mark, no interval and no other name."""
    taken: list[Box] = [(px - 7, py - 7, px + 7, py + 7) for px, py in at.values()] + list(lines)
    taken += [(at[n][0] - 2, min(b), at[n][0] + 2, max(b)) for n, b in bars.items()]
    found = {}
    for name in sorted(texts, key=lambda n: at[n][1]):
        boxes = [(spot, _box(spot, letter * len(texts[name]))) for spot in _around(*at[name], bars.get(name))]
        within = [(spot, box) for spot, box in boxes if sides[0] <= box[0] and box[2] <= sides[1] + 8] or boxes
        found[name], box = min(within, key=lambda at: sum(_meet(at[1], t) for t in taken))  # the first of the best
        taken.append(box)
    return found


def _around(px: float, py: float, bar: tuple[float, float] | None) -> Iterator[tuple[float, float, str]]:
    """Places for a name, nearest first: beside its mark, over and under its interval, then further and further off."""
    low, high = bar or (py, py)
    yield from ((px + 11, py + dy, "start") for dy in (5, -7, 17))
    yield from ((px - 11, py + dy, "end") for dy in (5, -7, 17))
    yield from ((px, min(low, high) - 6, "middle"), (px, max(low, high) + 15, "middle"))
    for far in range(20, 121, 10):
        for dy in (5 - far / 2, 5 + far / 2, 5 - far, 5 + far, 5):
            yield px + 11 + far, py + dy, "start"
            yield px - 11 - far, py + dy, "end"


def _box(spot: tuple[float, float, str], width: float) -> Box:
    x, y, anchor = spot
    left = {"start": x, "end": x - width, "middle": x - width / 2}[anchor]
    return left, y - 11, left + width, y + 3


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# --- tables -----------------------------------------------------------------------------------------------------------


def cell(value: Estimate | None, kind: str = "plain", spread: float | None = None) -> Html:
    """A figure, and small under it its interval, or the lowest and highest seed and their standard deviation."""
    if value is None:
        return el("span", DASH, class_="none")
    show = (lambda v: percent(v)) if kind == "win" else (lambda v: number(v, 3))
    if not value.has_interval or value.lo == value.hi:
        return el("span", show(value.mean))
    told = f"{show(value.lo)} to {show(value.hi)}" + ("" if spread is None else f", sd {show(spread)}")
    return join([el("span", show(value.mean)), el("small", told)])


def _got(found: Comparison, looks: Looks) -> Section:
    body = []
    for g in found.groups:
        itself = g.label == found.baseline
        win = el("span", DASH, class_="none") if itself else cell(g.end("win"), "win", g.spread("win"))
        figures = [cell(g.end(k), spread=g.spread(k)) for k in ("reward", "gold", "kl", "length")]
        body.append([looks.key(g.label), win, *figures, _seeds(g)])
    head = ["method", f"win vs {nice(found.baseline)}", "reward", "oracle", "KL, nats", "length", "seeds"]
    return Section(
        "got",
        "What each got",
        table(head, body, "What each method got", "models"),
        "At its end, by the verdict of its run. Reward is the reward model’s own score, in spreads from its mean: what "
        "the online methods are paid by, and no judge of them. The oracle is the truth, where there is one.",
    )


def _seeds(group: Group) -> str:
    named = [str(s) for s in group.seeds if s is not None]
    return f"{len(named)} seeds" if len(named) > 1 else f"seed {named[0]}" if named else DASH


def _spent(found: Comparison, looks: Looks) -> Section:
    body = []
    for g in found.groups:
        spent = [_span(g.spent(k), count) for k in ("prompts", "sampled", "trained", "steps", "rewards")]
        own = _span(g.spent("seconds"), duration)
        before = _span(g.over(lambda m: m.before), duration)
        peak = _span(g.over(lambda m: m.peak_mb), memory)
        cost = [_span(g.over(lambda m: m.budget("cost", m.spent, found.prices)), number)] if found.prices else []
        body.append([looks.key(g.label), *spent, own, before, _labels(g.members[0]), *cost, peak])
    head = [
        "method",
        "prompts",
        "tokens sampled",
        "tokens trained",
        "steps",
        "rewards",
        "time",
        "and before it",
        "labels",
    ]
    head += [*(["label cost"] if found.prices else []), "peak memory"]
    asides = [f"{nice(g.label)}: {g.members[0].note}." for g in found.groups if g.members[0].note]
    priced = words([f"{number(v)} a {k}" for k, v in found.prices.items()])
    asides += (
        [f"Prices: {priced}."]
        if found.prices
        else ["No prices were given (--price ranking=0.5), so labels have no cost."]
    )
    return Section(
        "spent",
        "What each spent",
        join(
            [
                table(head, body, "What each method spent", "models tight"),
                el("div", paragraphs(*asides), class_="notes"),
            ]
        ),
        "Of its own stage; “and before it” is what stands between the common start and it: collecting the rankings, "
        "the reward model. A dash is not recorded, never nothing.",
    )


def _span(value: Estimate | None, show: Any) -> Html:
    """A sum, and the range over seeds."""
    if value is None:
        return el("span", DASH, class_="none")
    if not value.has_interval or value.lo == value.hi:
        return el("span", show(value.mean))
    return join([el("span", show(value.mean)), el("small", f"{show(value.lo)} to {show(value.hi)}")])


def _labels(one: Contestant) -> Html:
    """The first kind of label, and small under it those that follow from it or came beside it."""
    first, *rest = labels_of(one).split(", ")
    return join([el("span", first), *(el("small", text) for text in rest)])


def labels_of(one: Contestant) -> str:
    """`1 650 rankings, 31 002 comparisons`."""
    return ", ".join(f"{count(n)} {kind}{'' if n == 1 else 's'}" for kind, n in one.labels.items() if n) or DASH


def amount(axis: str, value: float | None) -> str:
    """A budget as a person says it."""
    if value is None:
        return DASH
    return duration(value) if axis == "seconds" else number(value, 4) if axis == "cost" else count(value)


def _matched(axis: str, at: Sequence[Matched], found: Comparison, looks: Looks) -> Section:
    """One kind of budget: methods down, budgets across, and what each had got by then."""
    name, title = AXIS_NAMES[axis], f"At equal {AXIS_NAMES[axis]}"
    budgets = [m for m in at if m.budget is not None]
    if not budgets:
        text = f"Nobody’s {name} are known, so nothing can be compared at equal {name}."
        return Section(f"at-{axis}", title, paragraphs(text), AXIS_MEANING[axis])
    shown = [g for g in found.groups if any(picked(m, g) for m in budgets)]
    body = [[looks.key(g.label), *(_by_then(m, g, found) for m in budgets)] for g in shown]
    head = ["method", *(f"within {amount(axis, m.budget)}" for m in budgets)]
    missing = budgets[-1].left_out
    aside = el("p", el("b", "Not matched: "), " ".join(f"{nice(u.group.label)} {why(axis, u)}." for u in missing))
    return Section(
        f"at-{axis}",
        title,
        join([table(head, body, title, "models tight"), el("div", aside, class_="notes") if missing else Html("")]),
        f"{AXIS_MEANING[axis]} Of each method the last measurement before it had spent more: how often it wins "
        f"against {nice(found.baseline)}, drift, and what it had spent. Nothing is interpolated; a dash is “not "
        "measured by then”.",
    )


def by_axis(found: Comparison) -> dict[str, list[Matched]]:
    """The budgets of each kind."""
    kinds: dict[str, list[Matched]] = {}
    for m in found.matched:
        kinds.setdefault(m.axis, []).append(m)
    return kinds


def picked(m: Matched, group: Group) -> list[tuple[Contestant, Point]]:
    """A group's measurements at a budget, one per seed; none where it has none."""
    return next((points for g, points in m.lines if g is group), [])


def _by_then(m: Matched, group: Group, found: Comparison) -> Html:
    """A win rate and who says so; small under it drift and what was spent, with where it was measured to hover on."""
    pairs = picked(m, group)
    if not pairs:
        return el("span", DASH, class_="none")
    points = [p for _, p in pairs]
    win = None if group.label == found.baseline else over_seeds([p.got.get("win") for p in points])
    reward, kl = (over_seeds([p.got.get(k) for p in points]) for k in ("reward", "kl"))
    where = "; ".join(dict.fromkeys(p.where for p in points))
    used = over_seeds([_known(one.budget(m.axis, p.spent, found.prices)) for one, p in pairs])
    told = [f"KL {number(kl.mean)}" if kl else "", f"{amount(m.axis, used.mean)} spent" if used and used.mean else ""]
    figure = el("span", percent(win.mean)) if win else el("span", DASH, class_="none")
    judges = words(list(dict.fromkeys(p.by for p in points)))
    return el(
        "div",
        figure,
        el("small", f"by the {judges}") if win else None,
        el("small", " · ".join(t for t in told if t)),
        title=where + (f"; reward {number(reward.mean)}" if reward else ""),
    )


def _known(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(value)


def why(axis: str, u: Unmatched) -> str:
    """Why a group has no line."""
    return f"{u.why} {amount(axis, u.first)}" if u.first is not None else u.why


def _notes(found: Comparison) -> Section:
    return Section("notes", "What can’t be compared", paragraphs(*found.notes) if found.notes else Html(""))
