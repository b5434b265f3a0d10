"""Who judged: the raters and how far they agree, the reward model against raters and truth, and your own choices."""

from __future__ import annotations

from kilter.reporting.dots import BarRow, bars
from kilter.reporting.files import Estimate, Run, estimate, figure, mapping
from kilter.reporting.layout import Section, card, paragraphs
from kilter.reporting.markup import Html, count, el, join, percent, signed

PEOPLE = 0.726
"""Agreement of InstructGPT's labellers with each other (Ouyang et al. 2022, section 3.4)."""


def reward_section(run: Run) -> Section:
    found, raters = mapping(run.summary.get("reward_model")), mapping(run.summary.get("raters"))
    lines = []
    for key, label, counted, aside in (
        ("accuracy_raters", "reward model, against raters", "n_raters", "ordered pairs"),
        ("accuracy_oracle", "\u2026 against the oracle", "n_oracle", "unequal pairs"),
        ("accuracy_clear", "\u2026 where scores differ > 0.3", "n_clear", "clear pairs"),
    ):
        value = estimate(found.get(key))
        if value:
            n = figure(found.get(counted)) or figure(found.get("n_pairs"))
            lines.append(BarRow(label, value.mean, percent(value.mean, 1), "m5", f"{count(n)} {aside}" if n else aside))
    agreement = estimate(raters.get("agreement")) or _noted_agreement(run)
    if agreement:
        lines.append(BarRow("two raters with each other", agreement.mean, percent(agreement.mean, 1), "m0", ""))
    if not lines:
        return Section("reward", "Raters and reward model", Html(""))
    lean, truth = figure(found.get("length_corr")), figure(found.get("length_corr_oracle"))
    leaning = f"Correlation of reward with length: {signed(lean)}" if lean is not None else ""
    leaning += (
        f" (the oracle\u2019s own: {signed(truth)})." if leaning and truth is not None else "." if leaning else ""
    )
    defined = f"Agreement: {raters['definition']}." if raters.get("definition") else ""
    counts = _collected(run)
    return Section(
        "reward",
        "Raters and reward model",
        join(
            [
                card(bars(lines, "Accuracy on held-out rankings", 1.0, (0.5, "chance"))),
                el("div", paragraphs(counts, leaning, defined), class_="notes"),
            ]
        ),
        "On rankings it never saw: how often the reward model puts the better of two answers first. Raters disagree "
        f"with each other (people in about {percent(1 - PEOPLE)} of pairs, Ouyang et al. 2022), so accuracy "
        "against raters has a ceiling below one; against the truth it has none.",
    )


def _noted_agreement(run: Run) -> Estimate | None:
    """Before there is a verdict, the collecting stage's own note."""
    notes = (estimate(mapping(s.done.get("rankings-heldout")).get("agreement")) for s in run.of_method("collect"))
    return next((n for n in notes if n), None)


def _collected(run: Run) -> str:
    """How much was ranked, as the collecting stage noted it."""
    for stage in run.of_method("collect"):
        note = mapping(stage.done.get("rankings"))
        parts = [
            f"{count(figure(note.get(k)))} {label}"
            for k, label in (
                ("judgments", "rankings"),
                ("answers", "answers"),
                ("pairs", "decided pairs"),
                ("all_tied", "tied throughout"),
            )
            if figure(note.get(k)) is not None
        ]
        if parts:
            return f"Collected for training: {', '.join(parts)}."
    return ""


def you_section(run: Run) -> Section:
    """`kilter demo --you`: how far the model moved towards the reader's own taste."""
    moved, n = estimate(run.you.get("moved")), figure(run.you.get("n"))
    if moved is None:
        return Section("you", "Your taste", Html(""))
    sure = moved.has_interval and ((moved.lo or 0) > 0 or (moved.hi or 0) < 0)
    size = f"{signed(moved.mean)} nats a pair"
    within = f" [{signed(moved.lo)}, {signed(moved.hi)}]" if moved.has_interval else ""
    said = (
        ("towards your taste" if moved.mean > 0 else "away from your taste")
        if sure
        else "but so few choices can\u2019t tell this from chance"
    )
    before, after = figure(run.you.get("agree_before")), figure(run.you.get("agree_after"))
    agree = (
        f"Of pairs it had not seen, it found your answer the likelier one in {percent(before)} before your choices "
        f"joined the training, and in {percent(after)} after."
        if before is not None and after is not None
        else ""
    )
    body = card(
        el("p", el("b", size, class_="big"), el("span", within, class_="within"), f" {said}."),
        paragraphs(agree),
        kind="you",
    )
    chosen = f"{count(n)} choices of yours" if n is not None else "Your choices"
    return Section("you", "Your taste", body, f"{chosen} joined the training.")
