"""The rows of a source as they are read: Arrow record batches, and a view of them as Python objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import pyarrow as pa

from finstill.corpus.readers import Fault, text_fault

ROWS_PER_BATCH = 8192

ROWS_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("text", "label", "date", "id", "split", "fault", "remedy")),
    ]
)
"""The fields of `Row`; `fault` and `remedy` are those of its fault, null where the row can be used."""

Item = TypeVar("Item")


class Row(NamedTuple):
    """One row as the source holds it, values as text or None.

    Attributes:
        source: the file or data set, as messages call it.
        number: of the row in it, from 1.
        label: as the source calls it; None where the row has none.
        fault: why the row cannot be used; its text is then what it holds, for people.
    """

    source: str
    number: int
    text: str | None
    label: str | None
    date: str | None
    id: str | None
    split: str | None
    fault: Fault | None = None


def batches_of(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    """Yield `rows` as batches of `ROWS_SCHEMA`."""
    return map(batch_of, in_batches(rows))


def batch_of(rows: Iterable[Row]) -> pa.RecordBatch:
    """Return `rows` as one batch of `ROWS_SCHEMA`. A text that has no UTF-8 becomes a fault of its row."""
    flat = [(*row[:-1], *(row.fault or (None, None))) for row in map(_with_fault, rows)]
    columns = zip(*flat, strict=True) if flat else [()] * len(ROWS_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ROWS_SCHEMA, strict=True)]
    return pa.record_batch(arrays, ROWS_SCHEMA)


def rows_of(batch: pa.RecordBatch) -> Iterator[Row]:
    """Yield the rows of a batch of `ROWS_SCHEMA`."""
    for *values, reason, remedy in zip(*(column.to_pylist() for column in batch.columns), strict=True):
        yield Row._make([*values, None if reason is None else Fault(reason, remedy)])


def in_batches(items: Iterable[Item], size: int = ROWS_PER_BATCH) -> Iterator[list[Item]]:
    """Yield lists of at most `size` items. Those that come before an error are yielded before it is raised."""
    batch: list[Item] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def writable(text: str) -> str:
    """Return a text as it can be written as UTF-8: a lone surrogate as its number."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _with_fault(row: Row) -> Row:
    if row.fault is None and row.text is not None and not row.text.isascii() and (fault := text_fault(row.text)):
        return row._replace(text=writable(row.text), fault=fault)
    return row
