"""Finding texts that say nearly the same: what must not be learned from where it is tested."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from rensa import RMinHash, RMinHashLSH

from finstill.corpus.text import words

SHINGLE_WORDS = 2

LEAST_SIMILARITY = 0.7
"""Of near-duplicates. One word in the middle of twenty that differs leaves 0.81, two apart 0.65."""

# Two texts meet where 3 minima in a row of any of 21 bands agree: those of similarity 0.7 with probability 0.9999.
_BANDS, _ROWS = 21, 3
_SEED = 42


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

    MinHash (Broder 1997, "On the Resemblance and Containment of Documents") over runs of two words, case and
    punctuation left out, with locality-sensitive hashing finds the candidates; the Jaccard index itself decides, so no
    match is by chance. A script without spaces has its characters for words; a Thai letter and the marks above and
    below it are one, since runs of two single signs are too few to tell long texts apart.

    Args:
        texts: the texts to find.
    """

    def __init__(self, texts: Sequence[str]):
        self._shingles = [shingles(text) for text in texts]
        self._known = frozenset(itertools.chain.from_iterable(self._shingles))
        self._index = RMinHashLSH(LEAST_SIMILARITY, _BANDS * _ROWS, _BANDS)
        if texts:
            self._index.insert_many(_sketches(self._shingles))

    def nearest(self, texts: Sequence[str]) -> list[Match | None]:
        """Return for each of `texts` its nearest near-duplicate in the index, or None where there is none."""
        return [max(found, key=lambda match: match.similarity, default=None) for found in self.matches(texts)]

    def matches(self, texts: Sequence[str]) -> list[list[Match]]:
        """Return for each of `texts` its near-duplicates in the index."""
        found: list[list[Match]] = [[] for _ in texts]
        wanted = [shingles(text) for text in texts]
        # A near-duplicate shares so many shingles with one text, and so at least as many with all of them together.
        possible = [i for i, own in enumerate(wanted) if len(own & self._known) >= LEAST_SIMILARITY * len(own)]
        near = self._index.query_all(_sketches([wanted[i] for i in possible])) if possible else []
        for i, positions in zip(possible, near, strict=True):
            candidates = [Match(j, _jaccard(wanted[i], self._shingles[j])) for j in sorted(set(positions))]
            found[i] = [match for match in candidates if match.similarity >= LEAST_SIMILARITY]
        return found


def shingles(text: str) -> frozenset[str]:
    """Return the runs of `SHINGLE_WORDS` words in `text`, and where it has fewer, the text's words as one."""
    found = words(text.casefold()) or [text]
    if len(found) < SHINGLE_WORDS:
        return frozenset([" ".join(found)])
    return frozenset(map(" ".join, zip(*(found[i:] for i in range(SHINGLE_WORDS)), strict=False)))


def _sketches(texts: Sequence[frozenset[str]]) -> list[RMinHash]:
    return RMinHash.from_token_sets(texts, _BANDS * _ROWS, _SEED)


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
