"""The shingles of one text, as sets of words: what hashes of them are held to."""

from __future__ import annotations

from itertools import pairwise

from finstill.corpus.text import words


def shingles(text: str) -> frozenset[str]:
    """Return the runs of two words in `text`; of one word that word, of none the text."""
    found = words(text.casefold()) or [text]
    if len(found) == 1:
        return frozenset(found)
    return frozenset(map(" ".join, pairwise(found)))
