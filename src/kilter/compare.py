"""`kilter compare`: finished runs side by side, at what each cost, from their files alone and without torch.

A target is a run's folder or name, or `RUN:NAME` for one model of its verdict or one finished stage. `compare.html` is
one self-contained page; the same figures are to be had as JSON and as a table.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kilter import runs
from kilter.errors import UserError, nearest
from kilter.pipeline import run_folder
from kilter.reporting import files
from kilter.reporting.compared import Comparison, page, why
from kilter.reporting.contest import (
    KINDS,
    Contestant,
    Group,
    Matched,
    all_matched,
    contestants,
    grouped,
    refuse_strangers,
)
from kilter.reporting.files import Estimate, Run
from kilter.reporting.ledger import GOT, Spent

NAME = "compare.html"


def compare(
    targets: Sequence[str], runs_dir: str | os.PathLike[str] = "runs", prices: Mapping[str, float] | None = None
) -> Comparison:
    """Read the runs and match their methods; what can't be compared is refused, what can't be matched is said."""
    known: dict[Path, Run] = {}
    found: list[Contestant] = []
    for target in targets:
        folder, only = _placed(target, runs_dir)
        run = known.setdefault(folder.resolve(), files.load(folder))
        found += contestants(run, only)
    groups = grouped(found)
    if len(groups) < 2:
        raise UserError(
            f"{' '.join(targets)}: there is only {groups[0].label if groups else 'nothing'} in it, and a comparison "
            "takes two; name further runs, or RUN:STAGE"
        )
    opened = list(known.values())
    refuse_strangers(groups, opened)
    given = dict(prices or {})
    names = list(dict.fromkeys(r.folder.resolve().name for r in opened))
    return Comparison(groups, all_matched(groups, given), given, found[0].baseline, names, _notes(groups, opened))


def _placed(target: str, runs_dir: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """The folder that a target means, and the model or stage within it."""
    name, colon, only = target.rpartition(":")
    if not colon or (Path(target) / "recipe.yaml").is_file():
        return run_folder(target, runs_dir), None
    if not only:
        raise UserError(f"{target}: nothing stands after the colon; give RUN:STAGE, or RUN alone")
    return run_folder(name, runs_dir), only


def parse_prices(given: Sequence[str]) -> dict[str, float]:
    """`ranking=0.5` as often as given: what one label of a kind costs."""
    found: dict[str, float] = {}
    for text in given:
        kind, equals, value = text.partition("=")
        if kind not in KINDS:
            raise UserError(f"--price {text}: there is no label of that kind{nearest(kind, KINDS)}")
        try:
            price = float(value) if equals else float("nan")
        except ValueError:
            price = float("nan")
        if not 0 <= price < float("inf"):
            raise UserError(f"--price {text}: give kind=cost with a number from 0 on, e.g. --price ranking=0.5")
        if kind in found:
            raise UserError(f"--price {kind} is given twice")
        found[kind] = price
    if {"ranking", "comparison"} <= set(found):
        raise UserError("--price: comparisons follow from rankings and would be paid twice; price one of the two")
    return found


def _notes(groups: Sequence[Group], opened: Sequence[Run]) -> list[str]:
    """What a reader must know before believing a difference."""
    notes = []
    counts = {len(g.members) for g in groups}
    if len(counts) > 1:
        notes.append(
            f"Some methods have more seeds than others ({min(counts)} to {max(counts)}): spreads differ by that."
        )
    threads = {str(r.machine.get("threads")) for r in opened if r.machine}
    machines = {str(files.mapping(r.machine.get("versions")).get("machine")) for r in opened if r.machine}
    if len(threads) > 1 or len(machines) > 1:
        notes.append("The runs were made with different threads or on different machines: their seconds don't compare.")
    sets = {m.asked for g in groups for m in g.members if m.end}
    if len(sets) > 1:
        notes.append(f"The seeds were judged on {len(sets)} sets of prompts, and every method on all of them.")
    if "" in sets:
        notes.append("Without evaluate/answers.jsonl it is not known whether the verdicts asked the same prompts.")
    starts: dict[int | None, set[str]] = {}
    for m in (m for g in groups for m in g.members if m.end):
        starts.setdefault(m.seed, set()).add(m.start)
    if any(len(found) > 1 for found in starts.values()):
        notes.append("The runs start from different models, and each win rate is against its own run's.")
    mute = [g.label for g in groups if not all(m.end for m in g.members)]
    if mute:
        notes.append(f"Not in any verdict, so without an end of their own: {', '.join(mute)}.")
    return notes


def write(found: Comparison, out: str | os.PathLike[str] = NAME) -> Path:
    """The page, whole or not at all; a folder gets `compare.html`."""
    path = Path(out).expanduser()
    path = path / NAME if path.is_dir() else path
    if not path.parent.is_dir():
        raise UserError(f"can't write {path}: {path.parent} is not a folder; make it first, or give another --out")
    runs.write_text(path, str(page(found)))
    return path


def plain(found: Comparison) -> dict[str, Any]:
    """The comparison as plain values, for JSON."""
    return {
        "runs": found.runs,
        "baseline": found.baseline,
        "prices": found.prices,
        "methods": [_group(g, found.prices) for g in found.groups],
        "matched": [_match(m, found.prices) for m in found.matched],
        "notes": found.notes,
    }


def _group(group: Group, prices: Mapping[str, float]) -> dict[str, Any]:
    return {
        "method": group.label,
        "seeds": group.seeds,
        "got": {k: _estimate(group, group.end(k), group.spread(k)) for k in (*GOT, "gold")},
        "runs": [_member(m, prices) for m in group.members],
    }


def _estimate(group: Group, value: Estimate | None, spread: float | None) -> dict[str, Any] | None:
    """A figure; over several seeds `lo` and `hi` are the lowest and the highest, and `sd` their standard deviation."""
    if value is None:
        return None
    told = {"mean": value.mean, "lo": value.lo, "hi": value.hi}
    return {**told, "sd": spread} if len(group.members) > 1 else {**told, "n": value.n}


def _member(m: Contestant, prices: Mapping[str, float]) -> dict[str, Any]:
    return {
        "run": m.run,
        "stage": m.stage,
        "seed": m.seed,
        "spent": _spent(m.spent),
        "seconds_before": m.before,
        "labels": m.labels,
        "label_cost": m.budget("cost", m.spent, prices),
        "peak_mb": m.peak_mb,
        "note": m.note,
        "curve": [
            {"where": p.where, "spent": _spent(p.spent), **{k: e.mean for k, e in p.got.items()}} for p in m.curve
        ],
        "best_of_n": [{"n": n, "reward": r, "kl_bound": k} for n, r, k in m.frontier],
    }


def _spent(spent: Spent) -> dict[str, float | None]:
    return {
        "prompts": spent.prompts,
        "tokens_sampled": spent.sampled,
        "tokens_trained": spent.trained,
        "steps": spent.steps,
        "seconds": spent.seconds,
        "rewards": spent.rewards,
    }


def _match(m: Matched, prices: Mapping[str, float]) -> dict[str, Any]:
    return {
        "axis": m.axis,
        "budget": m.budget,
        "methods": [
            {
                "method": group.label,
                "measured": [
                    {"seed": one.seed, "where": p.where, "spent": one.budget(m.axis, p.spent, prices), "win_by": p.by}
                    | {k: e.mean for k, e in p.got.items()}
                    for one, p in picked
                ],
            }
            for group, picked in m.lines
        ],
        "not_matched": [{"method": u.group.label, "why": why(m.axis, u), "first": u.first} for u in m.left_out],
    }
