"""How far a few choices of one person move a model towards that person's taste, measured on choices it has not seen.

Half of the rows that DPO sees are collected rankings, the other half the choices, repeated in turn until the half is
full, so that twenty choices weigh as much as all of the rankings beside them. The model to compare with has the same
steps from the same start on the same rankings; where the choices stood, it has further collected rankings. So the
difference between the two is the person's taste and not more training.

Cross-fitting: choice i belongs to fold i mod 4. Each fold's model is trained without its choices and then asked about
them. For a choice of w over l:

    moved = [log p(w) - log p(l)] of the fold's model - the same of the model trained without any choice    (nats)

Both start from the SFT model, whose own margin cancels. The interval is a bootstrap over pairs.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from kilter.data import streams
from kilter.data.records import Judgment, read_jsonl, write_jsonl
from kilter.errors import DataError
from kilter.evaluate.winrate import interval
from kilter.progress import QUIET
from kilter.runs import whole_folder, write_json

FOLDS = 4
RANKINGS = 96
"""Collected rankings in each training, and as many rows of choices."""
DRAW = ("you", "rankings")


def learn(run_folder: Path, folder: Path, judged: Sequence[Judgment], train: Callable[..., Any]) -> dict[str, Any]:
    """Train with and without the choices, measure, write `model/` and `summary.json`; returns the summary.

    A tie decides nothing, so it is counted and not trained on.
    """
    choices = decided(judged)
    began = time.monotonic()
    write_jsonl(folder / "choices.jsonl", choices)
    base, spare = _rankings(run_folder)
    sft = run_folder / "sft" / "model"
    settings = _settings(run_folder)
    numbers = itertools.count(1)

    def trained(name: str, what: str, rows: list[Any]) -> Path:
        if os.environ.get(QUIET) != "1":
            print(f"training {next(numbers)} of {FOLDS + 2}: {what}", file=sys.stderr, flush=True)
        data = folder / name / "rows.jsonl"
        write_jsonl(data, rows)
        done = train("dpo", model=sft, data=data, out=folder / name, epochs=1.0, **settings)
        return Path(done.model("dpo"))

    models = {"sft": sft, "without": trained("without", "without your choices", base + spare)}
    for fold in range(FOLDS):
        outside = [c for i, c in enumerate(choices) if i % FOLDS != fold]
        what = f"with your choices but for fold {fold + 1} of {FOLDS}"
        models[f"fold-{fold}"] = trained(f"fold-{fold}", what, base + repeated(outside, len(base)))
    everything = trained("all", "with all your choices", base + repeated(choices, len(base)))
    with whole_folder(folder / "model") as target:
        shutil.copytree(everything, target, dirs_exist_ok=True, copy_function=shutil.copy)
    summary = measure(folder / "choices.jsonl", models)
    summary |= {
        "judged": len(judged),
        "folds": FOLDS,
        "rankings": len(base),
        "repeats": round(len(base) / len(choices), 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(folder / "summary.json", summary)
    return summary


def decided(judged: Sequence[Judgment]) -> list[Judgment]:
    """The choices that prefer one answer."""
    return [j for j in judged if len(j.tiers) == 2]


def repeated(choices: Sequence[Judgment], slots: int) -> list[Judgment]:
    """The choices in turn until every slot is filled (each at least once)."""
    return [choices[i % len(choices)] for i in range(max(slots, len(choices)))]


def _rankings(run_folder: Path) -> tuple[list[Any], list[Any]]:
    """Two keyed and disjoint subsets of the collected rankings, of one size."""
    rows = [row for _, row in read_jsonl(run_folder / "collect" / "rankings.jsonl")]
    rows = [row for row in rows if len(row["tiers"]) > 1]
    size = min(RANKINGS, len(rows) // 2)
    if size < 1:
        raise DataError(f"{run_folder / 'collect' / 'rankings.jsonl'} has fewer than 2 rankings that decide anything")
    order = streams.draw(*DRAW).permutation(len(rows))
    return [rows[i] for i in order[:size]], [rows[i] for i in order[size : 2 * size]]


def _settings(run_folder: Path) -> dict[str, Any]:
    """What the run's recipe tells its DPO stage, its seed and its threads."""
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text(encoding="utf-8"))
    stage = dict(recipe.get("stages", {}).get("dpo") or {})
    if stage.get("method", "dpo") != "dpo":
        stage = {}
    kept = {k: v for k, v in stage.items() if k not in ("method", "model", "data", "steps", "epochs")}
    return {**kept, "seed": recipe.get("seed", 1), "threads": recipe.get("threads", 2)}


def measure(path: Path, models: dict[str, Path]) -> dict[str, Any]:
    """Margins of every choice under the SFT model, the model without choices, and the fold that has not seen it."""
    from kilter.models import load

    tokenizer = load.load_tokenizer(str(models["sft"]))
    items, _ = streams.load(path, "rankings", tokenizer, load.context_of(str(models["sft"])), 1.0)
    numbers = [int(item.where.rpartition(":")[2]) - 1 for item in items]
    margin = {name: margins(folder, items) for name, folder in models.items()}
    unseen = [margin[f"fold-{n % FOLDS}"][i] for i, n in enumerate(numbers)]
    moved = [with_ - without for with_, without in zip(unseen, margin["without"], strict=True)]
    return {
        "n": len(items),
        "moved": interval(moved, "you"),
        "agree_sft": _share(margin["sft"]),
        "agree_before": _share(margin["without"]),
        "agree_after": _share(unseen),
        "moved_from_sft": interval([a - b for a, b in zip(unseen, margin["sft"], strict=True)], "you", "sft"),
        "pairs": [
            {"sft": s, "without": w, "with": u}
            for s, w, u in zip(margin["sft"], margin["without"], unseen, strict=True)
        ],
    }


def margins(model_folder: Path, items: Sequence[Any]) -> list[float]:
    """log p(chosen) - log p(other) of each pair under a model."""
    import torch

    from kilter.models import load
    from kilter.models.logprobs import sequence_logps

    model = load.load(str(model_folder), "causal")
    found = []
    with torch.no_grad():
        for item in items:
            logps = sequence_logps(model, item.sequences, item.starts)
            pair = item.pairs[0]
            found.append(float(logps[pair.better] - logps[pair.worse]))
    return found


def _share(values: Sequence[float]) -> float:
    return sum(v > 0 for v in values) / len(values) if values else float("nan")


def lines(summary: dict[str, Any]) -> list[str]:
    """What the summary says, in words; an interval that contains zero is called what it is."""
    n, moved = summary["n"], summary["moved"]
    said = [
        f"{summary['judged']} judged, {n} of them decided; in training each stood {summary['repeats']} times beside "
        f"{summary['rankings']} collected rankings.",
        f"On choices it had not seen, your choices moved the model by {moved['mean']:+.2f} nats a pair "
        f"[{moved['lo']:+.2f}, {moved['hi']:+.2f}] towards the answer you prefer,",
        "compared with the same training without them (95 %, bootstrap over pairs).",
    ]
    if moved["lo"] <= 0 <= moved["hi"]:
        said.append("The interval contains zero: from so few choices this can't be told from chance.")
        said.append("More pairs narrow it, e.g. --pairs 60.")
    elif moved["hi"] < 0:
        said.append(
            "That is away from your taste: what it learned from your other choices does not carry over to these."
        )
    said.append(
        f"It finds your answer the likelier one in {round(summary['agree_after'] * n)} of {n} unseen pairs; without "
        f"your choices in {round(summary['agree_before'] * n)}, before any preference training in "
        f"{round(summary['agree_sft'] * n)}."
    )
    return said
