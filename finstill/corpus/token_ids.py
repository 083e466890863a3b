"""The token ids of many rows in one array, without a Python object a token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import Any, overload

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, eq=False)
class TokenIds(Sequence[Any]):
    """The ids of each row: 4 bytes a token and 12 bytes a row. Chosen rows share their tokens with those they are from.

    Attributes:
        values: int32, (tokens,).
        starts: int64, (rows,): where each row begins among the values.
        lengths: int32, (rows,): tokens of each row.
    """

    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> TokenIds:
        """Return `rows` as one array."""
        lengths = np.fromiter(map(len, rows), np.int32, len(rows))
        return cls._in_order(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths)

    @classmethod
    def of_column(cls, column: pa.ChunkedArray) -> TokenIds:
        """Return the rows of a column of lists of int32."""
        values = [np.empty(0, np.int32), *(chunk.flatten().to_numpy() for chunk in column.chunks)]
        lengths = [np.empty(0, np.int32), *(chunk.value_lengths().to_numpy() for chunk in column.chunks)]
        return cls._in_order(np.concatenate(values), np.concatenate(lengths))

    @classmethod
    def joined(cls, parts: Sequence[TokenIds]) -> TokenIds:
        """Return the rows of all parts, one after the other."""
        if not parts:
            return cls.of([])
        before = np.cumsum([0, *(len(part.values) for part in parts)])[:-1]
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.starts + offset for part, offset in zip(parts, before.tolist(), strict=True)]),
            np.concatenate([part.lengths for part in parts]),
        )

    @classmethod
    def _in_order(cls, values: np.ndarray, lengths: np.ndarray) -> TokenIds:
        ends = np.cumsum(lengths, dtype=np.int64)
        return cls(values.astype(np.int32, copy=False), ends - lengths, lengths.astype(np.int32, copy=False))

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> TokenIds: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | TokenIds:
        """Return one row, int32, (tokens,), or several."""
        if isinstance(index, slice):
            return TokenIds(self.values, self.starts[index], self.lengths[index])
        start = self.starts[index]
        return self.values[start : start + self.lengths[index]]

    def at(self, positions: np.ndarray) -> TokenIds:
        """Return the rows at `positions`, int64."""
        return TokenIds(self.values, self.starts[positions], self.lengths[positions])

    def spaced(self, count: int) -> TokenIds:
        """Return so many rows at most, evenly spaced."""
        return self if len(self) <= count else self.at(np.arange(count) * len(self) // count)

    def tolist(self) -> list[list[int]]:
        return [row.tolist() for row in self]

    def pieces(self, rows: int = 1 << 20) -> Iterator[np.ndarray]:
        """Yield the tokens of so many rows at a time, in order: int32, (tokens,)."""
        for start in range(0, len(self), rows):
            lengths = self.lengths[start : start + rows].astype(np.int64)
            inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            yield self.values[np.repeat(self.starts[start : start + rows], lengths) + inside]

    def content(self) -> list[bytes]:
        """Return the bytes that tell these rows from others, for a digest."""
        tokens = blake2b()
        for piece in self.pieces():
            tokens.update(piece.data)
        return [self.lengths.tobytes(), tokens.digest()]

    def counts(self, size: int) -> np.ndarray:
        """Return how often each id below `size` occurs: int64, (size,)."""
        counts = np.zeros(size, np.int64)
        for piece in self.pieces():
            counts += np.bincount(piece, minlength=size)
        return counts
