"""Charts of lines: small drawings of one measure over steps, with axes, units, raw values faint behind the smoothed.

A drawing is about 344 units wide and stands in a grid whose columns are about as many pixels, so that text keeps its
size from a telephone to a wall. Every drawing says in words what it shows, for those who can't see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from kilter.reporting.markup import Html, el, join, number, short

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 344, 186
TOP, BOTTOM = 10, 38
DRAWN = 160
"""Points drawn of one line; more can't be told apart."""
BANDS = 40
"""Columns of a drawing that say their value under the pointer."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    points: Points
    label: str = ""
    colour: str = ""
    """Class that sets the colour; empty takes the chart's."""
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """One measure over steps."""

    title: str
    series: list[Series]
    unit: str = ""
    hint: str = ""
    """A sentence on how to read it."""
    x: str = "step"
    colour: str = "m1"
    include: tuple[float, ...] = ()
    """Values that the axis must reach, e.g. 0 of a share."""
    target: tuple[float, str] | None = None
    """A level to compare with, and what it is."""
    digits: int = 3
    marks: bool = False
    """Whether each point gets a dot: for curves of few points over something else than time."""
    smooth: bool = True
    height: int = HEIGHT
    final: bool = True
    """Whether the last value stands beside the title."""
    notes: list[tuple[float, float, str]] = field(default_factory=list)
    """Texts at points of the drawing."""


class Scale:
    """A line from values to positions."""

    def __init__(self, values: tuple[float, float], places: tuple[float, float]) -> None:
        self.lo, self.hi = values
        self.a, self.b = places

    def __call__(self, value: float) -> float:
        share = (value - self.lo) / (self.hi - self.lo)
        return self.a + min(1.0, max(0.0, share)) * (self.b - self.a)


def ticks(lo: float, hi: float, count: int = 4) -> list[float]:
    """Round values between two ends, about `count` of them."""
    if not hi > lo:
        return [lo]
    rough = (hi - lo) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(lo / step - 1e-9)
    last = math.floor(hi / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def smoothed(points: Points, window: int | None = None) -> list[tuple[float, float]]:
    """A centred moving mean, over a 25th of the points unless told (more where they are few)."""
    half = (max(len(points) // 25, min(15, len(points) // 6)) if window is None else window) // 2
    if half < 1:
        return list(points)
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    out = []
    for i, (x, _) in enumerate(points):
        back, ahead = min(half, i), min(half, len(points) - 1 - i)
        ahead = min(ahead, back)  # where curves begin they are steep: symmetric, else the mean would be dragged along
        out.append((x, (sums[i + ahead + 1] - sums[i - back]) / (back + ahead + 1)))
    return out


def thinned(points: Points, limit: int = DRAWN) -> list[tuple[float, float]]:
    """At most about `limit` points: each stretch keeps its lowest and its highest, so spikes stay."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(len(points) / (limit // 2))
    out: list[tuple[float, float]] = []
    for begin in range(0, len(points), size):
        part = points[begin : begin + size]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        out += sorted(ends)
    return out


def limits(chart: Chart) -> tuple[float, float]:
    """The value axis: all of the smoothed line, nearly all of the raw one; a spike can't flatten the rest."""
    low, high = [*chart.include], [*chart.include]
    for series in chart.series:
        line = [y for _, y in (smoothed(series.points) if chart.smooth else series.points)]
        raw = sorted(y for _, y in series.points)
        cut = len(raw) // 50
        low += [min(line), raw[cut]]
        high += [max(line), raw[-1 - cut]]
    if chart.target:
        low.append(chart.target[0])
        high.append(chart.target[0])
    lo, hi = min(low), max(high)
    if hi - lo <= 1e-9 * max(abs(lo), abs(hi)):  # a flat line stands in the middle
        pad = 0.1 * abs(hi) or 1.0
        return lo - pad, hi + pad
    pad = 0.06 * (hi - lo)
    return (lo if lo in chart.include else lo - pad), (hi if hi in chart.include else hi + pad)


def draw(chart: Chart) -> Html:
    """A chart as a figure; nothing when there is nothing to draw."""
    chart = _with_data(chart)
    if not chart.series:
        return Html("")
    y_ends = limits(chart)
    labels = [(t, short(t)) for t in ticks(*y_ends)]
    left = 12 + 6.6 * max((len(text) for _, text in labels), default=1)
    right = WIDTH - (12 + 6.6 * max((len(s.label) for s in chart.series), default=0))
    xs = [x for s in chart.series for x, _ in s.points]
    x_ends = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 0.5, max(xs) + 0.5)
    x, y = Scale(x_ends, (left, right)), Scale(y_ends, (chart.height - BOTTOM, TOP))
    svg = el(
        "svg",
        _grid(labels, y, left, right),
        _steps(chart, x, left, right),
        _target(chart, y, left, right),
        *(_line(chart, s, x, y) for s in chart.series),
        _labels(chart, x, y),
        *(_note(text, x(a), y(b), left, right) for a, b, text in chart.notes),
        _bands(chart, x, left, right),
        viewBox=f"0 0 {WIDTH} {chart.height}", role="img", aria_label=in_words(chart),
    )  # fmt: skip
    last = smoothed(chart.series[0].points)[-1][1] if chart.smooth else chart.series[0].points[-1][1]
    now = el("span", number(last, chart.digits), class_="now") if len(chart.series) == 1 and chart.final else None
    head = el("figcaption", el("b", chart.title), el("span", chart.unit, class_="unit"), now)
    hint = el("p", chart.hint, class_="hint") if chart.hint else None
    return el("figure", head, svg, hint, class_=f"chart {chart.colour}")


def _with_data(chart: Chart) -> Chart:
    kept = [s for s in chart.series if s.points]
    return Chart(**{**chart.__dict__, "series": kept})


def in_words(chart: Chart) -> str:
    """The text alternative of a drawing."""
    parts = []
    for s in chart.series:
        first, last = s.points[0], s.points[-1]
        values = [v for _, v in s.points]
        parts.append(
            f"{s.label or chart.title}: from {number(first[1])} at {chart.x} {short(round(first[0], 2))} to "
            f"{number(last[1])} at {chart.x} {short(round(last[0], 2))}, lowest {number(min(values))}, "
            f"highest {number(max(values))}"
        )
    return f"{chart.title}{f' ({chart.unit})' if chart.unit else ''} over {chart.x}. {'; '.join(parts)}."


def _grid(labels: list[tuple[float, str]], y: Scale, left: float, right: float) -> Html:
    return join(
        join([el("line", class_="grid", x1=left, x2=right, y1=y(t), y2=y(t)),
              el("text", text, class_="tick", x=left - 6, y=y(t) + 3.6, text_anchor="end")])
        for t, text in labels
    )  # fmt: skip


def _steps(chart: Chart, x: Scale, left: float, right: float) -> Html:
    base = float(chart.height - BOTTOM)
    marks = ticks(x.lo, x.hi, 5)
    return join([
        el("line", class_="axis", x1=left, x2=right, y1=base, y2=base),
        *(el("text", short(t), class_="tick", x=x(t), y=base + 14, text_anchor="middle") for t in marks),
        el("text", chart.x, class_="tick name", x=right, y=base + 29, text_anchor="end"),
    ])  # fmt: skip


def _target(chart: Chart, y: Scale, left: float, right: float) -> Html | None:
    if chart.target is None:
        return None
    at = y(chart.target[0])
    return join([
        el("line", class_="target", x1=left, x2=right, y1=at, y2=at),
        el("text", chart.target[1], class_="note", x=right - 2, y=at - 5, text_anchor="end"),
    ])  # fmt: skip


def _note(text: str, x: float, y: float, left: float, right: float) -> Html:
    """A few words at a point, kept within the drawing."""
    anchor, at = ("start", x + 6) if x < left + 40 else ("end", x) if x > right - 40 else ("middle", x)
    return el("text", text, class_="note", x=at, y=y - 10, text_anchor=anchor)


def _path(points: Points, x: Scale, y: Scale) -> str:
    return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)


def _line(chart: Chart, series: Series, x: Scale, y: Scale) -> Html:
    main = smoothed(series.points) if chart.smooth else list(series.points)
    rough = main != list(series.points)
    dashes = "4 3" if series.dashed else None
    return el(
        "g",
        el("polyline", class_="raw", points=_path(thinned(series.points), x, y)) if rough else None,
        el("polyline", class_="line", stroke_dasharray=dashes, points=_path(thinned(main), x, y)),
        join(el("circle", class_="dot", cx=x(a), cy=y(b), r=2.2) for a, b in series.points) if chart.marks else None,
        el("circle", class_="dot", cx=x(main[-1][0]), cy=y(main[-1][1]), r=3.2),
        class_=series.colour or None,
    )


def _labels(chart: Chart, x: Scale, y: Scale) -> Html:
    """Names at the lines' ends, pushed apart where they would overlap."""
    ends = []
    for s in chart.series:
        if s.label:
            a, b = (smoothed(s.points) if chart.smooth else s.points)[-1]
            ends.append((y(b) + 4, x(a) + 7, s))
    out, lowest = [], -math.inf
    for at, a, s in sorted(ends, key=lambda e: e[0]):
        lowest = max(at, lowest + 13)
        out.append(el("text", s.label, class_=f"end {s.colour}", x=a, y=lowest))
    return join(out)


def _bands(chart: Chart, x: Scale, left: float, right: float) -> Html:
    """Invisible columns that tell their values under the pointer."""
    points = chart.series[0].points
    size = max(1, math.ceil(len(points) / BANDS))
    picked = [points[min(i + size // 2, len(points) - 1)] for i in range(0, len(points), size)]
    others = [dict(s.points) for s in chart.series]
    edges = [left, *((x(a[0]) + x(b[0])) / 2 for a, b in pairwise(picked)), right]
    out = []
    for (at, _), begin, end in zip(picked, edges, edges[1:], strict=False):
        told = "\n".join(
            f"{s.label or chart.title}: {number(values[at], 4)}"
            for s, values in zip(chart.series, others, strict=True) if at in values
        )  # fmt: skip
        title = el("title", f"{chart.x} {short(round(at, 3))}\n{told}")
        out.append(
            el(
                "rect",
                title,
                class_="band",
                x=begin,
                y=TOP,
                width=max(0.0, end - begin),
                height=chart.height - BOTTOM - TOP,
            )
        )
    return el("g", *out)
