"""Tables of texts, as CSV and JSON: read by the corpus's reader, written back with columns more."""

from __future__ import annotations

import csv
import io
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from finstill.corpus.readers import (
    Delimited,
    Form,
    Record,
    decompressed,
    json_lines,
    json_rows,
    reading,
    text_lines,
)
from finstill.corpus.readers import text_fault as half_character
from finstill.corpus.text import cleaned, normalise
from finstill.errors import InputError

ROWS_PER_CHUNK = 8192

Added = Mapping[str, Any]
"""What is added to one row, by column: text, numbers, or pairs of a word and its weight."""


@dataclass(frozen=True)
class Fault:
    """A row that cannot be scored: its number, from 1, a header not counted, why, and what it holds."""

    row: int
    reason: str
    content: Any


@dataclass
class Chunk:
    """Rows that follow each other.

    Attributes:
        first_row: number of the first of them, from 1.
        rows: as the table's format holds them.
        texts: of each row; None where it cannot be scored.
        faults: of the rows that cannot.
    """

    first_row: int = 1
    rows: Any = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


class Table(ABC):
    """A table of texts in one format.

    Args:
        stream: what it is read from; decompressed here where its name says that it is compressed.
        where: how messages call it.
        column: with the text.
        form: how it is written.
    """

    def __init__(self, stream: BinaryIO, where: str, column: str, form: Form):
        self.where, self.column, self.form = where, column, form
        self.raw, self.stream = stream, decompressed(stream, where)
        self._size = stream.seek(0, io.SEEK_END) if stream.seekable() else None
        if self._size is not None:
            stream.seek(0)

    def share_read(self) -> float | None:
        """Return how much of the table has been read, from 0 to 1, or None where its size is not known."""
        return self.raw.tell() / self._size if self._size else None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows in chunks of `ROWS_PER_CHUNK`, the same each time.

        Raises:
            InputError: the table cannot be read to its end, or has no column with the text.
        """
        with reading(self.where, self.form):
            yield from self._chunks()

    @abstractmethod
    def _chunks(self) -> Iterator[Chunk]: ...

    @abstractmethod
    def head(self, added: Sequence[str]) -> bytes:
        """Return what stands before the first row where columns are `added`; `chunks` has begun.

        Raises:
            InputError: there are columns of these names.
        """

    @abstractmethod
    def encode(self, chunk: Chunk, added: Sequence[Added | None]) -> bytes:
        """Return the rows of a chunk with what is added to each; those where that is None are left out.

        Raises:
            InputError: a row has one of the added columns already, where rows have columns of their own; names the row.
        """

    def join(self, segments: Iterable[Path], added: Sequence[str], path: Path) -> None:
        """Write the encoded `segments` to the file `path` as one table."""
        with path.open("wb") as output:
            output.write(self.head(added))
            for segment in segments:
                with segment.open("rb") as source:
                    shutil.copyfileobj(source, output)

    def _refuse_taken(self, present: Iterable[str], added: Sequence[str], row: int | None = None) -> None:
        if taken := sorted(set(present) & set(added)):
            raise InputError(
                f"there is a column '{taken[0]}' already",
                where=self.where,
                row=row,
                remedy="Give --prefix, which stands before the name of each new column",
            )

    def _in_chunks(self, records: Iterable[Record]) -> Iterator[Chunk]:
        """Yield records in chunks, a fault for each that holds no text."""
        chunk, number = Chunk(), 0
        for number, values, unreadable, content in records:
            text = values[0] if values else None
            reason = unreadable.reason if unreadable else text_fault(text, self.column)
            chunk.rows.append(content)
            chunk.texts.append(None if reason else text)
            if reason:
                chunk.faults.append(Fault(number, reason, content))
            if len(chunk.texts) == ROWS_PER_CHUNK:
                yield chunk
                chunk = Chunk(number + 1)
        if chunk.texts:
            yield chunk


class CsvTable(Table):
    """A row is a list of cells. Its first line names the columns, or the form does."""

    _header: list[str]
    _delimiter: str

    def _chunks(self) -> Iterator[Chunk]:
        rows = Delimited(self.stream, self.where, self.form, [self.column])
        self._header, self._delimiter = rows.header, rows.delimiter
        return self._in_chunks(rows)

    def head(self, added: Sequence[str]) -> bytes:
        self._refuse_taken(self._header, added)
        return self._csv([[*self._header, *added]])

    def encode(self, chunk: Chunk, added: Sequence[Added | None]) -> bytes:
        return self._csv(
            [*cells, *(json.dumps(v, ensure_ascii=False) if isinstance(v, list | bool) else v for v in each.values())]
            for cells, each in zip(chunk.rows, added, strict=True)
            if each is not None
        )

    def _csv(self, rows: Iterable[Iterable[Any]]) -> bytes:
        buffer = io.StringIO()
        csv.writer(buffer, delimiter=self._delimiter, lineterminator="\n").writerows(rows)
        return buffer.getvalue().encode()


class LinesTable(CsvTable):
    """A text file with a text a line; what is written is CSV with the column `text`."""

    def _chunks(self) -> Iterator[Chunk]:
        self._header, self._delimiter = [self.column], ","
        records = text_lines(self.stream, self.where, self.form)
        return self._in_chunks(record._replace(content=[record.content]) for record in records)


class JsonlTable(Table):
    """A row is an object, one a line. Rows need not have the same columns, so each is looked at for those added."""

    def _chunks(self) -> Iterator[Chunk]:
        return self._in_chunks(json_lines(self.stream, self.where, self.form, [self.column]))

    def head(self, added: Sequence[str]) -> bytes:
        return b""

    def encode(self, chunk: Chunk, added: Sequence[Added | None]) -> bytes:
        lines = []
        for row, (values, each) in enumerate(zip(chunk.rows, added, strict=True), chunk.first_row):
            if each is not None:
                self._refuse_taken(values, list(each), row)
                lines.append(json.dumps({**values, **each}, ensure_ascii=False) + "\n")
        # A lone surrogate in another column becomes JSON's escape of it, which is how it was read.
        return "".join(lines).encode(errors="backslashreplace")


class JsonTable(JsonlTable):
    """The objects of a JSON array; what is written is JSONL."""

    def _chunks(self) -> Iterator[Chunk]:
        return self._in_chunks(json_rows(self.stream, self.where, self.form, [self.column]))


def text_fault(value: object, column: str) -> str | None:
    """Return why a value is no text that can be scored, or None where it is one."""
    if value is None:
        return "the text is missing"
    if not isinstance(value, str):
        return f"'{column}' holds {type(value).__name__}, text was expected"
    if not value.isascii() and (fault := half_character(value)):
        return fault.reason
    return None if normalise(cleaned(value)) else "the text is empty"
