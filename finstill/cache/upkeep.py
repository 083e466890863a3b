"""Looking after a cache: what is in it, whether it is sound, and keeping its parts few."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from finstill.cache.cache import DamagedPartError, SoftLabelCache
from finstill.cache.joins import absent_positions, first_positions
from finstill.cache.part import encode_part
from finstill.errors import InputError
from finstill.files import TEMPORARY_PREFIX, digest, whole_file

FULL_PART_BYTES = 64 << 20
"""Parts of half this size and more are left alone; smaller ones are merged into parts of about this size. A merge
holds one such part in memory."""

ABANDONED_AFTER = timedelta(hours=1)
"""A temporary file of this age belongs to a run that was killed: a live one writes a part in seconds."""

QUARANTINE = "quarantine"


@dataclass(frozen=True)
class CacheSummary:
    """What a teacher's cache holds, from its listing and the parts' footers alone.

    Attributes:
        rows: repeated ones counted.
        last_written: None where there is no part.
    """

    fingerprint: str
    labels: tuple[str, ...]
    rows: int
    parts: int
    bytes: int
    last_written: datetime | None


@dataclass(frozen=True)
class CacheStatistics:
    """What reading a teacher's keys and token counts tells.

    Attributes:
        duplicates: rows whose key stands in an earlier row.
        truncated: texts that were cut at the teacher's maximum length.
        tokens: quantile of the texts' token counts, by its probability.
    """

    rows: int
    duplicates: int
    truncated: int
    tokens: dict[float, float]


@dataclass(frozen=True)
class CompactionReport:
    """Parts that were merged, parts they became, and repeated rows that went."""

    merged: int
    written: int
    duplicates: int


def summarise(cache: SoftLabelCache) -> CacheSummary:
    files = cache.part_files()
    return CacheSummary(
        fingerprint=cache.fingerprint,
        labels=cache.labels,
        rows=cache.query(lambda cached: cached.count_rows()),
        parts=len(files),
        bytes=sum(file.size for file in files),
        last_written=max((file.mtime for file in files), default=None),
    )


def statistics(cache: SoftLabelCache) -> CacheStatistics:
    """Return counts over all rows; memory grows with their keys, some 60 bytes a row."""
    rows = cache.query(lambda cached: cached.to_table(columns=["key", "n_tokens", "truncated"]))
    probabilities = [0.0, 0.5, 0.9, 0.99, 1.0]
    tokens = pc.quantile(rows["n_tokens"], q=probabilities).to_pylist() if len(rows) else []
    return CacheStatistics(
        rows=len(rows),
        duplicates=len(rows) - len(first_positions(rows["key"])),
        truncated=pc.sum(rows["truncated"], min_count=0).as_py(),
        tokens=dict(zip(probabilities, tokens, strict=False)),
    )


def verify(cache: SoftLabelCache) -> Iterator[DamagedPartError]:
    """Yield what is wrong with each part whose bytes, columns or logits are not what they should be."""
    for part in cache.parts():
        try:
            cache.read_part(part)
        except DamagedPartError as error:
            yield error


def quarantine(cache: SoftLabelCache, part: str) -> str:
    """Move a part out of the readers' sight and return its new path: its rows will be labelled again."""
    folder = cache.folder / QUARANTINE
    cache.filesystem.create_dir(str(folder))
    path = str(folder / PurePosixPath(part).name)
    cache.filesystem.move(part, path)
    return path


def compact(cache: SoftLabelCache) -> CompactionReport:
    """Merge small parts into few large ones and drop the rows they repeat.

    Safe beside any number of writers, readers and other compactions, and to kill: the merged part is stored before the
    parts in it go, and no compaction removes a part that another may count on (full parts stay, and a merged part never
    has the name of one it was made from).

    Raises:
        DamagedPartError: a part is damaged; it is not merged, and what was merged before it stays so.
    """
    _remove_abandoned(cache)
    files = cache.part_files()
    kept = [file.path for file in files if file.size >= FULL_PART_BYTES // 2]
    merged = written = duplicates = 0
    for group in _groups([file for file in files if file.size < FULL_PART_BYTES // 2]):
        parts = _read_parts(cache, group)
        if len(parts) < 2:
            continue
        rows = pa.concat_tables(parts.values())
        fresh = _absent_positions(cache, rows["key"], kept)
        if len(fresh):
            # The names of the merged parts stand in the new one, so that its digest differs from each of theirs.
            origin = {"merged_from": digest(*(PurePosixPath(part).name for part in parts))}
            kept.append(cache.put(*encode_part(rows.take(pa.array(fresh)).replace_schema_metadata(origin))))
            written += 1
        for part in parts:
            _delete(cache, part)
        merged += len(parts)
        duplicates += len(rows) - len(fresh)
    return CompactionReport(merged, written, duplicates)


def prune(cache: SoftLabelCache) -> None:
    """Remove a teacher's folder.

    Its description goes last, so that a removal cut short leaves a smaller cache that can be pruned again.
    """
    for part in cache.parts():
        _delete(cache, part)
    cache.filesystem.delete_dir(str(cache.folder))


def export(cache: SoftLabelCache, path: Path) -> int:
    """Write each text's row once to `path` and return their number.

    Columns: the key in hexadecimal, a column of logits for each class, n_tokens and truncated. Memory grows with the
    number of keys, some 60 bytes each.

    Args:
        path: ends in ``.parquet`` or ``.csv``.

    Raises:
        InputError: it has another ending, or cannot be written.
        DamagedPartError: a part is damaged.
    """
    writers: dict[str, Callable[..., pq.ParquetWriter | pyarrow.csv.CSVWriter]] = {
        ".parquet": pq.ParquetWriter,
        ".csv": pyarrow.csv.CSVWriter,
    }
    if path.suffix not in writers:
        raise InputError(f"'{path.suffix}' is no format to export to; there are {list(writers)}", where=path)
    logits = [pa.field(label, pa.float32()) for label in cache.labels]
    schema = pa.schema(
        [pa.field("key", pa.string()), *logits, pa.field("n_tokens", pa.int32()), pa.field("truncated", pa.bool_())]
    )

    def write(cached: ds.Dataset) -> int:
        first = first_positions(cached.to_table(columns=["key"])["key"])
        start = 0
        with whole_file(path) as unfinished, writers[path.suffix](unfinished, schema) as writer:
            for batch in cached.to_batches():
                inside = first[np.searchsorted(first, start) : np.searchsorted(first, start + len(batch))] - start
                start += len(batch)
                writer.write_table(_flat_rows(batch.take(pa.array(inside)), schema))
        return len(first)

    try:
        return cache.query(write)
    except OSError as error:
        # What an object store or the way to it does has no number.
        if error.errno is None:
            raise
        raise InputError(
            f"the rows could not be written to this file ({error})",
            where=path,
            remedy="Free space or mend the permissions there, and export again",
        ) from error


def _flat_rows(rows: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """Return rows of the cache with keys as text and a column a class, in the columns of `schema`."""
    keys = pa.array([key.hex() for key in rows["key"].to_pylist()], pa.string())
    classes = rows.schema.field("logits").type.list_size
    logits = [pc.list_element(rows["logits"], i) for i in range(classes)]
    return pa.table([keys, *logits, rows["n_tokens"], rows["truncated"]], schema=schema)


def _groups(files: list[fs.FileInfo]) -> Iterator[list[str]]:
    """Yield the paths of `files` in groups of about a full part's size."""
    group: list[str] = []
    size = 0
    for file in files:
        group.append(file.path)
        size += file.size
        if size >= FULL_PART_BYTES:
            yield group
            group, size = [], 0
    yield group


def _absent_positions(cache: SoftLabelCache, keys: pa.ChunkedArray, kept: list[str]) -> np.ndarray:
    """Return the first position of each key that stands in none of the parts `kept`: int64, ascending."""
    while True:
        try:
            return absent_positions(keys, cache.dataset(kept))
        except (OSError, pa.ArrowException) as error:
            # What this compaction wrote, another one at the same time may have merged.
            present = set(cache.parts())
            if present.issuperset(kept):
                cache.raise_if_damaged(kept, error)
                raise
            kept = [part for part in kept if part in present]


def _read_parts(cache: SoftLabelCache, paths: list[str]) -> dict[str, pa.Table]:
    """Return the rows of those of `paths` that another compaction has not removed, by path."""
    tables = {path: cache.read_part(path) for path in paths}
    return {path: table.replace_schema_metadata(None) for path, table in tables.items() if table is not None}


def _delete(cache: SoftLabelCache, part: str) -> None:
    # Another compaction of the same parts may have been faster.
    with suppress(FileNotFoundError):
        cache.filesystem.delete_file(part)


def _remove_abandoned(cache: SoftLabelCache) -> None:
    """Delete the temporary files of runs that were killed."""
    for file in cache.filesystem.get_file_info(fs.FileSelector(str(cache.folder))):
        if file.base_name.startswith(TEMPORARY_PREFIX) and datetime.now(UTC) - file.mtime > ABANDONED_AFTER:
            _delete(cache, file.path)
