"""Contestants from finished runs, seeds of one setting grouped, and all of them matched at equal budgets.

A contestant is a model of a run's verdict with the stage that made it, or a stage alone. Seeds of one setting are one
line: means, and the lowest and highest seed. They are matched at what they spent in all, each by its last measurement
made by then. Nothing is interpolated: who has none by then is said to have none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import fmean, stdev
from typing import Any

from kilter.errors import UserError, nearest
from kilter.recipes import texts
from kilter.reporting.files import Estimate, Run, StageFiles, estimate, figure, homes, jsonl, mapping
from kilter.reporting.ledger import (
    AXES,
    Point,
    Spent,
    best_of_n_curve,
    labels,
    ledger,
    sampled_rankings,
)

KINDS = ("ranking", "comparison", "demonstration", "label", "reward")
"""What can have a price: a ranking, a pair that follows from one, a demonstration, a labelled answer, a reward."""
ENDS = {"reward": "proxy", "gold": "oracle", "win": "win_vs_sft", "kl": "kl", "length": "length"}
"""Figure -> its key in the verdict."""
BEST_OF = "best-of-n"


@dataclass(frozen=True)
class Contestant:
    """One model of one run."""

    name: str
    run: str
    seed: int | None
    stage: str
    setting: str
    """Hash of what made it, the seed left out."""
    key: str
    """The finished stage's own key."""
    baseline: str
    spent: Spent
    before: float | None
    """Seconds of the stages between the common start and this one."""
    labels: dict[str, float]
    peak_mb: float | None
    end: Point | None
    """The verdict, once everything was spent."""
    curve: list[Point] = field(default_factory=list)
    note: str = ""
    asked: str = ""
    """Hash of the prompts that the verdict asked."""
    start: str = ""
    """The baseline's own key."""
    frontier: list[tuple[float, float, float]] = field(default_factory=list)
    """Of best-of-n: (n, reward, bound on its drift)."""

    def budget(self, axis: str, spent: Spent, prices: Mapping[str, float]) -> float | None:
        """How much of one budget had been spent, with what came before the stage."""
        if axis == "seconds":
            return None if spent.seconds is None or self.before is None else self.before + spent.seconds
        if axis == "cost":
            if not prices:
                return None
            paid = {**self.labels, "reward": spent.rewards or 0.0}
            return sum(price * paid.get(kind, 0.0) for kind, price in prices.items())
        found: float | None = getattr(spent, axis)
        return found


def over_seeds(values: Sequence[Estimate | None]) -> Estimate | None:
    """One seed's own figure, or the mean between the lowest and the highest seed; none where a seed lacks it."""
    known = [v for v in values if v is not None]
    if not known or len(known) < len(values):
        return None
    means = [v.mean for v in known]
    return known[0] if len(known) == 1 else Estimate(fmean(means), min(means), max(means), len(means))


@dataclass(frozen=True)
class Group:
    """Contestants that differ in nothing but the seed."""

    label: str
    members: list[Contestant]

    @property
    def seeds(self) -> list[int | None]:
        return [m.seed for m in self.members]

    def over(self, of: Callable[[Contestant], Estimate | float | None]) -> Estimate | None:
        """A figure over the seeds."""
        values = [of(m) for m in self.members]
        return over_seeds([Estimate(v) if isinstance(v, (int, float)) else v for v in values])

    def spent(self, what: str) -> Estimate | None:
        """A sum of what was used up."""
        return self.over(lambda m: getattr(m.spent, what))

    def end(self, figure_: str) -> Estimate | None:
        """A figure of the verdict."""
        return self.over(lambda m: m.end.got.get(figure_) if m.end else None)

    def spread(self, figure_: str) -> float | None:
        """Standard deviation over seeds."""
        ends = [m.end.got[figure_].mean for m in self.members if m.end and figure_ in m.end.got]
        return stdev(ends) if len(ends) > 1 else None


# --- one run ----------------------------------------------------------------------------------------------------------


def contestants(run: Run, only: str | None = None) -> list[Contestant]:
    """The models of a run's verdict that come from its baseline; or the one model or stage that is asked for."""
    asked = [only] if only else [n for n in run.models if n != "base"]
    if not run.models and not only:
        raise UserError(
            f"{run.folder} has no verdict yet, so there is nothing to compare: finish it (kilter run), or name a "
            f"finished stage, e.g. {run.folder}:{_example(run)}"
        )
    marks = asked_of(run)
    return [_contestant(run, name, marks) for name in asked]


def asked_of(run: Run) -> str:
    """Hash of the prompts that a verdict asked, whatever their order; empty where they were not kept."""
    for home in homes(run.folder, run.stages):
        found = sorted(
            json.dumps([row.get("set"), mapping(row.get("prompt")).get("messages")], sort_keys=True)
            for row in jsonl(home / "answers.jsonl")
        )
        if found:
            return sha256("\n".join(found).encode()).hexdigest()[:12]
    return ""


def _example(run: Run) -> str:
    return next((s.name for s in reversed(run.stages) if s.finished and s.metrics), "dpo")


def _made_by(run: Run) -> dict[str, str]:
    """Model of the verdict -> the stage that made it."""
    stages = {s.name: s for s in run.stages}
    found: dict[str, str] = {}
    for stage in run.of_method("evaluate"):
        for name, text in mapping(stage.given.get("models")).items():
            head = str(text).split("/")[0]
            found |= {name: head} if head in stages else {}
    if BEST_OF in run.models and BEST_OF not in found:
        found.update((BEST_OF, s.name) for s in run.of_method(BEST_OF)[:1])
    return found


def _contestant(run: Run, name: str, asked: str) -> Contestant:
    stages, made = {s.name: s for s in run.stages}, _made_by(run)
    if name not in run.models and name not in stages:
        raise UserError(f"{run.folder}: no model or stage {name!r}{nearest(name, {*run.models, *stages})}")
    stage = stages.get(made.get(name, name))
    if stage is not None and not stage.finished:
        raise UserError(
            f"{run.folder}: stage {stage.name!r} is not finished; run it to its end (kilter run), or leave it out"
        )
    if stage is None and name not in run.models:
        raise UserError(f"{run.folder}: {name!r} is neither in the verdict nor a finished stage")
    figures = run.models.get(name, {})
    got = {k: e for k, key in ENDS.items() if (e := _end(figures, key))}
    spent, curve = ledger(run.folder, stage) if stage else (Spent(), [])
    start = made.get(run.baseline, run.baseline)
    before = [n for n in _closure(run, stage.name) if n not in _closure(run, start)] if stage else []
    frontier: list[tuple[float, float, float]] = []
    note = ""
    if name == BEST_OF:
        spent, frontier, note = _best_of(run, stage)
        if stage is None:  # it is chosen by the verdict's own reward model
            before = [n for n in _upstream(run, "reward") if n not in _closure(run, start)]
    elif stage and stage.name == start:
        spent, curve, before, note = Spent(0.0, 0.0, 0.0, 0.0, 0.0, 0.0), [], [], "what all others start from"
    ahead = [n for n in before if stage is None or n != stage.name]
    return Contestant(
        name, run.folder.resolve().name, _seed(run), stage.name if stage else "", _setting(run, stage, name),
        str(stage.done.get("key") or "") if stage else "", run.baseline, spent, _seconds(stages, ahead),
        labels(run, before), figure(stage.done.get("peak_mb")) if stage else None,
        Point("the verdict's prompts, at its end", spent, got) if got else None, curve, note,
        asked, str(stages[start].done.get("key") or "") if start in stages else "", frontier,
    )  # fmt: skip


def _end(figures: Mapping[str, Any], key: str) -> Estimate | None:
    return estimate(figures.get(f"{key}_interval")) or estimate(figures.get(key))


def _best_of(run: Run, stage: StageFiles | None) -> tuple[Spent, list[tuple[float, float, float]], str]:
    """It trains nothing; what it costs, it costs whenever it answers."""
    nothing = Spent(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    evaluation = next((s for s in run.of_method("evaluate")), None)
    n = figure(evaluation.config.get("best_of")) if evaluation else None
    told = f"trains nothing, and samples {n:.0f} answers for each one it gives" if n else "trains nothing"
    if stage is None:
        return nothing, [], told
    sampled = sampled_rankings(run.folder, stage.name)
    more = f"; its curve took {sampled.rewards:,.0f} answers" if sampled.rewards else ""
    return nothing, best_of_n_curve(run.folder, stage.name), told + more


def _upstream(run: Run, field_: str) -> list[str]:
    """The stages behind a field of the verdict, that field's own first."""
    for stage in run.of_method("evaluate"):
        head = str(stage.given.get(field_) or "").split("/")[0]
        if head in {s.name for s in run.stages}:
            return _closure(run, head)
    return []


def _closure(run: Run, name: str) -> list[str]:
    """A stage and all that it reads, however far back."""
    stages = {s.name: s for s in run.stages}
    found: list[str] = []
    queue = [name]
    while queue:
        at = queue.pop()
        if at in found or at not in stages:
            continue
        found.append(at)
        given = [v for k, v in stages[at].given.items() if k != "method"]
        queue += [t.split("/")[0] for t in texts(given)]
    return found


def _seconds(stages: Mapping[str, StageFiles], names: Sequence[str]) -> float | None:
    taken = [figure(stages[n].done.get("seconds")) for n in names]
    known = [t for t in taken if t is not None]
    return sum(known) if len(known) == len(taken) else None


def _setting(run: Run, stage: StageFiles | None, name: str) -> str:
    """What made a contestant, seed and places on the disk left out."""
    stages = {s.name: s for s in run.stages}
    chain = {n: stages[n].given for n in _closure(run, stage.name)} if stage else {}
    return sha256(json.dumps([name, chain], sort_keys=True, default=str).encode()).hexdigest()[:12]


def _seed(run: Run) -> int | None:
    found = figure(run.recipe.get("seed", run.summary.get("seed")))
    return None if found is None else int(found)


# --- all runs ---------------------------------------------------------------------------------------------------------


def grouped(found: Sequence[Contestant]) -> list[Group]:
    """Seeds of one setting under one label; the same finished stage met twice counts once."""
    groups: dict[tuple[str, str], dict[Any, Contestant]] = {}
    for one in found:
        members = groups.setdefault((one.name, one.setting), {})
        same = members.get(one.seed)
        if same is not None and (same.key != one.key or (not one.key and same.run != one.run)):
            groups.setdefault((one.name, f"{one.setting} {one.run}"), {})[one.seed] = one
        elif same is None:
            members[one.seed] = one
    names = [name for name, _ in groups]
    return [
        Group(name if names.count(name) == 1 else f"{name} ({_runs(members.values())})", list(members.values()))
        for (name, _), members in groups.items()
    ]


def _runs(members: Iterable[Contestant]) -> str:
    return ", ".join(dict.fromkeys(m.run for m in members))


def refuse_strangers(groups: Sequence[Group], runs: Sequence[Run]) -> None:
    """Win rates on other prompts, or against another baseline, say nothing of each other."""
    judged = [r for r in runs if r.models]
    for one in judged[1:]:
        ours, theirs = (mapping(r.summary.get("evaluation")) for r in (judged[0], one))
        for k in ("prompts", "seed", "baseline"):
            if ours.get(k) != theirs.get(k):
                raise UserError(
                    f"{judged[0].folder} and {one.folder} have nothing in common to be compared by: their verdicts "
                    f"were given with {k} {ours.get(k)} and {theirs.get(k)}; evaluate both alike"
                )
    known = [g for g in groups if any(m.end for m in g.members)]
    for group in known[1:]:
        if _asked(group) != _asked(known[0]):
            raise UserError(
                f"{known[0].label} of {_runs(known[0].members)} and {group.label} of {_runs(group.members)} were "
                "judged on different prompts, so their figures say nothing of each other; give both verdicts the same "
                "`prompts`, or compare seeds of which each has every method"
            )


def _asked(group: Group) -> set[str]:
    return {m.asked for m in group.members if m.end}


@dataclass(frozen=True)
class Unmatched:
    """A group that has nothing to show at a budget, and why."""

    group: Group
    why: str
    first: float | None = None
    """What had been spent when it was first measured."""


@dataclass(frozen=True)
class Matched:
    """One budget, and what each had got before it had spent more than that."""

    axis: str
    budget: float | None
    """None where nobody's spending is known."""
    lines: list[tuple[Group, list[tuple[Contestant, Point]]]] = field(default_factory=list)
    """Per group one measurement per seed."""
    left_out: list[Unmatched] = field(default_factory=list)
    """Groups without a measurement at that budget."""


ALIKE = 1.15
"""Totals no further apart than this are one budget, the largest of them."""


def budgets(groups: Sequence[Group], axis: str, prices: Mapping[str, float]) -> list[float]:
    """What the methods spent in all, smallest first, with totals that are nearly alike taken as one."""
    spent = [[m.budget(axis, m.spent, prices) for m in g.members] for g in groups]
    totals = sorted(top for of in spent if (top := max((t for t in of if t is not None), default=0.0)) > 0)
    found: list[list[float]] = []
    for total in totals:
        if found and total <= ALIKE * found[-1][0]:
            found[-1].append(total)
        else:
            found.append([total])
    return [alike[-1] for alike in found]


def matched(groups: Sequence[Group], axis: str, prices: Mapping[str, float], budget: float | None) -> Matched:
    """All groups at one budget; who spends none of it is within any."""
    found = Matched(axis, budget)
    for group in groups:
        if any(m.budget(axis, m.spent, prices) is None for m in group.members):
            found.left_out.append(Unmatched(group, "did not record what it spent"))
        elif budget is not None:
            _place(found, group, axis, prices, budget)
    return found


def _place(found: Matched, group: Group, axis: str, prices: Mapping[str, float], budget: float) -> None:
    picked = [(m, point) for m in group.members if (point := _by_then(m, axis, prices, budget))]
    if len(picked) == len(group.members):
        found.lines.append((group, picked))
        return
    firsts = [f for m in group.members if (f := _first(m, axis, prices)) is not None]
    if firsts:
        found.left_out.append(Unmatched(group, "was first measured at", min(firsts)))
    else:
        found.left_out.append(Unmatched(group, "was never measured"))


def _by_then(one: Contestant, axis: str, prices: Mapping[str, float], budget: float) -> Point | None:
    """The last measurement within a budget: the verdict where all of it was, else one of the curve."""
    whole = one.budget(axis, one.spent, prices)
    if one.end is not None and whole is not None and whole <= budget:
        return one.end
    within = [p for p in one.curve if _within(one.budget(axis, p.spent, prices), budget) and p.got]
    return within[-1] if within else None


def _within(value: float | None, budget: float) -> bool:
    return value is not None and value <= budget


def _first(one: Contestant, axis: str, prices: Mapping[str, float]) -> float | None:
    points = [*one.curve, *([one.end] if one.end else [])]
    values = [v for p in points if (v := one.budget(axis, p.spent, prices)) is not None]
    return min(values, default=None)


def all_matched(groups: Sequence[Group], prices: Mapping[str, float]) -> list[Matched]:
    """Every budget of every kind, kind by kind; label cost only where prices are given."""
    found = []
    for axis in AXES:
        if axis != "cost" or prices:
            at = budgets(groups, axis, prices)
            found += [matched(groups, axis, prices, b) for b in at] or [matched(groups, axis, prices, None)]
    return found
