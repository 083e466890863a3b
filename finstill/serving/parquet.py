"""Parquet tables of texts: a row keeps its types."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finstill.corpus.readers import parquet_batches
from finstill.errors import InputError
from finstill.serving.tables import Added, Chunk, Fault, Table, text_fault

ATTENTION = pa.list_(pa.struct([("word", pa.string()), ("weight", pa.float64())]))


class ParquetTable(Table):
    """A chunk's rows are a record batch."""

    _schema: pa.Schema

    def _chunks(self) -> Iterator[Chunk]:
        number = 0
        for batch, _ in parquet_batches(self.stream, self.where, self.form, [self.column], everything=True):
            if not number:
                self._schema = batch.schema
                self._require_text(batch.schema.field(self.column).type)
            yield self._chunk(batch, number)
            number += batch.num_rows
        if not number:
            self._schema = pq.read_schema(self.where)

    def head(self, added: Sequence[str]) -> bytes:
        self._refuse_taken(self._schema.names, added)
        return b""

    def encode(self, chunk: Chunk, added: Sequence[Added | None]) -> bytes:
        scored = [each for each in added if each is not None]
        table = pa.Table.from_batches([chunk.rows]).filter(pa.array([each is not None for each in added]))
        for name in scored[0] if scored else ():
            values = [each[name] for each in scored]
            table = table.append_column(name, pa.array(values, ATTENTION if isinstance(values[0], list) else None))
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        return buffer.getvalue()

    def join(self, segments: Iterable[Path], added: Sequence[str], path: Path) -> None:
        self.head(added)
        # A segment of which no row could be scored has none of the new columns.
        tables = (table for segment in segments if (table := pq.read_table(segment)).num_rows)
        first = next(tables, None)
        if first is None:
            pq.write_table(self._schema.empty_table(), path)
            return
        with pq.ParquetWriter(path, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)

    def _chunk(self, batch: pa.RecordBatch, before: int) -> Chunk:
        chunk = Chunk(before + 1, rows=batch)
        column = batch.column(self.column)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        # As bytes: Arrow does not check UTF-8, and a bad one should be named by its row.
        for i, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
            try:
                text = None if value is None else value.decode()
                reason = text_fault(text, self.column)
            except UnicodeDecodeError as error:
                text = value.decode(errors="replace")
                reason = f"not valid UTF-8: byte {error.start} is 0x{value[error.start]:02x}"
            chunk.texts.append(None if reason else text)
            if reason:
                chunk.faults.append(Fault(before + i + 1, reason, {self.column: text}))
        return chunk

    def _require_text(self, kind: pa.DataType) -> None:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise InputError(f"column '{self.column}' holds {kind}, text was expected", where=self.where)
