"""Finding texts that say nearly the same: what must not be learned from where it is tested."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from joblib import cpu_count

from finstill.corpus.shingles import HASH_BITS, Shingles, place_bits

LEAST_SIMILARITY = 0.7
"""Of near-duplicates. One word in the middle of twenty that differs leaves 0.81, two apart 0.65."""

TEXTS_AT_A_TIME = 8192

MEETINGS_AT_A_TIME = 1 << 20
"""So many pairs of texts with a rare shingle in common are looked at together, or those of one text."""

PAIRS_COMPARED = 1 << 15
"""A pair's number and a hash have 63 bits."""

_ROUNDING = 1e-9


class Match(NamedTuple):
    """The text of an index that is nearest to another.

    Attributes:
        position: of the text in the index.
        similarity: Jaccard index of their shingles; 1 where both are the same words.
    """

    position: int
    similarity: float


class Pairs(NamedTuple):
    """Texts and their near-duplicates in an index, sorted by both.

    Attributes:
        asked, found: positions of the text and of that in the index, int64, (pairs,).
        similarity: Jaccard index of their shingles, float64, (pairs,).
    """

    asked: np.ndarray
    found: np.ndarray
    similarity: np.ndarray

    @classmethod
    def joined(cls, parts: Iterable[Pairs]) -> Pairs:
        nothing = cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        return cls(*map(np.concatenate, zip(nothing, *parts, strict=True)))


class NearDuplicates:
    """An index of texts that finds the near-duplicates of others among them, by the Jaccard index of their shingles.

    Candidates come by prefixes, of which none is missed (Bayardo et al. 2007, "Scaling Up All Pairs Similarity
    Search"): of two texts of Jaccard index t, each has one of its n - ceil(t n) + 1 first shingles in common with those
    of the other, in any order of all shingles. Those that are rarest in the index go first.

    Args:
        texts: the texts to find.
    """

    def __init__(self, texts: Shingles):
        self._texts = texts
        # Counted by a part of the hash: few shingles share a count, and an order by such counts is one as well.
        bits = place_bits(len(texts.hashes), 24)
        self._counted = np.uint64((1 << bits) - 1)
        self._counts = np.bincount((texts.hashes & self._counted).view(np.int64), minlength=1 << bits)
        rarest = [self._rarest(some) for some in texts.slices(TEXTS_AT_A_TIME)]
        rows = [number * TEXTS_AT_A_TIME + rows for number, (rows, _) in enumerate(rarest)]
        hashes = np.concatenate([np.empty(0, np.uint64), *(hashes for _, hashes in rarest)])
        order = np.argsort(hashes)
        self._rows, self._hashes = np.concatenate([np.empty(0, np.int64), *rows])[order], hashes[order]

    def nearest(self, texts: Shingles) -> list[Match | None]:
        """Return for each of `texts` its nearest near-duplicate in the index, or None where there is none."""
        nearest: list[Match | None] = [None] * len(texts)
        for asked, found, similarity in zip(*(each.tolist() for each in self.pairs(texts)), strict=True):
            before = nearest[asked]
            if before is None or similarity > before.similarity:
                nearest[asked] = Match(found, similarity)
        return nearest

    def pairs(self, texts: Shingles) -> Pairs:
        """Return all near-duplicates in the index of each of `texts`."""
        # Arrays leave other threads the interpreter.
        with ThreadPoolExecutor(cpu_count()) as pool:
            found = pool.map(self._pairs, texts.slices(TEXTS_AT_A_TIME))
            return Pairs.joined(
                pairs._replace(asked=number * TEXTS_AT_A_TIME + pairs.asked) for number, pairs in enumerate(found)
            )

    def _pairs(self, texts: Shingles) -> Pairs:
        rows, hashes = self._rarest(texts)
        first = np.searchsorted(self._hashes, hashes, "left")
        meet = np.searchsorted(self._hashes, hashes, "right") - first
        rows, first, meet = (each[meet > 0] for each in (rows, first, meet))
        # The meetings of a text stay together.
        group = (np.cumsum(meet) // MEETINGS_AT_A_TIME)[np.searchsorted(rows, rows)]
        bounds = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(rows)]
        return Pairs.joined(
            self._near(texts, np.repeat(rows[some], meet[some]), self._rows[_ranges(first[some], meet[some])])
            for some in (slice(*ends) for ends in pairwise(bounds))
        )

    def _near(self, texts: Shingles, asked: np.ndarray, found: np.ndarray) -> Pairs:
        """Return those of the pairs that are near, once each."""
        asked, found = np.divmod(np.unique(asked * len(self._texts) + found), max(1, len(self._texts)))
        ours, theirs = texts.sizes[asked], self._texts.sizes[found]
        # The share of the smaller one in the larger is the most that they can have in common.
        possible = np.minimum(ours, theirs) >= LEAST_SIMILARITY * np.maximum(ours, theirs) - _ROUNDING
        asked, found, both = asked[possible], found[possible], (ours + theirs)[possible]
        shared = np.empty(len(asked), np.int64)
        for start in range(0, len(asked), PAIRS_COMPARED):
            some = slice(start, start + PAIRS_COMPARED)
            shared[some] = self._shared(texts, asked[some], found[some])
        similarity = shared / (both - shared)
        near = similarity >= LEAST_SIMILARITY
        return Pairs(asked[near], found[near], similarity[near])

    def _shared(self, texts: Shingles, asked: np.ndarray, found: np.ndarray) -> np.ndarray:
        """Return how many shingles each pair has in common: int64, (pairs,)."""
        ours, theirs = _numbered(texts, asked), _numbered(self._texts, found)
        shared = ours[np.isin(ours, theirs, assume_unique=True)] >> HASH_BITS
        return np.bincount(shared, minlength=len(asked))

    def _rarest(self, texts: Shingles) -> tuple[np.ndarray, np.ndarray]:
        """Return the shingles that are among the rarest of their text, as many as must be looked at.

        Returns:
            The text of each, int64, and its hash, uint64: (shingles,) both, sorted by text.
        """
        counts, rows = self._counts[texts.hashes & self._counted], texts.rows
        # Sorted by text and hash already.
        order = np.argsort(rows << 32 | counts, kind="stable")
        place = np.arange(len(order)) - texts.starts[rows]
        chosen = place < _looked_at(texts.sizes)[rows]
        return rows[chosen], texts.hashes[order[chosen]]


def first_shingles(texts: Shingles) -> Shingles:
    """Return those shingles of each text that come first by their hashes: two near-duplicates share one of theirs."""
    sizes = _looked_at(texts.sizes)
    return Shingles(sizes, texts.hashes[_ranges(texts.starts, sizes)])


def _looked_at(sizes: np.ndarray) -> np.ndarray:
    """Return how many shingles of a text tell whether it may be near another, see `NearDuplicates`: int64, (texts,)."""
    return sizes - np.ceil(LEAST_SIMILARITY * sizes - _ROUNDING).astype(np.int64) + 1


def _numbered(texts: Shingles, positions: np.ndarray) -> np.ndarray:
    """Return the shingles of the texts at these positions, each under the place of its position: int64, sorted."""
    sizes = texts.sizes[positions]
    hashes = texts.hashes[_ranges(texts.starts[positions], sizes)]
    return np.repeat(np.arange(len(positions)), sizes) << HASH_BITS | hashes.view(np.int64)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the numbers from each start on, so many of each, one after the other: int64."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)
