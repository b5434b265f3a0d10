"""The stage that collects rankings: answers sampled from a model, ranked with ties by simulated raters.

Prompts are taken in parts; each finished part is a file, so a kill costs at most one part and repeats no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from kilter.data import judgments, streams
from kilter.data.records import Candidate, Judgment, read_jsonl, write_jsonl
from kilter.errors import DataError, UserError
from kilter.progress import Bar
from kilter.runs import Stage, hash_path

READS = ("model", "data", "heldout")
OUTPUT = "rankings.jsonl"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Collecting rankings."""

    model: str
    """The model whose answers are ranked."""
    data: str
    """Prompts to be answered."""
    heldout: str = ""
    """Further prompts whose rankings are kept from training, each ranked by several raters; empty for none."""
    heldout_raters: int = 4
    """Raters per held-out prompt: the more, the surer the agreement of two of them is known."""
    answers_min: int = 4
    """Fewest answers per prompt."""
    answers_max: int = 9
    """Most answers per prompt; the number is drawn evenly."""
    temperature: float = 1.0
    """Temperature of sampling."""
    max_new: int = 64
    """Longest answer in tokens."""
    part: int = 250
    """Prompts in one part."""
    max_rejects: float = 0.01
    """Share of unusable prompts above which the stage stops."""
    device: str = "cpu"
    """Where to sample."""

    def __post_init__(self) -> None:
        if self.answers_min < 2:
            raise ValueError(f"answers_min is {self.answers_min}, but a ranking needs at least 2 answers")
        if self.heldout_raters < 2:
            raise ValueError(f"heldout_raters is {self.heldout_raters}, but agreement needs at least 2")
        if self.answers_max < self.answers_min:
            raise ValueError(f"answers_max {self.answers_max} is below answers_min {self.answers_min}")


def run(stage: Stage) -> None:
    """Sample, rank, write `rankings.jsonl` (and `rankings-heldout.jsonl` with the raters' agreement)."""
    from kilter.models import load
    from kilter.sandbox.raters import pool

    c: Config = stage.config
    tokenizer = load.load_tokenizer(c.model)
    model = load.load(c.model, "causal", device=c.device)
    context = load.context_of(c.model) - c.max_new
    raters = pool(stage.seed)
    sets = {"rankings": (c.data, 1), "rankings-heldout": (c.heldout, c.heldout_raters)}
    items = {
        name: streams.load(Path(path), "prompts", tokenizer, context, c.max_rejects)[0]
        for name, (path, _) in sets.items()
        if path
    }
    revision = hash_path(Path(c.model)) if Path(c.model).exists() else c.model
    with Bar(stage.label or stage.name, sum(map(len, items.values())), "prompt") as bar:
        for name, prompts in items.items():
            rows = []
            for begin in range(0, len(prompts), c.part):
                part = stage.path("checkpoints") / f"{name}-{begin:06d}.jsonl"
                if not part.is_file():
                    some = prompts[begin : begin + c.part]
                    write_jsonl(
                        part, _rank(_sample(stage, model, tokenizer, some, revision), raters, stage.seed, sets[name][1])
                    )
                rows += [row for _, row in read_jsonl(part)]
                bar.advance(len(prompts[begin : begin + c.part]))
            write_jsonl(stage.path(f"{name}.jsonl"), rows)
            _note(stage, name, [Judgment.from_json(r) for r in rows], sets[name][1])


def _sample(
    stage: Stage, model: Any, tokenizer: Any, items: Sequence[streams.PromptItem], revision: str
) -> list[tuple[streams.PromptItem, list[Candidate]]]:
    """K distinct-looking answers per prompt; an answer drawn twice is shown once."""
    from kilter.models.sample import Sampling, sample, text_of

    c: Config = stage.config
    settings = Sampling(temperature=c.temperature, max_new=c.max_new)
    counts = [
        int(streams.draw(stage.seed, stage.name, i.prompt.id, "K").integers(c.answers_min, c.answers_max + 1))
        for i in items
    ]
    flat = [(item, k) for item, count in zip(items, counts, strict=True) for k in range(count)]
    keys = [(stage.seed, stage.name, item.prompt.id, k) for item, k in flat]
    drawn = sample(model, [item.ids for item, _ in flat], keys, settings, tokenizer.eos_token_id)
    found: dict[str, list[Candidate]] = {}
    for (item, k), answer in zip(flat, drawn, strict=True):
        text = text_of(tokenizer, answer, tokenizer.eos_token_id)
        mine = found.setdefault(item.where, [])
        if text.strip() and all(text != other.answer for other in mine):
            generator = {
                "model": c.model.split("/")[-2] if "/" in c.model else c.model,
                "revision": revision,
                "draw": k,
                "temperature": c.temperature,
                "max_new": c.max_new,
                "seed": stage.seed,
                "tokens": len(answer.ids),
                "logprob": round(sum(answer.logps), 5),
                "finished": answer.finished,
            }
            mine.append(Candidate(prompt_id=item.prompt.id, answer=text, generator=generator))
    return [(item, found[item.where]) for item in items if len(found.get(item.where, [])) >= 2]


def _rank(
    sampled: list[tuple[streams.PromptItem, list[Candidate]]], raters: Sequence[Any], seed: int, each: int
) -> list[Judgment]:
    """Every prompt ranked by `each` raters of the pool, drawn by the prompt's id."""
    from kilter.sandbox.raters import rank

    rows = []
    for item, candidates in sampled:
        if "sandbox" not in item.prompt.extra:
            raise DataError(
                f"{item.where}: simulated raters know the truth of sandbox prompts only, and this is none; "
                "rank its answers by people and give the rankings to the next stage"
            )
        chosen = streams.draw(seed, item.prompt.id, "raters").permutation(len(raters))[:each]
        if len(chosen) < each:
            raise UserError(f"{each} raters per prompt are wanted, but the pool has {len(raters)}")
        rows += [rank(raters[int(r)], item.prompt, candidates, f"{seed}|{item.prompt.id}") for r in chosen]
    return rows


def _note(stage: Stage, name: str, rows: list[Judgment], each: int) -> None:
    """Counts for the report: prompts, answers, decided pairs, and agreement where raters saw the same answers."""
    note: dict[str, Any] = {
        "judgments": len(rows),
        "answers": sum(len(j.candidates) for j in rows),
        "pairs": sum(len(judgments.pairs(j.tiers)) for j in rows),
        "all_tied": sum(len(j.tiers) == 1 for j in rows),
        "all_bad": sum(j.all_bad for j in rows),
    }
    if each > 1:
        by_place = [rows[i::each] for i in range(each)]
        found = [judgments.agreement(a, b) for a, b in combinations(by_place, 2)]
        note["agreement"] = sum(found) / len(found)
    stage.extra[name] = note
