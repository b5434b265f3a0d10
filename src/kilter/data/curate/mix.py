"""A task mix: shares by category, as InstructGPT states them for its prompts; prompts without a category are classed.

Classing learns from the rows that have a category (naive Bayes over words and word pairs) and its accuracy on rows it
did not see stands in the report; without enough of them it goes by first words, which knows fewer cases. A classed
row carries a note, so that a guess is never taken for what somebody said.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kilter.data.curate.items import Item, Kept, Outcome, Rows, dropped, key_of, noted
from kilter.data.curate.texts import tokens, whole
from kilter.data.records import Demonstration, Judgment, Prompt
from kilter.errors import DataError

STEP = "mix"

SHARES: dict[str, dict[str, float]] = {
    "instructgpt": {
        "generation": 45.6,
        "open_qa": 12.4,
        "brainstorming": 11.2,
        "chat": 8.4,
        "rewrite": 6.6,
        "summarization": 4.2,
        "classification": 3.5,
        "other": 3.5,
        "closed_qa": 2.6,
        "extract": 1.9,
    },
}
"""Mixes by name. `instructgpt`: use cases of API prompts, in per cent (Ouyang et al. 2022, table 1)."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A mix of tasks."""

    shares: str | dict[str, float] = "instructgpt"
    """Wanted shares by category, in any unit, or the name of a mix that ships."""
    size: int = 0
    """Rows in all; 0 for as many as the scarcest category allows. A category that falls short is reported."""
    classify: Literal["none", "rules", "learn"] = "none"
    """Whether rows without a category get one: by first words, or as learnt from the rows that have one."""
    names: dict[str, str] = field(default_factory=dict)
    """Other names of categories, as theirs: ours; spaces and hyphens count as underscores."""
    seed: int = 1
    """Seed of the choice within a category."""

    def __post_init__(self) -> None:
        wanted = wanted_shares(self)
        if not wanted or min(wanted.values()) < 0 or sum(wanted.values()) <= 0:
            raise ValueError("shares must hold at least one category, none below 0 and one above 0")


def wanted_shares(config: Config) -> dict[str, float]:
    if isinstance(config.shares, str):
        if config.shares not in SHARES:
            raise ValueError(f"shares {config.shares!r} is no mix that ships; known: {', '.join(SHARES)}")
        return SHARES[config.shares]
    return {plain(c): float(s) for c, s in config.shares.items()}


def plain(name: str) -> str:
    """A category as it is compared."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def curate(rows: Rows, config: Config, report: dict[str, Any]) -> Iterator[Outcome]:
    """Keep of each category as many rows as the mix wants."""
    found = [row for part in rows.map(functools.partial(_rows, config=config)) for row in part]
    given = [category for category, _, _ in found]
    guess = _guesses(found, config, report)
    category_N = [g or guess.get(n, "") for n, g in enumerate(given)]
    limits = quotas(Counter(category_N), wanted_shares(config), config.size, report)
    by_category: dict[str, list[int]] = {}
    for number in sorted(range(len(found)), key=lambda n: found[n][1]):
        by_category.setdefault(category_N[number], []).append(number)
    kept = {n for c, members in by_category.items() for n in members[: limits.get(c, 0)]}
    for number, item in enumerate(rows):
        category = category_N[number]
        if number in kept:
            classed = (noted(item, STEP, "classed", category=category),) if number in guess else ()
            yield Kept(_with_category(item, category) if classed else item, classed)
        elif not category:
            yield dropped(item, STEP, "no-category")
        elif not limits.get(category):
            yield dropped(item, STEP, "not-in-mix", category=category)
        else:
            yield dropped(item, STEP, "over-share", category=category, limit=limits[category])


def quotas(have: Mapping[str, int], wanted: Mapping[str, float], size: int, report: dict[str, Any]) -> dict[str, int]:
    """Rows to take of each category: exact shares, rounded down; categories without a row are left out and told."""
    absent = sorted(c for c, s in wanted.items() if s > 0 and not have.get(c))
    present = {c: s for c, s in wanted.items() if s > 0 and have.get(c)}
    total = sum(present.values())
    most = min((have[c] * total / s for c, s in present.items()), default=0.0)
    rows = size or most
    limits = {c: min(have[c], int(rows * s / total + 1e-9)) for c, s in present.items()}
    taken = sum(limits.values())
    report |= {
        "absent": absent,
        "short": {c: [limits[c], n] for c, s in present.items() if have[c] < (n := int(rows * s / total + 1e-9))},
        "had": dict(sorted(have.items(), key=lambda kv: -kv[1])),
        "shares": {c: round(n / taken, 4) for c, n in limits.items()} if taken else {},
        "wanted": {c: round(s / total, 4) for c, s in present.items()},
    }  # fmt: skip
    return limits


def _with_category(item: Item, category: str) -> Item:
    record = item.record
    if isinstance(record, Prompt):
        return item.changed(dataclasses.replace(record, category=category))
    assert isinstance(record, (Demonstration, Judgment))
    return item.changed(dataclasses.replace(record, prompt=dataclasses.replace(record.prompt, category=category)))


def _rows(items: list[Item], config: Config) -> list[tuple[str, int, str]]:
    names = {plain(a): plain(b) for a, b in config.names.items()}
    out = []
    for item in items:
        if item.kind == "text":
            raise DataError(f"{item.where}: a mix goes by the categories of prompts, but this row is a text")
        category = plain(item.prompt.category)
        text = "" if category or config.classify == "none" else whole(item, "prompt")
        if config.classify == "learn" and category:
            text = whole(item, "prompt")
        out.append((names.get(category, category), key_of(config.seed, item.id), text))
    return out


def _guesses(found: Sequence[tuple[str, int, str]], config: Config, report: dict[str, Any]) -> dict[int, str]:
    """Categories of rows that state none, and how good such guesses are."""
    open_ = [n for n, (category, _, _) in enumerate(found) if not category]
    if not open_ or config.classify == "none":
        return {}
    if config.classify == "rules":
        return {n: c for n in open_ if (c := by_rules(found[n][2]))}
    known = [(text, category) for category, _, text in sorted(found, key=lambda f: f[1]) if category]
    if len(known) < LEARN:
        report["classing"] = f"only {len(known)} rows have a category, below {LEARN}: by first words instead"
        return {n: c for n in open_ if (c := by_rules(found[n][2]))}
    report["classing"] = {"learnt_from": len(known), "accuracy": round(held_out(known), 4)}
    classes = Classes(known)
    return dict(zip(open_, classes([found[n][2] for n in open_]), strict=True))


LEARN = 50
"""Rows with a category from which classing is learnt."""
_TELLING = {
    "summarization": r"""\b(summari[sz]e|summary|tl;?dr|zusammenfass|fasse\b.*\bzusammen|resum[ei])
        |总结|概括|摘要|要約""",
    "rewrite": r"""\b(rewrite|rephrase|paraphrase|translate|correct\ the|fix\ the\ grammar|shorten|edit
        |umformulier|übersetze)
        |改写|翻译|润色|書き換え|翻訳""",
    "classification": r"""\b(classify|categori[sz]e|label\ (the|each|this)|positive\ or\ negative|which\ category
        |klassifiziere)
        |分类|分類""",
    "extract": r"""\b(extract|list\ all\ (the\ )?(names|dates|places)|find\ all|pull\ out|extrahiere)|提取|抽出""",
    "brainstorming": r"""\b(brainstorm|ideas?\ for|give\ me\ (\d+|some|a\ few|several)\ |list\ (\d+|some|ways|ideas)
        |suggest|ideen)|想法|点子|アイデア""",
    "closed_qa": r"""\b(based\ on\ the\ (text|passage|context)|according\ to\ the
        |given\ the\ (following\ )?(passage|context|text))|根据(上文|以下)|次の文章""",
    "generation": r"""\b(write|compose|draft|create|generate|tell\ me\ a\ story|schreibe|verfasse|écris|escribe)\b
        |写一|書いて""",
    "open_qa": r"""^(what|who|when|where|why|how|which|is|are|does|do|did|can|was|were|wer|wann|wo|warum
        |wie|qui|que|quel)\b
        |[?？]\s*$|什么|为什么|何""",
    "chat": r"""^(hi|hello|hey|good\ (morning|evening)|hallo|bonjour|hola|你好|こんにちは)""",
}
_RULES = {category: re.compile(pattern, re.IGNORECASE | re.VERBOSE) for category, pattern in _TELLING.items()}
"""Telling words by category, in the order in which they are tried."""


def by_rules(text: str) -> str:
    """A category by a prompt's telling words, empty where none applies."""
    head = text[:600]
    return next((category for category, pattern in _RULES.items() if pattern.search(head)), "")


class Classes:
    """Multinomial naive Bayes over hashed words and pairs of neighbours, with Laplace's one half."""

    SIZE = 1 << 16

    def __init__(self, known: Sequence[tuple[str, str]]) -> None:
        self.names = sorted({category for _, category in known})
        place = {name: i for i, name in enumerate(self.names)}
        count = np.full((len(self.names), self.SIZE), 0.5)
        prior = np.zeros(len(self.names))
        for text, category in known:
            np.add.at(count[place[category]], self.features(text), 1.0)
            prior[place[category]] += 1
        self.log_CF = np.log(count / count.sum(axis=1, keepdims=True))
        self.prior_C = np.log(prior / prior.sum())

    def features(self, text: str) -> npt.NDArray[np.int64]:
        """Places of the words and the pairs; each counts once a text."""
        found = ["^", *tokens(text)[:300]]
        grams = {*found, *(f"{a} {b}" for a, b in pairwise(found))}
        return np.array(sorted(zlib.crc32(g.encode("utf-8", "surrogatepass")) % self.SIZE for g in grams), np.int64)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        return [self.names[int(np.argmax(self.prior_C + self.log_CF[:, self.features(t)].sum(axis=1)))] for t in texts]


def held_out(known: Sequence[tuple[str, str]], folds: int = 5) -> float:
    """The share of rows that are classed as they say when they were not learnt from."""
    right = 0
    for fold in range(folds):
        mine = known[fold::folds]
        rest = [k for n, k in enumerate(known) if n % folds != fold]
        right += sum(a == b for a, (_, b) in zip(Classes(rest)([t for t, _ in mine]), mine, strict=True))
    return right / len(known)
