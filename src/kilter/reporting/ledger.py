"""What a stage spent and what it had got by then, round by round, from its own files.

    spent   prompts, tokens sampled, tokens trained, optimiser steps, seconds, calls of the reward
    point   what had been spent when something was measured, and what was measured

A stage that recorded less (an older run, a method of one's own) has less here: what is not known is None, never zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from kilter.reporting.files import Estimate, StageFiles, estimate, figure, jsonl, mapping, rows

AXES = ("prompts", "tokens", "seconds", "cost")
"""Budgets that methods are matched at."""
GOT = ("reward", "win", "kl", "length")
"""What a curve can tell of a method on its way."""


@dataclass(frozen=True)
class Spent:
    """What was used up, of one stage or so far within it."""

    prompts: float | None = None
    """Prompts seen, each time counted: rows of data where answers are given, prompts answered where they are not."""
    sampled: float | None = None
    """Tokens of answers that were sampled to learn from."""
    trained: float | None = None
    """Tokens that went through the loss."""
    steps: float | None = None
    """Optimiser steps."""
    seconds: float | None = None
    rewards: float | None = None
    """Answers that were given a reward."""

    @property
    def tokens(self) -> float | None:
        """Tokens sampled and trained on."""
        return None if self.trained is None else self.trained + (self.sampled or 0.0)


@dataclass(frozen=True)
class Point:
    """A moment at which something was measured."""

    where: str
    """In words: on which prompts, and when."""
    spent: Spent
    got: dict[str, Estimate] = field(default_factory=dict)
    by: str = "oracle"
    """Who says which answer wins."""


def ledger(folder: Path, stage: StageFiles) -> tuple[Spent, list[Point]]:
    """All that a stage spent, and its curve."""
    drawn = _drawn(folder / stage.name)
    so_far = dict(_by_round(stage, drawn))
    seconds = figure(stage.done.get("seconds"))
    steps = float(len(stage.metrics)) if stage.metrics else None
    last = so_far[max(so_far)] if so_far else Spent(None, *_totals(drawn))
    whole = Spent(last.prompts, last.sampled, last.trained, steps, seconds, last.rewards)
    return whole, list(_curve(stage, so_far))


def _drawn(home: Path) -> dict[float, tuple[set[str], float, float]]:
    """Per round of an online method: prompts, tokens sampled, answers given a reward."""
    found: dict[float, tuple[set[str], float, float]] = {}
    for row in jsonl(home / "samples.jsonl"):
        at, tokens = figure(row.get("round")), figure(row.get("tokens"))
        if at is not None and tokens is not None:
            prompts, sampled, answers = found.get(at, (set(), 0.0, 0.0))
            prompts.add(str(mapping(row.get("prompt")).get("id")))
            found[at] = (prompts, sampled + tokens, answers + 1)
    return found


def _totals(drawn: Mapping[float, tuple[set[str], float, float]]) -> tuple[float | None, ...]:
    return (sum(d[1] for d in drawn.values()),) if drawn else (None,)


def _by_round(stage: StageFiles, drawn: Mapping[float, tuple[set[str], float, float]]) -> Iterator[tuple[float, Spent]]:
    """What had been spent once a round was over."""
    by: dict[float, list[dict[str, Any]]] = {}
    for i, row in enumerate(stage.metrics):
        at = figure(row.get("round", row.get("step", i)))
        if at is not None:
            by.setdefault(at, []).append(row)
    order = sorted(by)
    seen = [len(drawn[r][0]) if r in drawn else _sum(by[r], "rows") for r in order]
    if drawn and any(r not in drawn for r in order):
        seen = [None for _ in order]
    columns = {
        "prompts": _running(seen),
        "trained": _running([_sum(by[r], "tokens_trained") for r in order]),
        "steps": _running([float(len(by[r])) for r in order]),
        "sampled": _running([drawn[r][1] if r in drawn else None for r in order]) if drawn else [0.0] * len(order),
        "rewards": _running([drawn[r][2] if r in drawn else None for r in order]) if drawn else [0.0] * len(order),
    }
    for i, at in enumerate(order):
        yield at, Spent(**{name: column[i] for name, column in columns.items()})


def _sum(found: list[dict[str, Any]], key: str) -> float | None:
    """A column's sum, where every row has it."""
    values = [figure(row.get(key)) for row in found]
    known = [v for v in values if v is not None]
    return sum(known) if known and len(known) == len(values) else None


def _running(values: list[float | None]) -> list[float | None]:
    """Sums so far; none where a part of them is not known."""
    if any(v is None for v in values):
        return [None] * len(values)
    return list(accumulate(v for v in values if v is not None))


def _curve(stage: StageFiles, so_far: Mapping[float, Spent]) -> Iterator[Point]:
    """Measurements on the way: on held-out prompts where there are any, else on the prompts of training."""
    last = max(so_far, default=None)
    if stage.evals:
        for row in stage.evals:
            at = figure(row.get("round"))
            before = so_far.get(at - 1) if at is not None else None  # it stands before its round
            if at is None or (before is None and at > 0):
                continue
            spent = before or Spent(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
            keys = {"reward": "reward", "win": "win_rate", "kl": "kl", "length": "length"}
            yield Point(
                f"held-out prompts, after round {at:.0f} of {(last or 0) + 1:.0f}",
                Spent(**{**spent.__dict__, "seconds": figure(row.get("seconds"))}),
                {k: e for k, name in keys.items() if (e := estimate(row.get(name)))},
                by="reward",
            )
        return
    first = {at: row for row in reversed(stage.metrics) if (at := figure(row.get("round"))) is not None}
    for at in sorted(first):
        if figure(first[at].get("reward")) is not None and at - 1 in so_far:
            yield Point(
                f"prompts of training, after round {at:.0f} of {(last or 0) + 1:.0f}",
                so_far[at - 1],  # what a round's answers show was learned before it
                {k: e for k in ("reward", "kl", "length") if (e := estimate(first[at].get(k)))},
                by="reward",
            )


def best_of_n_curve(folder: Path, name: str) -> list[tuple[float, float, float]]:
    """(n, mean reward of the best of n, bound on its drift) of a stage of that method."""
    found = (
        (figure(r.get("n")), figure(r.get("reward")), figure(r.get("kl_bound")))
        for r in jsonl(folder / name / "curve.jsonl")
    )
    return [(n, r, k) for n, r, k in found if n is not None and r is not None and k is not None]


def labels(run: Any, names: list[str]) -> dict[str, float]:
    """What people (or who stands for them) were asked for by some stages, each source counted once."""
    from kilter import recipes

    found: dict[str, float] = {}
    seen: set[str] = set()
    stages = {s.name: s for s in run.stages}
    for stage in (stages[n] for n in names if n in stages):
        if stage.method == "collect":
            note = mapping(stage.done.get("rankings"))
            _add(found, ranking=figure(note.get("judgments")), comparison=figure(note.get("pairs")))
        for name, counts in mapping(stage.done.get("rows")).items():
            source = str(stage.given.get(name) or "")
            if name == "heldout" or source in seen or source.split("/")[0] in stages:
                continue  # of a stage of this run: counted there
            seen.add(source)
            _add(found, **_kinds(recipes, stage.method, name, mapping(counts)))
    return found


def _kinds(recipes: Any, method: str, name: str, counts: Mapping[str, Any]) -> dict[str, float | None]:
    """What the rows of one stream are as labels; prompts and plain text are none."""
    known = recipes.methods()
    kind = dict(recipes.constant(known[method], "EATS", {})).get(name, "") if method in known else ""
    kind = kind.removeprefix("packed-")
    if kind == "demonstrations":
        return {"demonstration": figure(counts.get("rows"))}
    if kind == "rankings":
        return {"ranking": figure(counts.get("rows")), "comparison": figure(counts.get("pairs"))}
    if kind == "labels":
        return {"label": (figure(counts.get("good")) or 0.0) + (figure(counts.get("bad")) or 0.0)}
    return {}


def _add(found: dict[str, float], **more: float | None) -> None:
    for kind, count in more.items():
        if count is not None:
            found[kind] = found.get(kind, 0.0) + count


def sampled_rankings(folder: Path, name: str) -> Spent:
    """What a best-of-n stage spent: it samples and scores, and trains nothing."""
    prompts = tokens = answers = 0.0
    for row in jsonl(folder / name / "rankings.jsonl"):
        prompts += 1
        for candidate in rows(row.get("candidates")):
            answers += 1
            tokens += figure(mapping(candidate.get("generator")).get("tokens")) or 0.0
    return Spent(prompts, tokens, 0.0, 0.0, None, answers)
