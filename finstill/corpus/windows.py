"""Cutting a text that is longer than is read at once into overlapping windows."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from finstill.corpus.text import HAN_AND_KANA, THAI_LAO_MYANMAR_KHMER, UNSPACED_CHARACTER

_OPENING = r"""["'“‘(\[（［「『【《〈]?"""
_CLOSING = r"""["'”’)\]）］」』】》〉]*"""

# An abbreviation taken for an end costs nothing: it is only a place to cut at.
SENTENCE_END = re.compile(
    # An end mark, closing quotes and brackets, white space, and what a sentence starts with.
    rf"[.!?…]{_CLOSING}\s+(?={_OPENING}[A-Z0-9])"
    # Chinese and Japanese need no space. The normal form, NFKC, has `!`, `?` and `...` for their wide marks.
    rf"|[。！？｡។៕။]+{_CLOSING}\s*"
    rf"|(?<=[{HAN_AND_KANA}])[.!?…]+{_CLOSING}\s*"
    # From the first mark of a run and never from a later one, which would take the square of their number of steps.
    rf"|(?<![.!?…])[.!?…]++{_CLOSING}\s*(?={_OPENING}[{HAN_AND_KANA}])"
    # Thai and its neighbours divide clauses by spaces.
    rf"|[{THAI_LAO_MYANMAR_KHMER}.!?…]{_CLOSING}\s+(?={_OPENING}[{THAI_LAO_MYANMAR_KHMER}])"
)


def cut_windows(
    text: str, offsets: Sequence[tuple[int, int]], words: Sequence[int | None], room: int
) -> list[tuple[int, int]]:
    """Return the windows over a text's tokens, as positions from and to (not included).

    A window ends where a sentence does, if one ends in its second half, else between two words. The next starts with
    the sentence, else the word, that begins in the last quarter of the one before: what stands at a cut is read with
    what is before it and with what is after it. The last one starts as early as there is room for: a few words alone
    say something else than they do in their sentence. In scripts that are written without spaces between words, a
    character does for a word.

    Args:
        offsets: for each token the characters of `text` from and to.
        words: for each token the number of its word.
        room: tokens of a window, at least 1.
    """
    sentences = _sentences(text, offsets)
    beginnings, inside_words = _beginnings(text, offsets, words)
    if inside_words:
        # Where a window begins inside what the tokenizer takes for a word, SentencePiece begins it with one more token.
        room = max(1, room - 1)
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


def _sentences(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Return the tokens with which a sentence begins; the number of tokens where one ends with the text."""
    first = [start for start, _ in offsets]
    sentences = []
    for match in SENTENCE_END.finditer(text):
        i = bisect_left(first, match.end())
        # A token of SentencePiece may hold the space before its word.
        sentences.append(i - 1 if i and offsets[i - 1][1] > match.end() else i)
    return sentences


def _beginnings(text: str, offsets: Sequence[tuple[int, int]], words: Sequence[int | None]) -> tuple[list[int], bool]:
    """Return the tokens but the first that begin a word or an unspaced character, and whether one of them continues
    what the tokenizer takes for a word."""
    spans = [match.span() for match in UNSPACED_CHARACTER.finditer(text)]
    starts = {start for start, _ in spans}
    within = {position for start, end in spans for position in range(start + 1, end)}
    beginnings = []
    inside_words = False
    for i in range(1, len(words)):
        start = offsets[i][0]
        # Of a byte-level tokenizer, several tokens may have the offsets of one character.
        if start in starts and start >= offsets[i - 1][1]:
            beginnings.append(i)
            inside_words = inside_words or words[i] == words[i - 1]
        elif words[i] != words[i - 1] and start not in within:
            beginnings.append(i)
    return beginnings, inside_words


def _last(positions: list[int], above: int, limit: int) -> int | None:
    """Return the last of the sorted `positions` in (above, limit]."""
    i = bisect_right(positions, limit)
    return positions[i - 1] if i and positions[i - 1] > above else None


def _first(positions: list[int], lowest: int, limit: int) -> int | None:
    """Return the first of the sorted `positions` in [lowest, limit)."""
    i = bisect_left(positions, lowest)
    return positions[i] if i < len(positions) and positions[i] < limit else None
