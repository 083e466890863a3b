"""Tables of texts as CSV, JSONL and Parquet: read by the corpus's reader, written back with columns more."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from finstill.corpus.readers import (
    BYTES_LOOKED_AT,
    KINDS,
    Delimited,
    Form,
    Kind,
    Record,
    decompressed,
    json_lines,
    json_rows,
    kind_of,
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
    def encode(self, rows: Any, added: Sequence[Added | None]) -> bytes:
        """Return the rows with what is added to each; those where that is None are left out."""

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

    def encode(self, rows: list[list[str]], added: Sequence[Added | None]) -> bytes:
        return self._csv(
            [*cells, *(json.dumps(v, ensure_ascii=False) if isinstance(v, list | bool) else v for v in each.values())]
            for cells, each in zip(rows, added, strict=True)
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

    def encode(self, rows: list[dict[str, Any]], added: Sequence[Added | None]) -> bytes:
        lines = []
        for values, each in zip(rows, added, strict=True):
            if each is not None:
                self._refuse_taken(values, list(each))
                lines.append(json.dumps({**values, **each}, ensure_ascii=False) + "\n")
        # A lone surrogate in another column becomes JSON's escape of it, which is how it was read.
        return "".join(lines).encode(errors="backslashreplace")


class JsonTable(JsonlTable):
    """The objects of a JSON array; what is written is JSONL."""

    def _chunks(self) -> Iterator[Chunk]:
        return self._in_chunks(json_rows(self.stream, self.where, self.form, [self.column]))


FILES: dict[Kind, type[Table]] = {
    "delimited": CsvTable,
    "lines": LinesTable,
    "jsonl": JsonlTable,
    "json": JsonTable,
}

COMMAND_LINE = Form(settings="--")
"""A form of which nothing is told; messages name the command's options."""

STREAMED: dict[str, type[Table]] = {"csv": CsvTable, "tsv": CsvTable, "jsonl": JsonlTable}
"""What can be read from a stream, by the name that `--format` gives."""

OUTPUTS: dict[str, tuple[str, ...]] = {
    "delimited": (".csv", ".tsv", ".txt"),
    "lines": (".csv",),
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".jsonl", ".ndjson"),
    "parquet": (".parquet",),
}
"""Endings of the file that a table of each kind is written to."""


def table_kind(path: Path, given: str | None, form: Form) -> Kind:
    """Return what the file `path` holds, by its ending or by the format that was given.

    Raises:
        InputError: no reader knows it.
    """
    kind = {"csv": "delimited", "tsv": "delimited", None: kind_of(path.name)}.get(given, given)
    if kind is None:
        raise InputError(f"the file ends in none of {', '.join(KINDS)} ('{path.name}')", where=path)
    if kind == "lines" and (form.delimiter is not None or form.columns is not None):
        return "delimited"
    return cast(Kind, kind)


def open_table(path: Path | None, given: str | None, column: str, form: Form = COMMAND_LINE) -> Table:
    """Open the table in the file `path`, or in the standard input where that is None.

    Args:
        given: `csv`, `tsv`, `jsonl` or `parquet`; by default the file's ending tells.
        form: how it is written.

    Raises:
        InputError: the file does not exist, or is of no known kind; or it is Parquet and pyarrow is not installed.
    """
    if given == "tsv" and form.delimiter is None:
        form = replace(form, delimiter="\t")
    if path is None:
        if given not in STREAMED:
            raise InputError(
                "its format is not told" if given is None else "Parquet cannot be read from a stream",
                where="the standard input",
                remedy="Give --format csv, tsv or jsonl",
            )
        return STREAMED[given](sys.stdin.buffer, "the standard input", column, form)
    if not path.is_file():
        raise InputError("there is no such file", where=path)
    kind = table_kind(path, given, form)
    if kind == "parquet":
        try:
            from finstill.serving.parquet import ParquetTable
        except ModuleNotFoundError as error:
            raise InputError(
                f"Parquet is read by pyarrow, which cannot be imported ({error})",
                where=path,
                remedy="pip install 'finstill[pipeline]' (or pyarrow alone), or give CSV or JSONL",
            ) from error
        return ParquetTable(path.open("rb"), str(path), column, form)
    return FILES[kind](path.open("rb", buffering=BYTES_LOOKED_AT), str(path), column, form)


def text_fault(value: object, column: str) -> str | None:
    """Return why a value is no text that can be scored, or None where it is one."""
    if value is None:
        return "the text is missing"
    if not isinstance(value, str):
        return f"'{column}' holds {type(value).__name__}, text was expected"
    if not value.isascii() and (fault := half_character(value)):
        return fault.reason
    return None if normalise(cleaned(value)) else "the text is empty"
