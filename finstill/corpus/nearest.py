"""Each train text's nearest validation or test text, over many texts, and from one night to the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import finstill
from finstill.corpus.merge import ROWS_PER_BATCH, key_halves
from finstill.corpus.near_duplicates import LEAST_SIMILARITY, NearDuplicates, Pairs, first_shingles
from finstill.corpus.shingles import Shingles, ShingleSet
from finstill.corpus.text import KEY_BYTES
from finstill.files import whole_file

COMPARED_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(KEY_BYTES), nullable=False),
        pa.field("measured", pa.bool_(), nullable=False),
        pa.field("nearest", pa.binary(KEY_BYTES)),
        pa.field("similarity", pa.float64(), nullable=False),
        pa.field("first", pa.list_(pa.uint32())),
    ],
    {"version": finstill.__version__},
)
"""The texts of one night: whether each is measured on, for a train text its nearest measured one, and the first
shingles of those that were read, shortened."""

TEXTS_INDEXED = 2_000_000
"""Number of texts that an index of near-duplicates holds at once."""

MOST_KEPT = 32
"""First shingles of a text that has them kept: some 100 words. Longer texts are few, and are read again each night."""

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
        texts: Arrow file with the columns `key`, `text` and `split`, sorted by key.
        kept: a file that keeps what was found for the next time; None keeps nothing.
    """
    keys, measured = _keys_of(texts)
    found = Nearest(np.full(len(keys), -1), np.zeros(len(keys)))
    new, first = np.ones(len(keys), bool), _First(len(keys))
    if kept is not None and (before := _read_kept(kept)) is not None:
        rows = _positions(keys, before["key"])
        new = _from_before(before, rows, keys, measured, found)
        first = _First(len(keys), before["first"], rows)
    for index, queries in ((new & measured, ~measured), (new & ~measured, measured & ~new)):
        for pairs in _pairs(texts, index, queries, first):
            train, other = np.where(measured[pairs.asked], (pairs.found, pairs.asked), (pairs.asked, pairs.found))
            found.take(train, other, pairs.similarity)
    if kept is not None:
        nearest = keys.take(pa.array(found.position, mask=found.position < 0))
        columns = [keys, measured, nearest, found.similarity, first.column()]
        compressed = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            whole_file(kept) as unfinished,
            pa.ipc.new_file(unfinished, COMPARED_SCHEMA, options=compressed) as writer,
        ):
            writer.write_table(pa.table(columns, schema=COMPARED_SCHEMA), ROWS_PER_BATCH)
    return found


def _keys_of(texts: Path) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Return the keys of a table's texts, and which of them are measured: bool, (texts,)."""
    keys, measured = [], [np.empty(0, bool)]
    for batch in read_batches_of(texts):
        # A copy: the batch's own array would keep its texts in memory.
        keys.append(batch["key"].take(pa.array(np.arange(len(batch)))))
        measured.append(pc.not_equal(batch["split"], "train").to_numpy(zero_copy_only=False))
    return pa.chunked_array(keys, COMPARED_SCHEMA.field("key").type), np.concatenate(measured)


def _read_kept(path: Path) -> pa.Table | None:
    """Return what another night has kept; None where there is none, or of another version."""
    try:
        with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
            return file.read_all() if file.schema.equals(COMPARED_SCHEMA, check_metadata=True) else None
    except (OSError, pa.ArrowInvalid):
        # There is none, or it is damaged: all texts are compared anew.
        return None


def _from_before(
    before: pa.Table, rows: np.ndarray, keys: pa.ChunkedArray, measured: np.ndarray, found: Nearest
) -> np.ndarray:
    """Take over what was found before and return which texts have yet to be compared: bool, (texts,).

    Args:
        rows: where each text stands in the table, -1 for one that does not.
    """
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


def _pairs(texts: Path, index: np.ndarray, queries: np.ndarray, first: _First) -> Iterator[Pairs]:
    """Yield the near-duplicates between two kinds of rows: rows of queries, rows of the index, similarities.

    Args:
        index, queries: which rows are of the kind: bool, (texts,). Fewer stand in the index than are asked for.
        first: is told of the texts that are read.
    """
    if not index.any() or not queries.any():
        return
    indexed = _Texts.joined(map(first.of, _read(texts, index)))
    known = ShingleSet(indexed.shingles)
    asked = _Texts.joined(
        first.of(some).that_may_be_near(known) for some in _read(texts, queries & first.may_be_near(indexed.shingles))
    )
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


class _First:
    """The first shingles of texts, kept from one night to the next.

    By them, known texts that are near none of a few new ones need not be read again. Many new ones have some shingle
    in common with most known ones, and leave out few.

    Args:
        count: number of texts.
        before: those of another night's texts.
        rows: where each text stood in that night, -1 for one that did not: int64, (texts,).
    """

    def __init__(self, count: int, before: pa.ChunkedArray | None = None, rows: np.ndarray | None = None):
        self._lists = [] if before is None else before.chunks
        self._kept = sum(map(len, self._lists))
        self._at = np.full(count, -1) if rows is None else rows.copy()

    def of(self, texts: _Texts) -> _Texts:
        """Keep the first shingles of these texts, and return the texts."""
        first = first_shingles(texts.shingles)
        short = first.sizes <= MOST_KEPT
        first, rows = first.filter(short), texts.rows[short]
        ends = np.concatenate([[0], np.cumsum(first.sizes)])
        self._lists.append(pa.ListArray.from_arrays(ends.astype(np.int32), first.hashes.astype(np.uint32)))
        self._at[rows] = self._kept + np.arange(len(rows))
        self._kept += len(rows)
        return texts

    def may_be_near(self, others: Shingles) -> np.ndarray:
        """Return which texts may be near one of the others, bool, (texts,): all whose shingles are not known may."""
        lists = self.column()
        possible = lists.is_null().to_numpy()
        sizes, hashes = pc.list_value_length(lists).drop_null(), pc.list_flatten(lists)
        shares = ShingleSet(first_shingles(others)).shares(Shingles(sizes.to_numpy(), hashes.to_numpy()))
        possible[~possible] = shares > 0
        return possible

    def column(self) -> pa.ChunkedArray:
        """Return the first shingles of each text, null where they are not known: lists of uint32."""
        lists = pa.chunked_array(self._lists, COMPARED_SCHEMA.field("first").type)
        return lists.take(pa.array(self._at, mask=self._at < 0))


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
    """Yield the texts in the rows that are wanted, a batch at a time."""
    start = 0
    for batch in read_batches_of(texts):
        rows = np.flatnonzero(wanted[start : start + len(batch)])
        if len(rows):
            yield _Texts(start + rows, Shingles.of(batch["text"].take(pa.array(rows))))
        start += len(batch)


def read_batches_of(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow file."""
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
        for number in range(file.num_record_batches):
            yield file.get_batch(number)
