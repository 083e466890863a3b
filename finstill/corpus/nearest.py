"""Each train text's nearest validation or test text, over many texts, and from one night to the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import finstill
from finstill.corpus.merge import key_halves
from finstill.corpus.near_duplicates import LEAST_SIMILARITY, NearDuplicates, Pairs
from finstill.corpus.shingles import Shingles, ShingleSet
from finstill.corpus.text import KEY_BYTES
from finstill.files import whole_file

COMPARED_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(KEY_BYTES), nullable=False),
        pa.field("measured", pa.bool_(), nullable=False),
        pa.field("nearest", pa.binary(KEY_BYTES)),
        pa.field("similarity", pa.float64(), nullable=False),
    ],
    {"version": finstill.__version__},
)
"""The texts of one night: whether each is measured on, and for a train text its nearest measured one."""

TEXTS_INDEXED = 2_000_000
"""Number of texts that an index of near-duplicates holds at once."""

LEAST_GAIN = 0.9
"""Texts are sifted again while no more than this share of them is left each time."""


@dataclass(frozen=True)
class Nearest:
    """For each text the nearest one of the other side: of a train text the measured ones, those of validation and test.

    Attributes:
        position: row of that text, int64, (texts,); -1 where none is near.
        similarity: Jaccard index of both, float64, (texts,); 0 where none is near.
    """

    position: np.ndarray
    similarity: np.ndarray

    def take(self, rows: np.ndarray, others: np.ndarray, similarities: np.ndarray) -> None:
        """Take pairs of rows where they are nearer than what is known."""
        # Of several pairs of a row the last one assigned stands: the nearest.
        order = np.argsort(similarities, kind="stable")
        rows, others, similarities = rows[order], others[order], similarities[order]
        nearer = similarities > self.similarity[rows]
        self.position[rows[nearer]], self.similarity[rows[nearer]] = others[nearer], similarities[nearer]


def nearest_measured(texts: Path, kept: Path | None) -> Nearest:
    """Return for each train text of a table the measured text that is nearest to it.

    Texts that were compared before are not compared with each other again; where the nearest one is gone, a text is
    compared with all.

    Args:
        texts: Parquet file with the columns `key`, `text` and `split`, sorted by key.
        kept: a file that keeps what was found for the next time; None keeps nothing.
    """
    columns = pq.read_table(texts, columns=["key", "split"])
    keys, measured = columns["key"], pc.not_equal(columns["split"], "train").to_numpy()
    found = Nearest(np.full(len(keys), -1), np.zeros(len(keys)))
    new = np.ones(len(keys), bool)
    if kept is not None and kept.is_file() and pq.read_schema(kept).metadata == COMPARED_SCHEMA.metadata:
        new = _from_before(pq.read_table(kept), keys, measured, found)
    for index, queries in ((new & measured, ~measured), (new & ~measured, measured & ~new)):
        for pairs in _pairs(texts, index, queries):
            train, other = np.where(measured[pairs.asked], (pairs.found, pairs.asked), (pairs.asked, pairs.found))
            found.take(train, other, pairs.similarity)
    if kept is not None:
        nearest = keys.take(pa.array(found.position, mask=found.position < 0))
        with whole_file(kept) as unfinished:
            pq.write_table(pa.table([keys, measured, nearest, found.similarity], schema=COMPARED_SCHEMA), unfinished)
    return found


def _from_before(before: pa.Table, keys: pa.ChunkedArray, measured: np.ndarray, found: Nearest) -> np.ndarray:
    """Take over what was found before and return which texts have yet to be compared: bool, (texts,)."""
    rows = _positions(keys, before["key"])
    known = rows >= 0
    new = ~known
    new[known] = before["measured"].to_numpy()[rows[known]] != measured[known]
    similarity = np.where(known, before["similarity"].to_numpy()[rows], 0.0) if len(before) else np.zeros(len(keys))
    near = np.flatnonzero(~new & (similarity > 0))
    nearest = _positions(before["nearest"].take(pa.array(rows[near])), keys)
    there = (nearest >= 0) & measured[nearest]
    found.take(near[there], nearest[there], similarity[near[there]])
    new[near[~there]] = True
    return new


def _positions(keys: pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    """Return where each key stands among others that are sorted, or -1: int64, (keys,).

    Of two that share their first half, which hardly are, the second one counts as missing.
    """
    if not len(among):
        return np.full(len(keys), -1)
    wanted, sorted_ones = key_halves(keys), key_halves(among)
    at = np.minimum(np.searchsorted(sorted_ones[:, 0], wanted[:, 0]), len(sorted_ones) - 1)
    return np.where((sorted_ones[at] == wanted).all(axis=1), at, -1)


def _pairs(texts: Path, index: np.ndarray, queries: np.ndarray) -> Iterator[Pairs]:
    """Yield the near-duplicates between two kinds of rows: rows of queries, rows of the index, similarities.

    Args:
        index, queries: which rows are of the kind: bool, (texts,). Fewer stand in the index than are asked for.
    """
    if not index.any() or not queries.any():
        return
    indexed = _Texts.joined(_read(texts, index))
    known = ShingleSet(indexed.shingles)
    asked = _Texts.joined(some.that_may_be_near(known) for some in _read(texts, queries))
    indexed = indexed.that_may_be_near(ShingleSet(asked.shingles))
    for some in indexed.slices(TEXTS_INDEXED):
        yield _near(some, asked)


@dataclass(frozen=True)
class _Texts:
    """Some texts of a table: their rows, int64, (texts,), and their shingles."""

    rows: np.ndarray
    shingles: Shingles

    @classmethod
    def joined(cls, parts: Iterable[_Texts]) -> _Texts:
        parts = list(parts)
        rows = np.concatenate([np.empty(0, np.int64), *(part.rows for part in parts)])
        return cls(rows, Shingles.joined(part.shingles for part in parts))

    def slices(self, size: int) -> Iterator[_Texts]:
        for number, shingles in enumerate(self.shingles.slices(size)):
            yield _Texts(self.rows[number * size :][: len(shingles)], shingles)

    def that_may_be_near(self, others: ShingleSet) -> _Texts:
        """Return those that may be a near-duplicate of one of the texts that these shingles are of.

        Such a text shares so many shingles with that one, and so at least as many with all of them together.
        """
        possible = others.shares(self.shingles) >= LEAST_SIMILARITY
        return _Texts(self.rows[possible], self.shingles.filter(possible))


def _near(indexed: _Texts, asked: _Texts) -> Pairs:
    # Fewer texts of one side leave fewer possible ones of the other: that is told sooner than pairs are.
    count = np.inf
    while (left := len(indexed.rows) + len(asked.rows)) < LEAST_GAIN * count:
        count = left
        asked = asked.that_may_be_near(ShingleSet(indexed.shingles))
        indexed = indexed.that_may_be_near(ShingleSet(asked.shingles))
    pairs = NearDuplicates(indexed.shingles).pairs(asked.shingles)
    return Pairs(asked.rows[pairs.asked], indexed.rows[pairs.found], pairs.similarity)


def _read(texts: Path, wanted: np.ndarray) -> Iterator[_Texts]:
    """Yield the texts in the rows that are wanted, a row group at a time."""
    start = 0
    with pq.ParquetFile(texts) as file:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            rows = np.flatnonzero(wanted[start : start + count])
            if len(rows):
                content = file.read_row_group(group, columns=["text"])["text"].combine_chunks()
                yield _Texts(start + rows, Shingles.of(content.take(pa.array(rows))))
            start += count
