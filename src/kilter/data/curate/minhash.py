"""MinHash: signatures of sets of shingles, the bands that find candidates, and the curve that says how surely.

Two sets of Jaccard similarity s share one minimum with probability s, a band of r of them with s^r, and at least one
of b bands with 1 - (1 - s^r)^b (Broder 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter
3). Minima are taken under h(x) = (a x + c mod 2^64) / 2^32 with odd a, of shingles hashed to 64 bits. Shape suffixes:
N rows, S shingles of all rows, P permutations, B bands.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
MIX = np.uint64(0x9E3779B97F4A7C15)


def probability(similarity: float, bands: int, rows: int) -> float:
    """That a pair of this Jaccard similarity becomes a candidate: 1 - (1 - s^r)^b."""
    return float(1.0 - (1.0 - similarity**rows) ** bands)


def choose_bands(threshold: float, permutations: int, recall: float) -> tuple[int, int]:
    """Bands and rows: the longest bands (fewest false candidates) that find a pair at the threshold surely enough."""
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if probability(threshold, bands, rows) >= recall:
            return bands, rows
    return permutations, 1


def scramble(x: U64) -> U64:
    """A bijection on 64 bits that spreads every input bit (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Words:
    """64 bits for every token; what has been seen is remembered up to a limit, which bounds memory and nothing else."""

    def __init__(self, most: int = 500_000) -> None:
        self.known: dict[str, int] = {}
        self.most = most

    def __call__(self, tokens: Sequence[str]) -> list[int]:
        known = self.known
        try:
            return [known[t] for t in tokens]
        except KeyError:
            if len(known) > self.most:
                known.clear()
            for token in tokens:
                if token not in known:
                    raw = token.encode("utf-8", "surrogatepass")
                    known[token] = zlib.crc32(raw) << 32 | zlib.crc32(raw[::-1], 0x5BD1E995)
            return [known[t] for t in tokens]


def shingles(rows: Sequence[Sequence[int]], size: int) -> tuple[U64, npt.NDArray[np.int64]]:
    """Hashes of all runs of `size` tokens, row by row without repeats, and where each row begins.

    A row of fewer tokens is one shingle of what it has.
    """
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    flat = np.fromiter((t for row in rows for t in row), np.uint64, int(lengths.sum()))
    begin = np.concatenate([[0], np.cumsum(lengths)])
    hashed, count = np.zeros(0, np.uint64), np.where(lengths > 0, np.maximum(lengths - size + 1, 1), 0)
    start = np.repeat(begin[:-1], count) + _ranges(count)
    if len(start):
        hashed = np.full(len(start), np.uint64(size))
        last = np.repeat(begin[1:], count)
        with np.errstate(over="ignore"):
            for i in range(size):
                at = start + i
                token = np.where(at < last, flat[np.minimum(at, len(flat) - 1)], np.uint64(0))
                hashed = scramble(hashed * MIX + token)
    return _unique(hashed, np.repeat(np.arange(len(rows)), count), len(rows))


def _ranges(count: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0..c-1 for each c, one after another."""
    ends = np.cumsum(count)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - count, count)


def _unique(hashed: U64, row: npt.NDArray[np.int64], rows: int) -> tuple[U64, npt.NDArray[np.int64]]:
    order = np.lexsort((hashed, row))
    hashed, row = hashed[order], row[order]
    new = np.ones(len(hashed), bool)
    new[1:] = (hashed[1:] != hashed[:-1]) | (row[1:] != row[:-1])
    counts = np.bincount(row[new], minlength=rows)
    return hashed[new], np.concatenate([[0], np.cumsum(counts)])


def signatures(hashed_S: U64, begin_N: npt.NDArray[np.int64], permutations: int, seed: int) -> npt.NDArray[np.uint32]:
    """The minimum under each permutation of each row's shingles: (N, P). Rows without shingles get ones throughout."""
    rng = np.random.Generator(np.random.PCG64(seed))
    a = rng.integers(0, 2**63, permutations, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    c = rng.integers(0, 2**63, permutations, dtype=np.uint64)
    full = np.flatnonzero(begin_N[1:] > begin_N[:-1])
    out = np.full((len(begin_N) - 1, permutations), np.iinfo(np.uint32).max, np.uint32)
    if not len(full):
        return out
    starts = begin_N[:-1][full]
    with np.errstate(over="ignore"):
        for p in range(permutations):
            low = ((hashed_S * a[p] + c[p]) >> np.uint64(32)).astype(np.uint32)
            out[full, p] = np.minimum.reduceat(low, starts)
    return out


def band_keys(signature_NP: npt.NDArray[np.uint32], bands: int, rows: int) -> U64:
    """One number for each band of each row: (N, B)."""
    out = np.zeros((len(signature_NP), bands), np.uint64)
    with np.errstate(over="ignore"):
        for band in range(bands):
            key = np.full(len(signature_NP), np.uint64(band + 1))
            for i in range(band * rows, (band + 1) * rows):
                key = scramble(key * MIX + signature_NP[:, i].astype(np.uint64))
            out[:, band] = key
    return out


def jaccard(a: U64, b: U64) -> float:
    """|A ∩ B| / |A ∪ B| of two sorted sets of shingles."""
    if not len(a) or not len(b):
        return 0.0
    if len(a) < len(b):
        a, b = b, a
    at = np.searchsorted(a, b)
    at[at == len(a)] = 0
    both = int((a[at] == b).sum())
    return both / (len(a) + len(b) - both)
