"""Tables of texts as CSV, JSONL and Parquet: read a window of rows at a time, written back with columns more."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from finstill.errors import InputError
from finstill.text import normalise

ROWS_PER_WINDOW = 8192

Added = Mapping[str, Any]
"""What is added to one row, by column: text, numbers, or pairs of a word and its weight."""


@dataclass(frozen=True)
class Fault:
    """A row that cannot be scored: its number, from 1, a header not counted, why, and what it holds."""

    row: int
    reason: str
    content: Any


@dataclass
class Window:
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
        stream: what it is read from.
        where: how messages call it.
        column: with the text.
    """

    def __init__(self, stream: BinaryIO, where: str, column: str):
        self.stream, self.where, self.column = stream, where, column
        self._size = stream.seek(0, io.SEEK_END) if stream.seekable() else None
        if self._size is not None:
            stream.seek(0)

    def share_read(self) -> float | None:
        """Return how much of the table has been read, from 0 to 1, or None where its size is not known."""
        return self.stream.tell() / self._size if self._size else None

    @abstractmethod
    def windows(self) -> Iterator[Window]:
        """Yield the rows in windows of `ROWS_PER_WINDOW`, the same each time.

        Raises:
            InputError: the table cannot be read at all, or has no column with the text.
        """

    @abstractmethod
    def head(self, added: Sequence[str]) -> bytes:
        """Return what stands before the first row where columns are `added`; `windows` has begun.

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

    def _missing(self, present: Iterable[str]) -> InputError:
        return InputError(
            f"there is no column '{self.column}'; the columns are {list(present)}",
            where=self.where,
            remedy="Give --text the column with the text",
        )


class CsvTable(Table):
    """A row is a list of cells. Its first line names the columns."""

    _header: list[str]

    def windows(self) -> Iterator[Window]:
        csv.field_size_limit(sys.maxsize)
        # Bytes that are not UTF-8 become surrogates, so that they are found row by row.
        lines = io.TextIOWrapper(self.stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(lines)
        self._header = next(reader, [])
        if self.column not in self._header:
            raise self._missing(self._header) if self._header else InputError("the file is empty", where=self.where)
        position = self._header.index(self.column)
        window, number = Window(), 0
        while True:
            reason: str | None
            try:
                cells = next(reader)
                reason = _fault_of_cells(cells, len(self._header))
            except StopIteration:
                break
            except csv.Error as error:
                cells, reason = [""], f"not readable as CSV: {error}"
            if not cells:
                continue
            number += 1
            _add(window, number, cells, reason, None if reason else cells[position], self.column)
            if len(window.texts) == ROWS_PER_WINDOW:
                yield window
                window = Window(number + 1)
        if window.texts:
            yield window

    def head(self, added: Sequence[str]) -> bytes:
        self._refuse_taken(self._header, added)
        return _csv([[*self._header, *added]])

    def encode(self, rows: list[list[str]], added: Sequence[Added | None]) -> bytes:
        return _csv(
            [*cells, *(json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in each.values())]
            for cells, each in zip(rows, added, strict=True)
            if each is not None
        )


class JsonlTable(Table):
    """A row is an object, one a line. Rows need not have the same columns, so each is looked at for those added."""

    def windows(self) -> Iterator[Window]:
        window, number = Window(), 0
        for number, line in enumerate(filter(bytes.strip, self.stream), start=1):
            value, reason = _object(line)
            text = value.get(self.column) if reason is None else None
            if reason is None and self.column not in value:
                reason = f"there is no '{self.column}'"
            _add(window, number, value, reason, text, self.column)
            if len(window.texts) == ROWS_PER_WINDOW:
                self._refuse_absent(window, number)
                yield window
                window = Window(number + 1)
        if window.texts:
            self._refuse_absent(window, number)
            yield window

    def head(self, added: Sequence[str]) -> bytes:
        return b""

    def encode(self, rows: list[dict[str, Any]], added: Sequence[Added | None]) -> bytes:
        lines = []
        for values, each in zip(rows, added, strict=True):
            if each is not None:
                self._refuse_taken(values, list(each))
                lines.append(json.dumps({**values, **each}, ensure_ascii=False) + "\n")
        return "".join(lines).encode()

    def _refuse_absent(self, window: Window, number: int) -> None:
        """Raise where no row of the first window has the column: its name is wrong, not the rows."""
        objects = [row for row in window.rows if isinstance(row, dict)]
        if number <= ROWS_PER_WINDOW and objects and not any(self.column in row for row in objects):
            raise self._missing(objects[0])


def open_table(path: Path | None, kind: str | None, column: str) -> Table:
    """Open the table in the file `path`, or in the standard input where that is None.

    Args:
        kind: `csv`, `jsonl` or `parquet`; by default the file's ending.

    Raises:
        InputError: the file does not exist, or is of no known kind; or it is Parquet and pyarrow is not installed.
    """
    if path is None:
        if kind not in ("csv", "jsonl"):
            raise InputError(
                "its format is not told" if kind is None else "Parquet cannot be read from a stream",
                where="the standard input",
                remedy="Give --format csv or --format jsonl",
            )
        return _KINDS[kind](sys.stdin.buffer, "the standard input", column)
    kind = kind or path.suffix.lower().removeprefix(".")
    if not path.is_file():
        raise InputError("there is no such file", where=path)
    if kind == "parquet":
        try:
            from finstill.scoring.parquet import ParquetTable
        except ModuleNotFoundError as error:
            raise InputError(
                f"Parquet is read by pyarrow, which cannot be imported ({error})",
                where=path,
                remedy="pip install 'finstill[pipeline]' (or pyarrow alone), or give CSV or JSONL",
            ) from error
        return ParquetTable(path.open("rb"), str(path), column)
    if kind not in _KINDS:
        raise InputError(f"the file ends in none of .csv, .jsonl and .parquet ('{path.name}')", where=path)
    return _KINDS[kind](path.open("rb"), str(path), column)


_KINDS: dict[str, type[Table]] = {"csv": CsvTable, "jsonl": JsonlTable}


def text_fault(value: object, column: str) -> str | None:
    """Return why a value is no text that can be scored, or None where it is one."""
    if value is None:
        return "the text is missing"
    if not isinstance(value, str):
        return f"'{column}' holds {type(value).__name__}, text was expected"
    return None if normalise(value) else "the text is empty"


def _add(window: Window, number: int, row: Any, reason: str | None, text: object, column: str) -> None:
    reason = reason or text_fault(text, column)
    window.rows.append(row)
    window.texts.append(None if reason else text)  # type: ignore[arg-type]
    if reason:
        window.faults.append(Fault(number, reason, row))


def _fault_of_cells(cells: list[str], expected: int) -> str | None:
    if len(cells) != expected:
        return f"{len(cells)} fields, {expected} were expected"
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        # For the side file, which is UTF-8 itself.
        cells[:] = [cell.encode(errors="surrogateescape").decode(errors="replace") for cell in cells]
        return "not valid UTF-8"
    return None


def _object(line: bytes) -> tuple[Any, str | None]:
    """Return the object of a line; or the line as text, and why it is none."""
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return line.decode(errors="replace"), f"not valid UTF-8: byte {error.start} is 0x{line[error.start]:02x}"
    except json.JSONDecodeError as error:
        return line.decode(), f"not a JSON object: {error}"
    return (value, None) if isinstance(value, dict) else (value, "a JSON object was expected")


def _csv(rows: Iterable[Iterable[Any]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()
