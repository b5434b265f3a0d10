"""How new a text is beside those that are there: ROUGE-L between all of them, exactly and fast.

ROUGE-L's F1 of two texts of m and n words is 2·LCS / (m + n), which is the normalised Indel similarity of two strings
that spell a word as one character. Words are runs of letters and digits in lower case, without stemming; a character of
a script that writes no spaces is a word by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

from kilter.data.curate.novelty import Alphabet

_WIDE = "\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_WIDE}]|[^\\W_{_WIDE}]+")
_COUNTED = re.compile(f"[{_WIDE}]|[^\\s{_WIDE}]+")


def words_of(text: str) -> list[str]:
    """The words that are compared."""
    return _WORD.findall(text.lower())


def length_in_words(text: str) -> int:
    """How many words a text has: what stands between spaces, and every character of a script without spaces."""
    return len(_COUNTED.findall(text))


@dataclass
class Pool:
    """Texts that new ones are compared with; it grows one by one."""

    names: list[str] = field(default_factory=list)
    """What each text is called."""
    spelled: list[str] = field(default_factory=list)
    alphabet: Alphabet = field(default_factory=Alphabet)

    def __len__(self) -> int:
        return len(self.names)

    def _spell(self, text: str) -> str:
        return self.alphabet.spell(words_of(text), learn=True)

    def add(self, name: str, text: str) -> None:
        """One more text."""
        self.names.append(name)
        self.spelled.append(self._spell(text))

    def scores(self, text: str) -> np.ndarray:
        """ROUGE-L F1 of a text with each that is there, 0 where either has no words."""
        mine = self._spell(text)
        if not mine or not self.spelled:
            return np.zeros(len(self.spelled))
        return np.asarray(process.cdist([mine], self.spelled, scorer=Indel.normalized_similarity, dtype=np.float64)[0])

    def nearest(self, scores: np.ndarray, count: int) -> dict[str, float]:
        """The names of the nearest texts with their scores, nearest first; of equal ones the earlier first."""
        best = np.argsort(-scores, kind="stable")[:count]
        return {self.names[i]: round(float(scores[i]), 6) for i in best}
