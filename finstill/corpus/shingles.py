"""The shingles of many texts, by arrays of their hashes: they tell which texts are near-duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, pairwise

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

HASHES_AT_A_TIME = 1 << 20

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(int(_FACTOR), -1, 1 << 64))

_LETTERS = bytes(
    code if code >= 0x80 or chr(code) in "_0123456789abcdefghijklmnopqrstuvwxyz" else 0
    for code in bytes(range(256)).lower()
)
"""The lower case of each byte that belongs to words, 0 for the rest. What is not ASCII does, see `_as_bytes`."""


@dataclass(frozen=True)
class Shingles:
    """The shingles of some texts: the runs of two words in each, case and punctuation left out, as hashes.

    A text of one word has that word for a shingle, and one of none itself. A script without spaces has its characters
    for words; a Thai letter and the marks above and below it are one, since runs of two single signs are too few to
    tell long texts apart. Of two different shingles one pair in 2**48 has the same hash.

    Attributes:
        sizes: how many each text has, int64, (texts,).
        hashes: uint64, (shingles,), those of a text once each, together and sorted.
    """

    sizes: np.ndarray
    hashes: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str] | pa.StringArray | pa.ChunkedArray) -> Shingles:
        # Chunks are not put together: their characters may be more than an offset of `string` can count.
        chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [pa.array(texts, pa.string())]
        # Arrays leave other threads the interpreter.
        with ThreadPoolExecutor(cpu_count()) as pool:
            return cls.joined(pool.map(_shingles, chain.from_iterable(map(_pieces, chunks))))

    @classmethod
    def joined(cls, parts: Iterable[Shingles]) -> Shingles:
        parts = list(parts)
        sizes = np.concatenate([np.empty(0, np.int64), *(part.sizes for part in parts)])
        return cls(sizes, np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)]))

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where the shingles of each text begin, int64, (texts,)."""
        return np.cumsum(self.sizes) - self.sizes

    @property
    def rows(self) -> np.ndarray:
        """The text of each shingle: int64, (shingles,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def filter(self, wanted: np.ndarray) -> Shingles:
        """Return those of the texts that are wanted: bool, (texts,)."""
        return Shingles(self.sizes[wanted], self.hashes[np.repeat(wanted, self.sizes)])

    def slices(self, size: int) -> Iterator[Shingles]:
        """Yield those of so many texts at a time."""
        for sizes, start in zip(_slices(self.sizes, size), self.starts[::size].tolist(), strict=True):
            yield Shingles(sizes, self.hashes[start : start + sizes.sum()])


class ShingleSet:
    """A set of shingles, as flags at the places that their hashes give: it may hold a few that nobody added."""

    def __init__(self, texts: Shingles):
        bits = place_bits(2 * len(texts.hashes), 27)
        self._flags = np.zeros(1 << bits, bool)
        self._mask = np.uint64((1 << bits) - 1)
        for hashes in _slices(texts.hashes, HASHES_AT_A_TIME):
            self._flags[hashes & self._mask] = True

    def shares(self, texts: Shingles) -> np.ndarray:
        """Return the share of each text's shingles that are in the set: float64, (texts,)."""
        flags = [self._flags[hashes & self._mask] for hashes in _slices(texts.hashes, HASHES_AT_A_TIME)]
        known = np.concatenate([np.empty(0, bool), *flags])
        return np.add.reduceat(known, texts.starts, dtype=np.int64) / texts.sizes


def place_bits(count: int, most: int) -> int:
    """Return how many bits of a hash to make places by: so many that half of the places stay empty, or `most`."""
    return max(12, min(most, (2 * count).bit_length()))


def _slices(array: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(array), size):
        yield array[start : start + size]


def _shingles(texts: pa.StringArray) -> Shingles:
    """Return the shingles of at most 65,536 texts.

    A word's hash is a polynomial over its bytes modulo 2**64, and a shingle's a mixture of those of its words.
    """
    content, offsets = _as_bytes(texts)
    letters = np.frombuffer(content.tobytes().translate(_LETTERS), np.uint8)
    inside = letters != 0
    begins = inside.copy()
    begins[1:] &= ~inside[:-1]
    first = offsets[:-1][offsets[:-1] < len(content)]
    begins[first] = inside[first]
    starts = np.flatnonzero(begins)
    words_of = np.diff(np.searchsorted(starts, offsets))
    # Powers of a letter's place among all, divided by that of its word's beginning.
    powers, inverses = _powers(len(content).bit_length())
    sums = np.add.reduceat(letters * powers[: len(content)], starts) if len(starts) else np.empty(0, np.uint64)
    hashes = _mixed(sums * inverses[starts])
    rows = np.repeat(np.arange(len(texts)), words_of)
    pairs = np.flatnonzero(rows[1:] == rows[:-1])
    alone = np.flatnonzero(words_of[rows] == 1)
    wordless = np.flatnonzero(words_of == 0)
    contents = texts.take(pa.array(wordless)).cast(pa.binary()).to_pylist()
    own = [int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) for content in contents]
    found = [_mixed(hashes[pairs] * _FACTOR + hashes[pairs + 1]), _mixed(hashes[alone]), np.array(own, np.uint64)]
    rows = np.concatenate([rows[pairs], rows[alone], wordless]).astype(np.uint64)
    packed = np.sort(rows << np.uint64(HASH_BITS) | np.concatenate(found) >> np.uint64(64 - HASH_BITS))
    packed = packed[np.append(True, packed[1:] != packed[:-1])] if len(packed) else packed
    rows = (packed >> np.uint64(HASH_BITS)).astype(np.int64)
    return Shingles(np.bincount(rows, minlength=len(texts)), packed & np.uint64((1 << HASH_BITS) - 1))


@lru_cache(maxsize=2)
def _powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the powers of the factor and of its inverse, 2**bits of each."""
    factors = np.full((2, 1 << bits), [[_FACTOR], [_INVERSE]], np.uint64)
    return tuple(np.cumprod(factors, axis=1))


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
