"""Cutting a text that is longer than a student reads into overlapping windows."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

# An end mark, closing quotes and brackets, white space, and what a sentence starts with. An abbreviation taken for an
# end costs nothing: it is only a place to cut at.
SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*\s+(?=["'“‘(\[]?[A-Z0-9])""")


def cut_windows(
    text: str, offsets: Sequence[tuple[int, int]], words: Sequence[int | None], room: int
) -> list[tuple[int, int]]:
    """Return the windows over a text's tokens, as positions from and to (not included).

    A window ends where a sentence does, if one ends in its second half, else between two words. The next starts with
    the sentence, else the word, that begins in the last quarter of the one before: what stands at a cut is read with
    what is before it and with what is after it. The last one starts as early as there is room for: a few words alone
    say something else than they do in their sentence.

    Args:
        offsets: for each token the characters of `text` from and to.
        words: for each token the number of its word.
        room: tokens of a window, at least 1.
    """
    first = [start for start, _ in offsets]
    sentences = [bisect_left(first, match.end()) for match in SENTENCE_END.finditer(text)]
    beginnings = [i for i in range(1, len(words)) if words[i] != words[i - 1]]
    windows = []
    start = 0
    while len(offsets) - start > room:
        end = _last(sentences, start + room // 2, start + room) or _last(beginnings, start + room // 2, start + room)
        end = end or start + room
        windows.append((start, end))
        overlap = end - room // 4
        start = _first(sentences, overlap, end) or _first(beginnings, overlap, end) or overlap
    if windows:
        start = _first(beginnings, len(offsets) - room, start) or start
    windows.append((start, len(offsets)))
    return windows


def _last(positions: list[int], above: int, limit: int) -> int | None:
    """Return the last of the sorted `positions` in (above, limit]."""
    i = bisect_right(positions, limit)
    return positions[i - 1] if i and positions[i - 1] > above else None


def _first(positions: list[int], lowest: int, limit: int) -> int | None:
    """Return the first of the sorted `positions` in [lowest, limit)."""
    i = bisect_left(positions, lowest)
    return positions[i] if i < len(positions) and positions[i] < limit else None
