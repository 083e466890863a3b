"""Finding texts that say nearly the same: what must not be learned from where it is tested."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from finstill.corpus.shingle_hashes import FACTOR, hashes_of
from finstill.corpus.text import words

SHINGLE_WORDS = 2

LEAST_SIMILARITY = 0.7
"""Of near-duplicates. One word in the middle of twenty that differs leaves 0.81, two apart 0.65."""

_ROUNDING = 1e-9


class Match(NamedTuple):
    """The text of an index that is nearest to another.

    Attributes:
        position: of the text in the index.
        similarity: Jaccard index of their shingles; 1 where both are the same words.
    """

    position: int
    similarity: float


class NearDuplicates:
    """An index of texts that finds the near-duplicates of others among them.

    Texts are compared by the Jaccard index of their runs of two words, case and punctuation left out. A script without
    spaces has its characters for words; a Thai letter and the marks above and below it are one, since runs of two
    single signs are too few to tell long texts apart.

    Candidates come by prefixes, of which none is missed (Bayardo et al. 2007, "Scaling Up All Pairs Similarity
    Search"): of two texts of Jaccard index t, each has one of its n - ceil(t n) + 1 rarest shingles in common with
    those of the other. Hashes by arrays find them and count what they share; shingles themselves decide.

    Args:
        texts: the texts to find.
    """

    def __init__(self, texts: Sequence[str]):
        self._texts = texts
        rows, hashes = hashes_of(pa.array(texts, pa.string()))
        self._sizes = np.bincount(rows, minlength=len(texts))
        self._hashes, self._counts = np.unique(hashes, return_counts=True)
        self._members = np.sort(_members(rows, hashes))
        prefix = self._prefix(rows, hashes, self._sizes)
        prefix = prefix[np.argsort(hashes[prefix], kind="stable")]
        self._prefix_rows, self._prefix_hashes = rows[prefix], hashes[prefix]

    def nearest(self, texts: Sequence[str]) -> list[Match | None]:
        """Return for each of `texts` its nearest near-duplicate in the index, or None where there is none."""
        return [max(found, key=lambda match: match.similarity, default=None) for found in self.matches(texts)]

    def matches(self, texts: Sequence[str]) -> list[list[Match]]:
        """Return for each of `texts`, some thousands, its near-duplicates in the index."""
        found: list[list[Match]] = [[] for _ in texts]
        if not len(self._texts):
            return found
        asked, positions = self._candidates(texts)
        for i, position in zip(asked.tolist(), positions.tolist(), strict=True):
            similarity = _jaccard(shingles(texts[i]), shingles(self._texts[position]))
            if similarity >= LEAST_SIMILARITY:
                found[i].append(Match(position, similarity))
        return found

    def _candidates(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs of texts and texts of the index that are near by their hashes: int64 (pairs,) both, sorted."""
        rows, hashes = hashes_of(pa.array(texts, pa.string()))
        sizes = np.bincount(rows, minlength=len(texts))
        prefix = self._prefix(rows, hashes, sizes)
        first = np.searchsorted(self._prefix_hashes, hashes[prefix], "left")
        met = np.searchsorted(self._prefix_hashes, hashes[prefix], "right") - first
        others = self._prefix_rows[_ranges(first, met)]
        pairs = np.unique(np.repeat(rows[prefix], met) * len(self._texts) + others)
        asked, others = np.divmod(pairs, len(self._texts))
        # The share of the smaller one in the larger is the most that they can have in common.
        ours, theirs = sizes[asked], self._sizes[others]
        possible = np.minimum(ours, theirs) >= LEAST_SIMILARITY * np.maximum(ours, theirs) - _ROUNDING
        asked, others, ours, theirs = asked[possible], others[possible], ours[possible], theirs[possible]
        # Each pair's shingles of the text, with the row of the index.
        own = _ranges((np.cumsum(sizes) - sizes)[asked], ours)
        wanted = _members(np.repeat(others, ours), hashes[own])
        at = np.minimum(np.searchsorted(self._members, wanted), len(self._members) - 1)
        shared = np.bincount(np.repeat(np.arange(len(asked)), ours), self._members[at] == wanted, len(asked))
        near = shared >= LEAST_SIMILARITY * (ours + theirs - shared) - _ROUNDING
        return asked[near], others[near]

    def _prefix(self, rows: np.ndarray, hashes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return which shingles are among the rarest of their text, as many as must be looked at: int64."""
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        counts = np.where(self._hashes[at] == hashes, self._counts[at], 0)
        order = np.lexsort((hashes, counts, rows))
        place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        looked_at = sizes - np.ceil(LEAST_SIMILARITY * sizes - _ROUNDING).astype(np.int64) + 1
        return order[place < np.repeat(looked_at, sizes)]


def shingles(text: str) -> frozenset[str]:
    """Return the runs of `SHINGLE_WORDS` words in `text`, and where it has fewer, the text's words as one."""
    found = words(text.casefold()) or [text]
    if len(found) < SHINGLE_WORDS:
        return frozenset([" ".join(found)])
    return frozenset(map(" ".join, zip(*(found[i:] for i in range(SHINGLE_WORDS)), strict=False)))


def _members(rows: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return a number for each pair of row and hash, uint64; two pairs have the same one hardly ever."""
    return hashes * FACTOR + rows.astype(np.uint64)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the numbers from each start on, so many of each, one after the other: int64."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
