"""Hashes of the shingles of many texts, by arrays: they tell which texts can be near-duplicates at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from joblib import cpu_count

from finstill.corpus.text import words

BYTES_AT_A_TIME = 1 << 18
"""Few enough for a processor's cache, which makes each pass several times as fast."""

LEAST_BYTES = 16
"""What a text counts for at least, so that the number of texts at a time has 16 bits."""

HASH_BITS = 48

FACTOR = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(FACTOR), -1, 1 << 64))

_LETTERS = bytes(
    code if code >= 0x80 or chr(code) in "_0123456789abcdefghijklmnopqrstuvwxyz" else 0
    for code in bytes(range(256)).lower()
)
"""The lower case of each byte that belongs to words, 0 for the rest. What is not ASCII does, see `_as_bytes`."""


class ShingleSet:
    """A set of shingles, as flags at the places that their hashes give: it may hold a few that nobody added.

    Args:
        shingles: about how many will be added.
    """

    def __init__(self, shingles: int):
        bits = max(12, min(27, (4 * shingles).bit_length()))
        self._flags = np.zeros(1 << bits, bool)
        self._mask = np.uint64((1 << bits) - 1)

    def add(self, texts: pa.StringArray) -> None:
        """Add the shingles of `texts`."""
        for _, hashes in _of_pieces(shingle_hashes, texts):
            self._flags[hashes & self._mask] = True

    def shares(self, texts: pa.StringArray) -> np.ndarray:
        """Return the share of each text's shingles that are in the set: float64, (texts,); 0 for a text of no word."""
        return np.concatenate([np.empty(0), *_of_pieces(self._shares, texts)])

    def _shares(self, texts: pa.StringArray) -> np.ndarray:
        rows, hashes = shingle_hashes(texts)
        known = np.bincount(rows[self._flags[hashes & self._mask]], minlength=len(texts))
        return known / np.maximum(np.bincount(rows, minlength=len(texts)), 1)


def hashes_of(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of the shingles of texts, as `shingle_hashes` does, of any number of them.

    A text without a word is its own shingle.
    """
    rows, hashes = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    start = 0
    for count, own, found in _of_pieces(lambda some: (len(some), *shingle_hashes(some)), texts):
        rows.append(start + own)
        hashes.append(found)
        start += count
    every, said = np.concatenate(rows), np.concatenate(hashes)
    wordless = np.flatnonzero(np.bincount(every, minlength=len(texts)) == 0)
    if not len(wordless):
        return every, said
    contents = texts.take(pa.array(wordless)).cast(pa.binary()).to_pylist()
    more = [int.from_bytes(hashlib.blake2b(content, digest_size=HASH_BITS // 8).digest()) for content in contents]
    every, said = np.concatenate([every, wordless]), np.concatenate([said, np.array(more, np.uint64)])
    order = np.argsort(every, kind="stable")
    return every[order], said[order]


def shingle_hashes(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of the shingles of texts, each once a text; see `finstill.corpus.near_duplicates.shingles`.

    A word's hash is a polynomial over its bytes modulo 2**64, and a shingle's a mixture of those of its words.

    Args:
        texts: at most 65,536.

    Returns:
        The text of each shingle, int64, and its hash of 48 bits, uint64: (shingles,) both, sorted by both.
    """
    content, offsets = _as_bytes(texts)
    letters = np.frombuffer(content.tobytes().translate(_LETTERS), np.uint8)
    inside = letters != 0
    begins = inside.copy()
    begins[1:] &= ~inside[:-1]
    first = offsets[:-1][offsets[:-1] < len(content)]
    begins[first] = inside[first]
    starts = np.flatnonzero(begins)
    if not len(starts):
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    # Powers of a letter's place among all, divided by that of its word's beginning.
    powers, inverses = _powers(len(content).bit_length())
    hashes = _mixed(np.add.reduceat(letters * powers[: len(content)], starts) * inverses[starts])
    rows = np.repeat(np.arange(len(texts)), np.diff(np.searchsorted(starts, offsets)))
    follows = rows[1:] == rows[:-1]
    pairs = np.flatnonzero(follows)
    alone = np.flatnonzero(~(np.append(follows, False) | np.append(False, follows)))
    shingles = np.concatenate([_mixed(hashes[pairs] * FACTOR + hashes[pairs + 1]), _mixed(hashes[alone])])
    rows = np.concatenate([rows[pairs], rows[alone]]).astype(np.uint64)
    found = np.sort(rows << np.uint64(HASH_BITS) | shingles >> np.uint64(64 - HASH_BITS))
    found = found[np.append(True, found[1:] != found[:-1])]
    return (found >> np.uint64(HASH_BITS)).astype(np.int64), found & np.uint64((1 << HASH_BITS) - 1)


@lru_cache(maxsize=2)
def _powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the powers of the factor and of its inverse, 2**bits of each."""
    factors = np.full((2, 1 << bits), [[FACTOR], [_INVERSE]], np.uint64)
    return tuple(np.cumprod(factors, axis=1))


def _of_pieces(function: Callable[[pa.StringArray], Any], texts: pa.StringArray) -> list[Any]:
    """Return what a function says of each piece of texts, in order. Arrays leave other threads the interpreter."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        return list(pool.map(function, _pieces(texts)))


def _pieces(texts: pa.StringArray) -> Iterator[pa.StringArray]:
    """Yield the texts in order, so many bytes at a time, or one text that has more."""
    sizes = np.maximum(pc.binary_length(texts).to_numpy(), LEAST_BYTES)
    piece = np.cumsum(sizes, dtype=np.int64) // BYTES_AT_A_TIME
    bounds = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), len(texts)]
    for start, end in pairwise(bounds):
        yield texts[start:end]


def _as_bytes(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the texts' bytes, uint8, and where each begins and the last ends. Of what is not ASCII only the words."""
    ascii_only = pc.string_is_ascii(texts)
    others = texts.filter(pc.invert(ascii_only)).to_pylist()
    if others:
        as_words = pa.array([" ".join(words(text.casefold())) for text in others])
        texts = pc.replace_with_mask(texts, pc.invert(ascii_only), as_words)
    _, offsets, content = texts.buffers()
    bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(content or b"", np.uint8)[bounds[0] : bounds[-1]], bounds - bounds[0]


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Return numbers of which each bit depends on all of those before: MurmurHash3's last step."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        numbers = (numbers ^ (numbers >> np.uint64(33))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(33))
