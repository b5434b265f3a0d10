"""The whole page: header, sections in the order of a reader's questions, style and script, one self-contained file."""

from __future__ import annotations

from pathlib import Path

from kilter.reporting import account, curation, judges, made, palette, samples, training, verdict
from kilter.reporting.dots import percents
from kilter.reporting.files import Estimate, Run, rows
from kilter.reporting.layout import Section
from kilter.reporting.markup import Html, duration, el, join, memory
from kilter.reporting.palette import Looks, nice

HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def page(run: Run) -> Html:
    """The report as one HTML document."""
    looks = Looks([*run.models, *(s.name for s in run.stages if s.name in palette.OWN and s.name not in run.models)])
    sections = [s for s in _sections(run, looks) if s.body]
    body = el(
        "body",
        el("a", "Skip to the verdict", href="#verdict", class_="skip"),
        _bar(run, sections),
        el("main", _hero(run, looks), _notes(run), *(s.html() for s in sections)),
        el("footer", "Made by kilter from the files of this run alone; nothing is loaded from anywhere.", class_="end"),
        el("script", Html((HERE / "page.js").read_text(encoding="utf-8"))),
    )
    top = head(f"{run.name} \u00b7 kilter report")
    return join([Html("<!doctype html>\n"), el("html", top, body, lang="en"), "\n"])


def _sections(run: Run, looks: Looks) -> list[Section]:
    """What was found, what it was found with, how it came about, and how to have it again."""
    return [
        verdict.wins_section(run, looks),
        judges.you_section(run),
        verdict.models_section(run, looks),
        verdict.classes_section(run, looks),
        samples.samples_section(run, looks),
        verdict.bars_section(run),
        judges.reward_section(run),
        training.optimisation_section(run),
        *training.ppo_sections(run),
        training.heldout_section(run),
        training.curves_section(run),
        made.made_section(run),
        *curation.curation_sections(run),
        account.cost_section(run),
        account.rejects_section(run),
        account.settings_section(run),
        account.again_section(run),
    ]


def head(title: str) -> Html:
    """What stands at the head of every page that kilter writes: nothing is loaded from anywhere."""
    style = palette.css() + (HERE / "style.css").read_text(encoding="utf-8")
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        el("style", Html(style)),
    )


SHORT = {
    "wins": "Verdict",
    "you": "You",
    "models": "Models",
    "classes": "By kind",
    "samples": "Answers",
    "bars": "Bars",
    "reward": "Reward model",
    "optimisation": "Over-optimisation",
    "curves": "Learning",
    "made": "Made by models",
    "curation": "Curation",
    "cost": "Cost",
    "settings": "Settings",
    "again": "Again",
}


def _bar(run: Run, sections: list[Section]) -> Html:
    links = [el("a", SHORT.get(s.id, "PPO"), href=f"#{s.id}") for s in sections if s.id in SHORT or s.id == "rl-ppo"]
    toggle = el("button", "Dark", type="button", id="theme", hidden=True, aria_label="Switch between light and dark")
    return el(
        "nav",
        el("span", el("b", "kilter"), el("i", run.name), class_="brand"),
        el("div", *links, class_="links"),
        toggle,
        aria_label="Sections",
    )


def _hero(run: Run, looks: Looks) -> Html:
    about = str(run.recipe.get("about") or "")
    seed = run.recipe.get("seed", run.summary.get("seed"))
    kicker = " \u00b7 ".join(p for p in (run.name, f"seed {seed}" if seed is not None else "", about) if p)
    told = verdict.standfirst(run)
    return el(
        "header",
        el("p", kicker, class_="kicker"),
        el("h1", verdict.headline(run)),
        el("p", told, class_="stand") if told else None,
        _tiles(run, looks),
        class_="hero",
        id="verdict",
    )


def _tiles(run: Run, looks: Looks) -> Html | None:
    """The few numbers that stand beside the headline."""
    tiles = [_win_tile(n, w, run, looks) for n, w in verdict.judged(run).items()]
    bars = rows(run.summary.get("bars"))
    if bars:
        met = sum(b.get("passed") is True for b in bars)
        tiles.append(_tile(el("span", str(met), el("small", f" / {len(bars)}")), "bars met", ""))
    spent, peak = account.total_seconds(run), account.peak_memory(run)
    if spent is not None:
        finished = sum(s.finished for s in run.stages)
        tiles.append(
            _tile(
                el("span", duration(spent), class_="long"),
                f"for {finished} stages",
                f"peak memory {memory(peak)}" if peak is not None else "",
            )
        )
    return el("div", *tiles, class_="tiles") if tiles else None


def _tile(value: Html, label: str | Html, aside: str | Html, kind: str = "") -> Html:
    return el(
        "div",
        el("p", value, class_="figure"),
        el("p", label, class_="label"),
        el("p", aside, class_="aside") if aside else None,
        class_=f"tile {kind}".strip(),
    )


def _win_tile(name: str, win: Estimate, run: Run, looks: Looks) -> Html:
    """A win rate, with its interval drawn on a line whose middle is one half."""
    marks = []
    if win.has_interval:
        lo, hi = 200 * (win.lo or 0), 200 * (win.hi or 1)
        marks.append(el("line", class_="bar lead", x1=lo, x2=hi, y1=7, y2=7))
    line = el(
        "svg",
        el("line", class_="axis", x1=0, x2=200, y1=7, y2=7),
        el("line", class_="even", x1=100, x2=100, y1=1, y2=13),
        *marks,
        el("circle", class_="dot", cx=200 * win.mean, cy=7, r=4.5),
        viewBox="0 0 200 14",
        role="img",
        aria_label=f"{nice(name)}: {percents(win)}",
    )
    big = el("span", f"{100 * win.mean:.0f}", el("small", "\u202f%"))
    against = join([looks.key(name), f" against {nice(run.baseline)}"])
    return _tile(big, against, line, looks.colour(name))


def _notes(run: Run) -> Html | None:
    """What a reader must know is missing."""
    if not run.notes:
        return None
    return el(
        "aside",
        el("b", "This page is not the whole story yet."),
        el("ul", *(el("li", n) for n in run.notes)),
        class_="missing",
    )
