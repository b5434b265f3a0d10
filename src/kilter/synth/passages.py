"""Passages of a reference text and which of them a claim is about, by BM25 (Robertson & Zaragoza 2009).

The sum goes over a query's words w, with k = 1.2 and b = 0.75:

    score(q, d) = Σ_w idf(w) · f(w, d) (k + 1) / (f(w, d) + k (1 - b + b |d| / mean |d|))
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kilter.data import rows, streams
from kilter.data.records import content_id
from kilter.errors import UserError

WORD = re.compile(r"\w+")
K, B = 1.2, 0.75


class Passage(NamedTuple):
    id: str
    text: str


def load(path: str) -> list[Passage]:
    """A JSONL of `text` rows, or a plain text whose paragraphs stand apart by blank lines."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"the reference text {path!r} is no file")
    if file.suffix == ".jsonl":
        found = streams.read_rows(file, rows.text)
        streams.judge_rejects(file, len(found.good) + len(found.rejects), found.rejects, 0.0)
        texts = [text for _, text in found.good]
    else:
        whole = file.read_text(encoding="utf-8", errors="strict")
        texts = [p.strip() for p in re.split(r"\n\s*\n", whole) if p.strip()]
    if not texts:
        raise UserError(f"the reference text {path!r} is empty")
    return [Passage(content_id(text), text) for text in texts]


class Index:
    """Passages, ready to be looked up by words."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = list(passages)
        self._words = [Counter(words(p.text)) for p in self.passages]
        self._lengths = [sum(w.values()) for w in self._words]
        self._mean = sum(self._lengths) / len(self._lengths)
        self._holding: dict[str, list[int]] = {}
        for i, counts in enumerate(self._words):
            for word in counts:
                self._holding.setdefault(word, []).append(i)

    def nearest(self, text: str, count: int) -> list[Passage]:
        """The passages that score best, best first; of equal ones the earlier; none that shares no word."""
        scores: dict[int, float] = {}
        for word in dict.fromkeys(words(text)):
            holding = self._holding.get(word, ())
            idf = math.log(1 + (len(self.passages) - len(holding) + 0.5) / (len(holding) + 0.5))
            for i in holding:
                often, long = self._words[i][word], self._lengths[i] / self._mean
                scores[i] = scores.get(i, 0.0) + idf * often * (K + 1) / (often + K * (1 - B + B * long))
        best = sorted(scores, key=lambda i: (-scores[i], i))[:count]
        return [self.passages[i] for i in best]


def words(text: str) -> list[str]:
    """Lower-case words."""
    return WORD.findall(text.lower())
