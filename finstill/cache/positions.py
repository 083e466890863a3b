"""Rows of a Parquet file by their positions. Only the row groups that hold one of them are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH_CHUNKS = 8
"""Rows are decoded so many chunks at a time: where few are wanted, a small batch would cost more than its rows."""


def chunks_at(
    file: pq.ParquetFile, positions: np.ndarray, rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows at ascending `positions` in tables of `rows`, the last one smaller; each row is read once.

    Args:
        columns: read; all where None.
    """
    groups, positions = _within_groups(file, positions)
    pending: list[pa.Table] = []
    pending_rows = start = 0
    for batch in file.iter_batches(BATCH_CHUNKS * rows, groups, columns):
        inside = positions[np.searchsorted(positions, start) : np.searchsorted(positions, start + len(batch))]
        if len(inside):
            pending.append(pa.table(batch.take(pa.array(inside - start))))
            pending_rows += len(inside)
        start += len(batch)
        if pending_rows >= rows:
            joined = pa.concat_tables(pending)
            full = joined.num_rows - joined.num_rows % rows
            for offset in range(0, full, rows):
                yield joined.slice(offset, rows)
            pending, pending_rows = [joined.slice(full)], joined.num_rows - full
    if pending_rows:
        yield pa.concat_tables(pending)


def _within_groups(file: pq.ParquetFile, positions: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Return the row groups that hold one of the positions, and the positions among the rows of these groups."""
    sizes = np.array([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
    starts = np.cumsum(sizes) - sizes
    groups, group = np.unique(np.searchsorted(starts, positions, side="right") - 1, return_inverse=True)
    # The groups that are not read leave no gap.
    moved = np.cumsum(sizes[groups]) - sizes[groups] - starts[groups]
    return groups.tolist(), positions + moved[group]
