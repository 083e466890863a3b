"""Joins of a corpus's keys with a teacher's cached rows.

Arrow's hash join builds its table on the corpus and streams the cache past it, so memory follows the corpus's keys and
not the cache, and only the columns in question are read.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.acero as ac
import pyarrow.compute as pc
import pyarrow.dataset as ds

JOIN_ROWS = 1 << 20
"""Keys joined at a time. More would save scans of the cache and cost memory, some 100 bytes a key."""


def absent_positions(keys: pa.ChunkedArray, cached: ds.Dataset) -> np.ndarray:
    """Return the position of the first occurrence of each distinct key that `cached` holds no row of.

    Returns:
        int64, ascending.
    """
    absent = [
        _join("right anti", keys, start, cached, {"key": pc.field("key")}).to_table()["position"].to_numpy()
        for start in range(0, len(keys), JOIN_ROWS)
    ]
    positions = np.sort(np.concatenate([*absent, np.empty(0, np.int64)]))
    return positions[first_positions(keys.take(pa.array(positions)))]


def first_positions(keys: pa.ChunkedArray) -> np.ndarray:
    """Return the position of the first occurrence of each distinct key: int64, ascending."""
    table = pa.table({"key": keys, "position": np.arange(len(keys))})
    return np.sort(table.group_by("key").aggregate([("position", "min")])["position_min"].to_numpy())


def cached_logits(keys: pa.ChunkedArray, cached: ds.Dataset, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of `keys` and whether each has any.

    Returns:
        float32, (keys, classes), undefined where there are none; bool, (keys,).

    Raises:
        pa.ArrowInvalid: a row of `cached` has no number where a logit should be.
    """
    logits = np.empty((len(keys), classes), np.float32)
    found = np.zeros(len(keys), bool)
    # The hash join carries numbers, not lists of them: a column for each class.
    columns = {f"logit_{i}": pc.list_element(pc.field("logits"), i) for i in range(classes)}
    for start in range(0, len(keys), JOIN_ROWS):
        # As a table and not a stream: where a part is damaged, Acero's reader can wait for ever for a next batch.
        rows = _join("inner", keys, start, cached, {"key": pc.field("key"), **columns}).to_table()
        positions = rows["position"].to_numpy()
        # A key that stands in several parts comes several times, with equal logits.
        logits[positions] = np.stack([rows[name].to_numpy() for name in columns], axis=1)
        found[positions] = True
    if not np.isfinite(logits[found]).all():
        raise pa.ArrowInvalid("a logit is not a number")
    return logits, found


def _join(
    kind: str, keys: pa.ChunkedArray, start: int, cached: ds.Dataset, columns: dict[str, pc.Expression]
) -> ac.Declaration:
    """Join `columns` of the cached rows with the `JOIN_ROWS` keys from `start` on, each beside its position."""
    chunk = keys.slice(start, JOIN_ROWS)
    wanted = pa.table({"key": chunk, "position": np.arange(start, start + len(chunk))})
    scan = [
        ac.Declaration("scan", ac.ScanNodeOptions(cached, columns=columns)),
        ac.Declaration("project", ac.ProjectNodeOptions(list(columns.values()), list(columns))),
    ]
    output = [name for name in columns if name != "key"]
    return ac.Declaration(
        "hashjoin",
        ac.HashJoinNodeOptions(kind, ["key"], ["key"], left_output=output, right_output=["position"]),
        inputs=[
            ac.Declaration.from_sequence(scan),
            ac.Declaration("table_source", ac.TableSourceNodeOptions(wanted)),
        ],
    )
