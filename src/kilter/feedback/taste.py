"""How far a few choices of one person move a model towards that person's taste, measured on choices it has not seen.

Training goes in two steps, both by the DPO stage of the run's recipe. First the SFT model learns from a subset of the
collected rankings: that is the model without your choices. From there, and held to it, it learns from your choices
alone, each about STEPS * BATCH / n times. So your choices are not drowned by the rankings, and what differs between the
two models is your taste and not more training.

Cross-fitting: choice i belongs to fold i mod 4. Each fold's model is trained without its choices and then asked about
them. For a choice of w over l:

    moved = [log p(w) - log p(l)] of the fold's model - the same of the model without your choices    (nats)

The interval is a bootstrap over pairs, widened by √2: each pair counts twice, once asked about and once trained on, and
what two pairs do to each other is alike in both directions, so that a plain bootstrap sees half of the variance. Of 24
people who chose by a coin in the sandbox, its 95 % interval held zero for 19, the widened one for 23 (docs/LOG.md).
"""

from __future__ import annotations

import itertools
import math
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
from kilter.evaluate.winrate import interval
from kilter.progress import QUIET
from kilter.runs import whole_folder, write_json

FOLDS = 4
RANKINGS = 192
"""Collected rankings that the model without your choices is trained on."""
STEPS, BATCH = 24, 5
"""The training on your choices, however many they are."""


def learn(run_folder: Path, folder: Path, judged: Sequence[Judgment], train: Callable[..., Any]) -> dict[str, Any]:
    """Train with and without the choices, measure, write `model/` and `summary.json`; returns the summary.

    A tie decides nothing, so it is counted and not trained on.
    """
    began = time.monotonic()
    choices, rankings = decided(judged), _rankings(run_folder)
    write_jsonl(folder / "choices.jsonl", choices)
    settings = _settings(run_folder)
    numbers = itertools.count(1)

    def trained(name: str, what: str, start: Path, rows: Sequence[Any], **fields: Any) -> Path:
        if os.environ.get(QUIET) != "1":
            print(f"training {next(numbers)} of {FOLDS + 2}: {what}", file=sys.stderr, flush=True)
        data = folder / name / "rows.jsonl"
        write_jsonl(data, rows)
        done = train("dpo", model=start, data=data, out=folder / name, **{**settings, **fields})
        return Path(done.model("dpo"))

    sft = run_folder / "sft" / "model"
    without = trained("without", "collected rankings, without your choices", sft, rankings, epochs=1.0)
    models = {"sft": sft, "without": without}
    short = {"steps": STEPS, "batch": BATCH}
    for fold in range(FOLDS):
        outside = [c for i, c in enumerate(choices) if i % FOLDS != fold]
        what = f"your choices but for fold {fold + 1} of {FOLDS}"
        models[f"fold-{fold}"] = trained(f"fold-{fold}", what, without, outside, **short)
    everything = trained("all", "all your choices", without, choices, **short)
    with whole_folder(folder / "model") as target:
        shutil.copytree(everything, target, dirs_exist_ok=True, copy_function=shutil.copy)
    summary = measure(folder / "choices.jsonl", models)
    summary |= {
        "judged": len(judged),
        "folds": FOLDS,
        "rankings": len(rankings),
        "repeats": round(STEPS * BATCH / len(choices), 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    write_json(folder / "summary.json", summary)
    return summary


def decided(judged: Sequence[Judgment]) -> list[Judgment]:
    """The choices that prefer one answer."""
    return [j for j in judged if len(j.tiers) == 2]


def _rankings(run_folder: Path) -> list[Any]:
    """A keyed subset of the collected rankings that decide anything."""
    rows = [row for _, row in read_jsonl(run_folder / "collect" / "rankings.jsonl")]
    rows = [row for row in rows if len(row["tiers"]) > 1]
    order = streams.draw("you", "rankings").permutation(len(rows))
    return [rows[i] for i in order[:RANKINGS]]


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
        "moved": widened(interval(moved, "you")),
        "agree_sft": _share(margin["sft"]),
        "agree_before": _share(margin["without"]),
        "agree_after": _share(unseen),
        "pairs": [
            {"sft": s, "without": w, "with": u}
            for s, w, u in zip(margin["sft"], margin["without"], unseen, strict=True)
        ],
    }


def widened(plain: dict[str, float]) -> dict[str, float]:
    """A bootstrap interval of cross-fitted differences, with the variance that resampling pairs can't see."""
    mean = plain["mean"]
    return {**plain, "lo": mean - math.sqrt(2) * (mean - plain["lo"]), "hi": mean + math.sqrt(2) * (plain["hi"] - mean)}


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
        f"{summary['judged']} judged, {n} of them decided; each was learned from about {summary['repeats']:.0f} times, "
        f"after {summary['rankings']} collected rankings.",
        f"Your choices moved the model by {moved['mean']:+.2f} nats a pair [{moved['lo']:+.2f}, {moved['hi']:+.2f}] "
        "towards the answer you prefer,",
        "on choices it had not seen and compared with the model without your choices (95 %, over pairs).",
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
