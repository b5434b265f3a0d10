"""Diversity by clustering: texts as vectors, k-means, and at most so many rows of each cluster.

Which rows of a cluster stay is decided by a hash of their ids. The report names each cluster by the words that set it
apart, so that a reader sees what a set is about and what there was too much of.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kilter.data.curate.items import Item, Kept, Outcome, Rows, dropped, key_of
from kilter.data.curate.texts import Field, whole
from kilter.data.curate.vectors import embedded, tfidf
from kilter.errors import UserError

STEP = "diversity"
TOLD = 8
"""Words that name a cluster."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Diversity by clusters."""

    most: int
    """Rows of one cluster that stay."""
    clusters: int = 0
    """Clusters; 0 for the square root of half the rows."""
    field: Field = "prompt"
    """Which texts are clustered."""
    embedding: str = "tfidf"
    """`tfidf`, or a sentence-transformers model by name or folder."""
    seed: int = 1
    """Seed of k-means and of the choice."""

    def __post_init__(self) -> None:
        if self.most < 1 or self.clusters < 0:
            raise ValueError("most must be at least 1 and clusters not below 0")


def curate(rows: Rows, config: Config, report: dict[str, Any]) -> Iterator[Outcome]:
    """Keep at most `most` rows of each cluster."""
    found = [row for part in rows.map(functools.partial(_texts, config=config)) for row in part]
    label_N, clusters = _clustered([text for text, _ in found], config)
    out: set[int] = set()
    for label, cluster in enumerate(clusters):
        members = np.flatnonzero(label_N == label).tolist()
        cluster["rows"] = len(members)
        out.update(sorted(members, key=lambda n: found[n][1])[config.most :])
    report["clusters"] = sorted((c for c in clusters if c["rows"]), key=lambda c: -c["rows"])[:50]
    for number, item in enumerate(rows):
        if number not in out:
            yield Kept(item)
            continue
        cluster = clusters[int(label_N[number])]
        yield dropped(item, STEP, "full-cluster", cluster=cluster["words"], rows=cluster["rows"], most=config.most)


def _texts(items: list[Item], config: Config) -> list[tuple[str, int]]:
    return [(whole(i, config.field), key_of(config.seed, i.id)) for i in items]


def _clustered(texts: Sequence[str], config: Config) -> tuple[npt.NDArray[np.int64], list[dict[str, Any]]]:
    """Each row's cluster, and of each cluster its words."""
    if not texts:
        return np.zeros(0, np.int64), []
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise UserError("diversity needs scikit-learn, which is not installed; pip install 'kilter[curate]'") from error
    count = min(len(texts), config.clusters or max(1, round((len(texts) / 2) ** 0.5)))
    word_V, names = tfidf(texts)
    given = word_V if config.embedding == "tfidf" else embedded(texts, config.embedding)
    label_N = MiniBatchKMeans(count, random_state=config.seed, n_init=3, batch_size=2048).fit_predict(given)
    everywhere = np.asarray(word_V.mean(axis=0)).ravel()
    clusters = []
    for label in range(count):
        inside = word_V[np.flatnonzero(label_N == label)]
        apart = np.asarray(inside.mean(axis=0)).ravel() - everywhere if inside.shape[0] else everywhere * 0
        clusters.append({"words": [str(names[i]) for i in np.argsort(-apart)[:TOLD] if apart[i] > 0], "rows": 0})
    return np.asarray(label_N, np.int64), clusters
