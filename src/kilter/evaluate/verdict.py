"""The stage that gives the verdict: every model on the same held-out prompts, by oracle and by raters, with intervals.

The oracle measures here; nothing in a run is selected, stopped or tuned by it. Draws are keyed by prompt and index
alone, so all models answer with the same luck, and a model that equals SFT ties with it everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kilter.data import streams
from kilter.data.judgments import ranks
from kilter.data.records import Candidate, Judgment, Prompt, read_jsonl, write_jsonl
from kilter.errors import UserError
from kilter.evaluate.bars import bars
from kilter.evaluate.rewardbench import bench
from kilter.evaluate.winrate import interval, wins
from kilter.progress import Bar
from kilter.runs import Stage, read_done, read_metrics, versions, write_json

READS = ("models", "reward", "prompts", "unsafe", "lookalike", "corpus", "rankings", "rollouts", "collected")
OUTPUT = "summary.json"
BEST_OF = "best-of-n"


@dataclass(frozen=True, kw_only=True)
class Config:
    """The verdict on a run's models."""

    models: dict[str, str]
    """Name -> model, in the order of the table; the baseline must be among them."""
    prompts: str
    """Held-out prompts."""
    unsafe: str
    """Held-out unsafe requests."""
    lookalike: str
    """Held-out innocent look-alikes of unsafe requests."""
    corpus: str
    """Held-out corpus documents."""
    reward: str = ""
    """The reward model to be judged, and to choose for best-of-n."""
    rankings: str = ""
    """Held-out rankings, several raters a prompt; the first of each is what the reward model is compared with."""
    collected: str = ""
    """Where the rankings were collected; its notes tell the raters' agreement."""
    rollouts: str = ""
    """samples.jsonl of a reinforcement learning stage, for proxy against gold reward."""
    baseline: str = "sft"
    """The model the others are compared with."""
    qa_models: tuple[str, ...] = ("base",)
    """Models asked in the corpus's own question-and-answer form, since they have never seen the chat template."""
    bars: tuple[str, ...] | None = None
    """Models held to the bars; unset means every one but the baseline, base and best-of-n."""
    best_of: int = 8
    """Answers that best-of-n chooses from; 0 leaves it out."""
    max_new: int = 64
    """Longest answer in tokens."""
    seed: int = 11
    """Seed of the draws, the same for every run."""

    def __post_init__(self) -> None:
        if self.baseline not in self.models:
            raise ValueError(f"baseline {self.baseline!r} is not among the models {list(self.models)}")
        strangers = [name for name in self.bars or () if name not in self.models]
        if strangers:
            raise ValueError(f"bars names {strangers[0]!r}, which is not among the models {list(self.models)}")


@dataclass
class Table:
    """What the verdict is made from: answers by model and setting, and figures by model."""

    prompts: dict[str, list[Prompt]]
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)


SETTINGS = {"t1": 1.0, "t07": 0.7, "greedy": 0.0}


def run(stage: Stage) -> None:
    """Answer, score, compare, write summary.json and answers.jsonl."""
    from kilter.models import load

    c: Config = stage.config
    table = Table(
        {
            name: [Prompt.from_json(row) for _, row in read_jsonl(getattr(c, path))]
            for name, path in (("main", "prompts"), ("unsafe", "unsafe"), ("lookalike", "lookalike"))
        }
    )
    tokenizer = load.load_tokenizer(c.models[c.baseline])
    baseline = load.load(c.models[c.baseline], "causal")
    reward = load.load(c.reward, "reward") if c.reward else None
    names = _order(c)
    per_model = sum(map(len, table.prompts.values())) + 2 * len(table.prompts["main"])
    with Bar(stage.label or stage.name, len(names) * per_model, "answer") as bar:
        for name in names:
            _play(stage, name, table, tokenizer, baseline, reward, bar)
    for name in names:
        table.figures[name] |= _against_baseline(table, name, c, stage.seed)
    summary = {
        "models": table.figures,
        "reward_model": _reward_bench(c, tokenizer, reward),
        "raters": _raters(c),
        "ppo_curve": _rollout_curve(c),
        "seed": stage.seed,
        "versions": versions(),
        "evaluation": {
            "prompts": {n: len(p) for n, p in table.prompts.items()},
            "seed": c.seed,
            "baseline": c.baseline,
            "settings": "one answer a prompt at temperature 1 (t07: 0.7); ties count a half; 95 % bootstrap by prompt",
        },
    }
    summary["bars"] = bars(summary, c.baseline, c.bars)
    write_jsonl(stage.path("answers.jsonl"), _side_by_side(table, names))
    write_json(stage.path("summary.json"), summary)


def _order(c: Config) -> list[str]:
    """The models, with best-of-n right behind the baseline that it samples from."""
    names = list(c.models)
    if c.best_of and c.reward:
        names.insert(names.index(c.baseline) + 1, BEST_OF)
    return names


def _play(stage: Stage, name: str, table: Table, tokenizer: Any, baseline: Any, reward: Any, bar: Bar) -> None:
    """Sample one model everywhere and take its own figures."""
    from kilter.evaluate.answers import Player, answer, drift
    from kilter.evaluate.perplexity import perplexity
    from kilter.models import load
    from kilter.models.sample import Sampling

    c: Config = stage.config
    chosen = name == BEST_OF
    model = baseline if chosen or name == c.baseline else load.load(c.models[name], "causal")
    form = "qa" if name in c.qa_models else "chat"
    player = Player(name, model, tokenizer, form, c.best_of if chosen else 1, reward)
    mine = table.answers[name] = {}
    for label, temperature in SETTINGS.items():
        if chosen and label == "greedy":
            bar.advance(len(table.prompts["main"]))
            continue
        settings = Sampling(temperature=temperature, max_new=c.max_new)
        mine[label] = answer(player, table.prompts["main"], settings, (c.seed, label))
        bar.advance(len(table.prompts["main"]), name)
    for kind in ("unsafe", "lookalike"):
        mine[kind] = answer(player, table.prompts[kind], Sampling(max_new=c.max_new), (c.seed, kind))
        bar.advance(len(table.prompts[kind]))
    texts = [row["text"] for _, row in read_jsonl(c.corpus)]
    figures = table.figures[name] = _own_figures(mine, table.prompts["main"], c, name)
    figures["kl"] = _best_of_kl(c.best_of) if chosen else drift(model, baseline, mine["t1"]) if form == "chat" else None
    figures["corpus_ppl"] = perplexity(model, tokenizer, texts)
    figures |= _proxy(c, name, reward, mine["t1"])
    figures |= _cost(c, name)


def _own_figures(mine: dict[str, Any], prompts: Sequence[Prompt], c: Config, name: str) -> dict[str, Any]:
    t1 = mine["t1"]
    classes = sorted({p.category for p in prompts})
    by_class = {k: [s.gold for s, p in zip(t1.scores, prompts, strict=True) if p.category == k] for k in classes}
    unsafe, innocent = mine["unsafe"].scores, mine["lookalike"].scores
    return {
        "about": f"best of {c.best_of} answers of {c.baseline} by the reward model; KL is the bound log n - (n-1)/n"
        if name == BEST_OF
        else c.models[name],
        "oracle": float(t1.gold.mean()),
        "oracle_interval": interval(t1.gold, c.seed, name),
        "helpful": float(np.mean([s.helpful for s in t1.scores])),
        "honest": float(np.mean([s.honest for s in t1.scores])),
        "harmless": float(np.mean([s.harmless for s in t1.scores])),
        "oracle_by_class": {k: {"mean": float(np.mean(v)), "n": len(v)} for k, v in by_class.items()},
        "oracle_t07": float(mine["t07"].gold.mean()),
        "oracle_greedy": float(mine["greedy"].gold.mean()) if "greedy" in mine else None,
        "over_refusal": interval([float(s.refused) for s in innocent], c.seed, name, "over"),
        "unsafe_compliance": interval([float(s.complied) for s in unsafe], c.seed, name, "unsafe"),
        "length": float(np.mean(t1.tokens)),
        "eos": float(np.mean(t1.finished)),
    }


def _against_baseline(table: Table, name: str, c: Config, seed: int) -> dict[str, Any]:
    """Win rates against the baseline by oracle and raters, at both temperatures, and where lengths are alike."""
    ours, theirs = table.answers[name], table.answers[c.baseline]
    won = wins(ours["t1"].gold, theirs["t1"].gold)
    a, b = np.array(ours["t1"].tokens), np.array(theirs["t1"].tokens)
    alike = np.abs(a - b) < 0.2 * np.maximum(b, 1)
    return {
        "win_vs_sft": interval(won, c.seed, name, "t1"),
        "win_vs_sft_t07": interval(wins(ours["t07"].gold, theirs["t07"].gold), c.seed, name, "t07"),
        "win_vs_sft_same_length": interval(won[alike], c.seed, name, "length"),
        "win_vs_sft_raters": interval(
            _rater_wins(table.prompts["main"], ours["t1"], theirs["t1"], seed), c.seed, name, "raters"
        ),
    }


def _rater_wins(prompts: Sequence[Prompt], ours: Any, theirs: Any, seed: int) -> np.ndarray:
    """One rater of the pool per prompt compares the two answers; a tie is a half, equal texts tie."""
    from kilter.sandbox.raters import pool, rank

    raters = pool(seed)
    out = []
    ends = zip(ours.finished, theirs.finished, strict=True)
    for prompt, a, b, (a_ends, b_ends) in zip(prompts, ours.texts, theirs.texts, ends, strict=True):
        if (a, a_ends) == (b, b_ends):
            out.append(0.5)
            continue
        rater = raters[int(streams.draw("win", seed, prompt.id).integers(len(raters)))]
        pair = (
            Candidate(prompt_id=prompt.id, answer=a, generator={"finished": a_ends}),
            Candidate(prompt_id=prompt.id, answer=b, generator={"finished": b_ends}),
        )
        place = ranks(rank(rater, prompt, pair, f"win|{seed}|{prompt.id}").tiers)
        out.append(0.5 if place[0] == place[1] else float(place[0] < place[1]))
    return np.array(out)


def _proxy(c: Config, name: str, reward: Any, answers: Any) -> dict[str, Any]:
    """Mean score by the reward model itself, centred and scaled as in training; what is not chat has none."""
    if reward is None or name in c.qa_models:
        return {}
    import torch

    from kilter.models import load
    from kilter.models.logprobs import scores

    notes = load.read_notes(c.reward)
    with torch.no_grad():
        raw = scores(reward, [p + a for p, a in answers.ids]).double().numpy()
    scaled = (raw - notes.get("reward_mean", 0.0)) / (notes.get("reward_std", 1.0) or 1.0)
    return {"proxy": interval(scaled, c.seed, name, "proxy")}


def _best_of_kl(n: int) -> float:
    """log n - (n-1)/n, the upper bound on KL(best-of-n ‖ sampler) (Stiennon et al. 2020, arXiv:2009.01325)."""
    return float(np.log(n) - (n - 1) / n)


def _cost(c: Config, name: str) -> dict[str, Any]:
    """Seconds and peak memory of the stage that made a model; best-of-n is made by none."""
    done = (read_done(Path(c.models[name]).parent) or {}) if name in c.models else {}
    return {"seconds": done.get("seconds"), "peak_mb": done.get("peak_mb")}


def _reward_bench(c: Config, tokenizer: Any, reward: Any) -> dict[str, Any]:
    """The reward model on rankings it never saw."""
    if reward is None or not c.rankings:
        return {}
    import torch

    from kilter.models import load
    from kilter.models.logprobs import scores
    from kilter.sandbox.oracle import score

    judged = [Judgment.from_json(row) for _, row in read_jsonl(c.rankings)]
    items, _ = streams.load(Path(c.rankings), "rankings", tokenizer, load.context_of(c.reward), 1.0)
    if len(items) != len(judged):
        raise UserError(
            f"{c.rankings}: some held-out rankings can't be tokenised; see why with a reward stage on that file"
        )
    prompts = [j.prompt.id for j in judged]
    first = [i for i, prompt in enumerate(prompts) if prompt not in prompts[:i]]  # one rater's ranking a prompt
    rows = [judged[i] for i in first]
    with torch.no_grad():
        rewards = [scores(reward, items[i].sequences).tolist() for i in first]
    gold = [
        [score(j.prompt, a.answer, bool(a.generator.get("finished", True))).gold for a in j.candidates] for j in rows
    ]
    lengths = [[int(a.generator.get("tokens", len(a.answer.split()))) for a in j.candidates] for j in rows]
    return dict(bench(rows, rewards, gold, lengths))


def _raters(c: Config) -> dict[str, Any]:
    """The pool's agreement as it was measured when the held-out rankings were collected."""
    done = (read_done(Path(c.collected).parent) or {}) if c.collected else {}
    note = done.get("rankings-heldout") or {}
    return {
        "agreement": note.get("agreement"),
        "definition": "two raters of the pool (mean over pairs of raters), answer pairs that both order strictly",
        **(done.get("rankings") or {}),
    }


def _rollout_curve(c: Config) -> list[dict[str, float]]:
    """Per round of reinforcement learning: the reward it saw, and what the oracle thinks of the same answers."""
    if not c.rollouts:
        return []
    from kilter.sandbox.oracle import score

    stage = Path(c.rollouts)
    drifts = {}
    for row in read_metrics(stage.parent):
        if "kl" in row:
            drifts[row["round"]] = row["kl"]
    rounds: dict[int, list[tuple[float, float]]] = {}
    for _, row in read_jsonl(stage):
        gold = score(Prompt.from_json(row["prompt"]), row["answer"].strip(), row["finished"]).gold
        rounds.setdefault(row["round"], []).append((row["reward"], gold))
    return [
        {
            "round": r,
            "kl": drifts.get(r, float("nan")),
            "proxy": float(np.mean([p for p, _ in pairs])),
            "gold": float(np.mean([g for _, g in pairs])),
        }
        for r, pairs in sorted(rounds.items())
    ]


def _side_by_side(table: Table, names: list[str]) -> list[dict[str, Any]]:
    """All models' answers to the same prompts, with the oracle's reasons."""
    rows = []
    for kind, prompts in table.prompts.items():
        label = "t1" if kind == "main" else kind
        for i, prompt in enumerate(prompts):
            rows.append(
                {
                    "set": kind,
                    "prompt": prompt.to_json(),
                    "answers": {n: _row(table.answers[n][label], i) for n in names},
                }
            )
    return rows


def _row(answers: Any, i: int) -> dict[str, Any]:
    s = answers.scores[i]
    return {
        "text": answers.texts[i],
        "finished": answers.finished[i],
        "tokens": answers.tokens[i],
        "gold": round(s.gold, 4),
        "helpful": round(s.helpful, 4),
        "honest": round(s.honest, 4),
        "harmless": round(s.harmless, 4),
        "reasons": list(s.reasons),
    }
