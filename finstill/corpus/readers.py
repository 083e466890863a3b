"""Reading rows from files of every common form: the one reader of the pipeline and of `finstill score`.

A row that cannot be read is not an error here: it comes with a fault, and whoever reads decides whether to stop or to
set it aside. Needs nothing but Python; pyarrow for Parquet and for `.zst`.
"""

from __future__ import annotations

import codecs
import csv
import functools
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, cast

from finstill.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["delimited", "lines", "jsonl", "json", "parquet"]

KINDS: dict[str, Kind] = {
    ".csv": "delimited",
    ".tsv": "delimited",
    ".txt": "lines",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}
"""What a file holds, by its ending. A text file without a delimiter holds a text a line."""

COMPRESSED = (".gz", ".zst")

DELIMITERS = {"\t": "tab", ";": ";", "|": "|", "@": "@", ",": ","}
"""What divides columns in published files, and how messages call it."""

LINES_OF_A_ROW = 1000
"""Lines that a quoted cell may have: a quote that is opened by mistake would swallow the rest of the file."""

ROW_CHARACTERS = 1 << 26
"""Characters that a row of a text file may have: a small compressed file may hold a line that fills the memory."""

OBJECTS_LOOKED_AT = 8192
"""JSON rows after which a first column that none of them had is taken for a wrong name."""

QUOTED_CHARACTERS = 60
COLUMNS_SHOWN = 20

BYTES_LOOKED_AT = 1 << 20
"""Bytes of a file's beginning by which its encoding is judged."""

ONE_BYTE_A_CHARACTER = ("iso8859", "cp125", "mac")
"""How Python names the encodings in which each byte is a character: any file can be read by them without an error."""

END = "\x1eend\x1e"
"""Stands after the last line of a delimited file: a quote that is never closed swallows it."""

_UNDECODABLE = re.compile("[\udc80-\udcff]")
"""A byte that is none of the encoding, as `surrogateescape` decodes it."""


class NoTableError(InputError):
    """A file holds no rows: it is empty, or JSON of another kind. In a folder it is passed over, and named.

    Attributes:
        empty: whether it has no content.
    """

    def __init__(self, problem: str, where: str, *, empty: bool = False):
        super().__init__(problem, where=where)
        self.empty = empty


class Fault(NamedTuple):
    """Why a row cannot be used, and what to do about it."""

    reason: str
    remedy: str | None = None


class Record(NamedTuple):
    """One row of a file.

    Attributes:
        number: from 1, a header and blank lines not counted.
        values: of the columns that were asked for, in their order; None where the row has none.
        fault: why the row cannot be read, or None.
        content: the whole row: a list of cells, a JSON value, or the values of a Parquet row.
    """

    number: int
    values: tuple[Any, ...]
    fault: Fault | None
    content: Any


@dataclass(frozen=True)
class Form:
    """How a text file is written, as far as its name does not tell.

    Attributes:
        encoding: name of the encoding; None is UTF-8, with or without a byte-order mark.
        delimiter: what divides columns; None is a comma, or a tab in `.tsv`.
        columns: names of the columns of a file without a header; None where the first line names them.
        quotes: whether cells may stand in double quotes; where not, the last delimiters of a line divide it.
        settings: how messages name these settings: `corpus.` in a profile, `--` on the command line.
    """

    encoding: str | None = None
    delimiter: str | None = None
    columns: tuple[str, ...] | None = None
    quotes: bool = True
    settings: str = "corpus."

    def write(self, setting: str, value: str) -> str:
        """Return what a person writes to change a setting."""
        if self.settings == "--":
            return "--format tsv" if value == "\t" else f"--{setting} {value!r}"
        # In YAML a tab is written between double quotes.
        return f"{self.settings}{setting}: {repr(value) if value.isprintable() else json.dumps(value)}"

    def read_as(self, encoding: str) -> str:
        """Return what a person does about a file that is in another encoding than it is read by."""
        write = f"Write {self.write('encoding', encoding)}"
        if self.settings == "--":
            return write
        if encoding == "utf-8":
            return f"{write}, which holds for all files: save as UTF-8 those that are not"
        return f"{write}, which holds for all files: where the others are UTF-8, save this one as UTF-8 instead"


def kind_of(name: str) -> Kind | None:
    """Return what a file of this name holds, or None where no reader knows it."""
    kind = KINDS.get(_ending(name))
    return None if kind == "parquet" and _ending(name) != PurePath(name.lower()).suffix else kind


def _ending(name: str) -> str:
    """Return the ending of a file's name, that of a compression left out."""
    path = PurePath(name.lower())
    return PurePath(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def decompressed(stream: BinaryIO, name: str) -> BinaryIO:
    """Return a stream of the content of the file `name`, which may be compressed.

    Raises:
        InputError: it is `.zst`, and pyarrow is not installed.
    """
    ending = PurePath(name.lower()).suffix
    if ending == ".gz":
        return _buffered(gzip.GzipFile(fileobj=stream))
    if ending == ".zst":
        try:
            import pyarrow as pa
        except ModuleNotFoundError as error:
            raise InputError(
                f".zst is read by pyarrow, which cannot be imported ({error})",
                where=name,
                remedy="pip install pyarrow, or decompress the file first",
            ) from error
        return _buffered(_Readable(pa.CompressedInputStream(pa.PythonFile(stream), "zstd")))
    return stream


@contextmanager
def reading(where: str, form: Form) -> Iterator[None]:
    """Name the file in the error of a stream that cannot be read to its end.

    Raises:
        InputError: the disk fails, the content is not compressed as the name says, or it is none of its encoding.
    """
    try:
        yield
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"the file cannot be read to its end: {error}", where=where) from error
    except UnicodeError as error:
        # Encodings of several bytes, as UTF-16: what follows a wrong one cannot be read.
        raise InputError(
            f"not readable as {form.encoding or 'utf-8'}: {error}",
            where=where,
            remedy=f"Correct {form.settings}encoding, or the file",
        ) from error


class Delimited:
    """The rows of a CSV, TSV or other delimited file.

    Args:
        stream: the decompressed content.
        where: how messages call the file.
        form: how it is written.
        wanted: columns whose values the records hold; the first one must be there, and so must the others.

    Attributes:
        header: names of the columns.

    Raises:
        NoTableError: the file is empty.
        InputError: the file is not in its encoding or lacks a column; and while it is read, a row is too long, or a
            quote is not closed.
    """

    def __init__(self, stream: BinaryIO, where: str, form: Form, wanted: Sequence[str]):
        self.where, self._form, self._ended = where, form, False
        csv.field_size_limit(sys.maxsize)
        self._lines = _Lines(stream, where, form, newline="", row=0)
        self._before = self._characters = 0
        delimiter = form.delimiter or ("\t" if _ending(where) == ".tsv" else ",")
        self._rows = (
            csv.reader(self._lines_and_end(), delimiter=delimiter)
            if form.quotes
            else _UnquotedRows(iter(self._lines), delimiter, form)
        )
        self.delimiter = delimiter
        if form.columns is not None:
            self.header = list(form.columns)
        else:
            try:
                first = next(filter(None, iter(self._next_row, None)), [])
            except csv.Error as error:
                raise InputError(f"not readable as CSV: {error}", where=where) from error
            if self._ended and first != [END]:
                raise InputError("a quote is opened in the first line and never closed", where=where)
            self.header = [] if self._ended else [name.strip().lstrip("\ufeff") for name in first]
        if not self.header:
            raise NoTableError("the file is empty", where, empty=True)
        if fault := _undecodable(self.delimiter.join(self.header), form):
            raise InputError(fault.reason, where=where, remedy=fault.remedy)
        self._positions = [self._position(column) for column in wanted]

    def __iter__(self) -> Iterator[Record]:
        form, expected, positions, number = self._form, len(self.header), self._positions, 0
        while True:
            self._lines.row = number + 1
            try:
                cells = self._next_row()
            except StopIteration:
                return
            except csv.Error as error:
                number += 1
                yield Record(number, (), Fault(f"not readable as CSV: {error}"), [""])
                continue
            if self._ended and cells == [END]:
                return
            # A line of nothing but spaces is blank where rows have several columns.
            if not cells or (len(cells) == 1 < expected and not cells[0].strip()):
                continue
            number += 1
            if self._ended:
                raise self._open_quote()
            if number == 1 and form.columns is not None and self._names_columns(cells):
                raise InputError(
                    f"its first line is the header {cells}",
                    where=self.where,
                    remedy=f"Leave {form.settings}columns out",
                )
            fault = None
            if len(cells) != expected:
                fault = self._wrong_count(len(cells))
            elif not (line := self.delimiter.join(cells)).isascii():
                fault = _undecodable(line, form)
            if fault is not None:
                yield Record(number, (), fault, _encodable(cells))
                continue
            yield Record(number, tuple([cells[position] for position in positions]), None, cells)

    def _next_row(self) -> list[str]:
        self._before, self._characters = self._rows.line_num, 0
        return next(self._rows)

    def _lines_and_end(self) -> Iterator[str]:
        """Yield the lines; a row that has too many, or is too long, is found before the rest of it is read."""
        for line in self._lines:
            if self._rows.line_num - self._before >= LINES_OF_A_ROW:
                raise self._open_quote(f" in {LINES_OF_A_ROW:,} lines")
            self._characters += len(line)
            if self._characters > ROW_CHARACTERS:
                raise self._lines.too_long()
            yield line
        self._ended = True
        yield END

    def _open_quote(self, within: str = "") -> InputError:
        # Not a fault of this row alone: the rows after it were read as a part of it.
        opened_in = "this row" if self._lines.row else "the first line"
        return InputError(
            f"a quote is opened in {opened_in} and not closed{within}",
            where=self.where,
            row=self._lines.row or None,
            remedy="Close it, or double it where it belongs to the text",
        )

    def _names_columns(self, cells: Sequence[str]) -> bool:
        return [cell.strip().lstrip("\ufeff").casefold() for cell in cells] == [name.casefold() for name in self.header]

    def _position(self, column: str) -> int:
        if self.header.count(column) == 1:
            return self.header.index(column)
        if column in self.header:
            raise InputError(f"there are {self.header.count(column)} columns '{column}'", where=self.where)
        form, header = self._form, self.header
        if len(header) == 1 and form.columns is None:
            for other, name in DELIMITERS.items():
                if other in header[0] and other != self.delimiter:
                    raise InputError(
                        f"there is no column '{column}': it has one column, `{header[0][:QUOTED_CHARACTERS]}`; is "
                        f"{name if name == 'tab' else f'`{name}`'} the delimiter?",
                        where=self.where,
                        remedy=f"Write {form.write('delimiter', other)}",
                    )
        raise missing_column(column, header, self.where, form)

    def _wrong_count(self, count: int) -> Fault:
        expected, remedy = len(self.header), None
        if count > expected and self._form.quotes:
            remedy = f"Put a text that holds {DELIMITERS.get(self.delimiter, self.delimiter)!r} in double quotes"
        return Fault(f"{count} fields, {expected} were expected", remedy)


class _Lines:
    """The lines of a text file, none of them longer than a row may be.

    Args:
        newline: as `open` takes it.
        row: number of the first row.

    Attributes:
        row: number of the row that is read, which whoever reads keeps; 0 is the header.

    Raises:
        InputError: the file is not in its encoding, or a line is too long (that while it is read).
    """

    def __init__(self, stream: BinaryIO, where: str, form: Form, newline: str | None = None, row: int = 1):
        start, stream = _peek(stream)
        encoding = _encoding(start, where, form)
        # Bytes that are none of the encoding become surrogates, so that they are found row by row.
        self._text = io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline=newline)
        self._where, self.row = where, row

    def __iter__(self) -> Iterator[str]:
        for line in iter(functools.partial(self._text.readline, ROW_CHARACTERS + 1), ""):
            if len(line) > ROW_CHARACTERS:
                raise self.too_long()
            yield line

    def filled(self) -> Iterator[tuple[int, str]]:
        """Yield the lines that are not blank, each a row, with their numbers."""
        for line in self:
            if line.strip():
                yield self.row, line
                self.row += 1

    def too_long(self) -> InputError:
        return InputError(
            f"the row is longer than {ROW_CHARACTERS:,} characters",
            where=self._where,
            row=self.row or None,
            remedy="Shorten it, or remove it",
        )


class _UnquotedRows:
    """Lines of which the last delimiters divide the columns: a text in the first may hold the delimiter."""

    def __init__(self, lines: Iterator[str], delimiter: str, form: Form):
        self._lines, self._delimiter = lines, delimiter
        self._columns = 2 if form.columns is None else len(form.columns)
        self.line_num = 0

    def __iter__(self) -> _UnquotedRows:
        return self

    def __next__(self) -> list[str]:
        line = next(self._lines).rstrip("\r\n")
        self.line_num += 1
        return line.rsplit(self._delimiter, self._columns - 1) if line.strip() else []


def text_lines(stream: BinaryIO, where: str, form: Form) -> Iterator[Record]:
    """Yield a row for each line of a text file that is not blank: the line is its only value.

    Raises:
        InputError: the file is not in its encoding, or a line is too long.
    """
    for number, line in _Lines(stream, where, form).filled():
        text = line.rstrip("\n")
        fault = None if text.isascii() else _undecodable(text, form)
        yield Record(number, (text,), fault, _encodable([text])[0])


def json_lines(stream: BinaryIO, where: str, form: Form, wanted: Sequence[str]) -> Iterator[Record]:
    """Yield the objects of a file with one a line, blank lines passed over.

    A row may lack any column but the first. A column that no row of the file has is a wrong name.

    Raises:
        InputError: the file is not in its encoding, no row has one of the columns, or a line is too long.
    """
    numbered = _Lines(stream, where, form, newline="\n").filled()
    yield from _objects((_parsed(number, line, form) for number, line in numbered), where, form, wanted)


def json_rows(stream: BinaryIO, where: str, form: Form, wanted: Sequence[str]) -> Iterator[Record]:
    """Yield the objects of a JSON file: of an array, or the values of an object by id, whose key is the column `id`.

    An object of columns, each an object of its values by the row's number as pandas writes them, is read as their rows.

    Raises:
        NoTableError: it is JSON of another kind.
        InputError: it cannot be read, or no row has one of the columns.
    """
    start, stream = _peek(stream)
    text = stream.read().decode(_encoding(start, where, form), "surrogateescape")
    if undecodable := _undecodable(text, form):
        raise InputError(undecodable.reason, where=where, remedy=undecodable.remedy)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = "; with one object a line, its name would end in .jsonl" if "Extra data" in str(error) else ""
        raise InputError(f"not readable as JSON: {error}{lines}", where=where) from error
    if isinstance(values, dict) and values and all(isinstance(value, dict) for value in values.values()):
        if _holds_columns(values, wanted):
            values = [{name: column[row] for name, column in values.items()} for row in values[wanted[0]]]
        else:
            values = [{"id": key, **value} for key, value in values.items()]
    if not isinstance(values, list):
        raise NoTableError("a JSON array of objects was expected, or an object of objects by id", where)
    rows = (
        (number, value, None if isinstance(value, dict) else Fault("a JSON object was expected"))
        for number, value in enumerate(values, start=1)
    )
    yield from _objects(rows, where, form, wanted)


def _holds_columns(values: Mapping[str, Mapping[str, Any]], wanted: Sequence[str]) -> bool:
    """Return whether an object of objects holds columns, their values by the row's number, and not rows by id."""
    rows = values[wanted[0]].keys() if wanted and wanted[0] in values else {}
    # Notes on columns, as a data set's features, are no rows: their keys are words.
    return bool(rows) and all(map(str.isdigit, rows)) and all(each.keys() == rows for each in values.values())


def parquet_records(
    batch: pa.RecordBatch,
    names: Mapping[str, list[str]],
    wanted: Sequence[str],
    before: int,
    numbered: Collection[str] = (),
) -> Iterator[Record]:
    """Yield the rows of a batch of a Parquet file; class labels of the Hugging Face hub by their names, -1 as None.

    Args:
        batch, names: as `parquet_batches` yields them.
        before: number of rows before the batch.
        numbered: columns whose class labels stay numbers.
    """
    import pyarrow as pa

    columns = [batch.column(column) for column in wanted]
    for i, column in enumerate(columns):
        if pa.types.is_dictionary(column.type):
            columns[i] = column = column.cast(column.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            # As bytes: Arrow does not check UTF-8, and a bad one should be named by its row.
            columns[i] = column.cast(pa.large_binary())
    for number, values in enumerate(zip(*(column.to_pylist() for column in columns), strict=True), before + 1):
        fault, decoded = None, []
        for column, value in zip(wanted, values, strict=True):
            if isinstance(value, bytes):
                try:
                    value = value.decode()
                except UnicodeDecodeError as error:
                    byte = value[error.start]
                    value = value.decode(errors="replace")
                    fault = Fault(f"column '{column}' is not valid UTF-8: byte {error.start} is 0x{byte:02x}")
            elif (classes := names.get(column)) and isinstance(value, int):
                named = column not in numbered
                value = (classes[value] if named else value) if 0 <= value < len(classes) else None
            decoded.append(value)
        yield Record(number, tuple(decoded), fault, dict(zip(wanted, decoded, strict=True)))


def parquet_rows(stream: BinaryIO, where: str, form: Form, wanted: Sequence[str]) -> Iterator[Record]:
    """Yield the rows of a Parquet file, as `parquet_records` does.

    Raises:
        InputError: it is no Parquet file, or lacks a column or has it twice.
    """
    before = 0
    for batch, names in parquet_batches(stream, where, form, wanted):
        yield from parquet_records(batch, names, wanted, before)
        before += batch.num_rows


def parquet_batches(
    stream: BinaryIO, where: str, form: Form, wanted: Sequence[str], *, everything: bool = False
) -> Iterator[tuple[pa.RecordBatch, dict[str, list[str]]]]:
    """Yield the record batches of a Parquet file with the class names that its schema gives its columns.

    Args:
        wanted: columns that must be there.
        everything: whether to read the other columns too.

    Raises:
        InputError: it is no Parquet file, or lacks a column or has it twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(stream) as file:
            schema = file.schema_arrow
            for column in wanted:
                if column not in schema.names:
                    raise missing_column(column, schema.names, where, form)
                if (count := schema.names.count(column)) > 1:
                    raise InputError(f"there are {count} columns '{column}'", where=where)
            names = _class_names(schema)
            for batch in file.iter_batches(OBJECTS_LOOKED_AT, columns=None if everything else list(wanted)):
                yield batch, names
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"not readable as Parquet: {error}", where=where) from error


def missing_column(column: str, present: Sequence[str], where: str, form: Form) -> InputError:
    """Return the error of a file that lacks a column; what looks like a file without a header is said to."""
    shown = present[:COLUMNS_SHOWN]
    told = f"{[str(name)[:QUOTED_CHARACTERS] for name in shown]}"
    if more := len(present) - len(shown):
        told += f" and {more:,} more"
    longest = max((len(str(name)) for name in shown), default=0)
    if form.settings == "--":
        remedy = "Give --text the column with the text, and other columns by their names in the file"
    else:
        remedy = f"Set the column names under `{form.settings.rstrip('.')}` in the profile"
    if longest > QUOTED_CHARACTERS // 2 and form.columns is None:
        names = ", ".join("text" if len(str(name)) == longest else f"column{i}" for i, name in enumerate(shown, 1))
        names += ", ..." if more else ""
        given = f"--columns {names.replace(' ', '')}" if form.settings == "--" else f"{form.settings}columns: [{names}]"
        remedy = f"The first line looks like a row: where the file has no header, name its columns, as {given}"
    return InputError(f"there is no column '{column}'; the columns are {told}", where=where, remedy=remedy)


def text_fault(text: str) -> Fault | None:
    """Return why a string is no text, or None: a lone surrogate is half a character and has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return Fault(
            f"character {error.start + 1} is a lone surrogate (U+{ord(text[error.start]):04X}), half of a character",
            "Write the whole character, or remove it",
        )
    return None


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names of class labels, by column, that the hub's libraries write beside a Parquet schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"].items()
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {
        name: list(feature["names"])
        for name, feature in features
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
    }


def _parsed(number: int, line: str, form: Form) -> tuple[int, Any, Fault | None]:
    text = line.rstrip("\r\n")
    if fault := None if text.isascii() else _undecodable(text, form):
        return number, _encodable([text])[0], fault
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return number, text, Fault(f"not a JSON object: {error}")
    return number, value, None if isinstance(value, dict) else Fault("a JSON object was expected")


def _objects(
    rows: Iterator[tuple[int, Any, Fault | None]], where: str, form: Form, wanted: Sequence[str]
) -> Iterator[Record]:
    absent, number = set(wanted), 0
    keys: list[str] = []
    # Rows are held back until one has the first column: where none does, its name is wrong and not the rows.
    held: list[Record] | None = [] if wanted else None
    for number, value, fault in rows:
        values: tuple[Any, ...] = ()
        if fault is None:
            keys = keys or list(value)
            if absent:
                absent -= value.keys()
            values = tuple(value.get(column) for column in wanted)
            if wanted and wanted[0] not in value:
                fault = Fault(f"there is no '{wanted[0]}'")
        record = Record(number, values, fault, value)
        if held is None:
            yield record
            continue
        held.append(record)
        if wanted[0] not in absent or number == OBJECTS_LOOKED_AT:
            if wanted[0] in absent and keys:
                raise missing_column(wanted[0], keys, where, form)
            yield from held
            held = None
    if absent and keys:
        raise missing_column(next(column for column in wanted if column in absent), keys, where, form)
    yield from held or ()


def _peek(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """Return the first bytes of a stream, and the stream from its beginning."""
    buffered = stream if hasattr(stream, "peek") else _buffered(stream)
    return buffered.peek(BYTES_LOOKED_AT), buffered  # type: ignore[attr-defined]


def _buffered(stream: Any) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(stream, BYTES_LOOKED_AT))


def _encoding(start: bytes, where: str, form: Form) -> str:
    """Return the encoding to read with.

    Raises:
        InputError: the file begins with the mark of another one or is UTF-8, or there is no such encoding.
    """
    given = form.encoding
    if given is None and start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(
            "it is UTF-16 by its first bytes, not UTF-8",
            where=where,
            remedy=f"Write {form.write('encoding', 'utf-16')}",
        )
    try:
        # Codecs that are no text encodings, and those that cannot keep a wrong byte, are found by using them.
        " ".encode(given or "utf-8", "surrogateescape")
        name = codecs.lookup(given or "utf-8").name
    except (LookupError, ValueError) as error:
        raise InputError(f"there is no encoding '{given}'", where=f"{form.settings}encoding") from error
    text = _utf8(start) if name.startswith(ONE_BYTE_A_CHARACTER) else None
    # A start whose only other character is cut in two says nothing.
    if text and not text.isascii():
        at = next(i for i, character in enumerate(text) if not character.isascii())
        shown = text[text.rfind("\n", 0, at) + 1 :].partition("\n")[0].strip()[:QUOTED_CHARACTERS]
        raise InputError(
            f"it is UTF-8: as {given}, “{shown}” reads “{shown.encode().decode(name, errors='replace')}”",
            where=where,
            remedy=form.read_as("utf-8"),
        )
    return "utf-8-sig" if name == "utf-8" else name


def _utf8(start: bytes) -> str | None:
    """Return the beginning of a file as UTF-8, or None where it is not: chance makes no long text valid."""
    try:
        # The last character may be cut in two, which is no error where more may follow.
        return codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    except UnicodeDecodeError:
        return None


def _undecodable(text: str, form: Form) -> Fault | None:
    """Return the fault of decoded text with bytes that are none of its encoding, or None."""
    found = _UNDECODABLE.search(text)
    if found is None:
        return None
    problem = f"a byte is 0x{ord(found[0]) - 0xDC00:02x}"
    if codecs.lookup(form.encoding or "utf-8").name not in ("utf-8", "utf-8-sig"):
        return Fault(f"not valid {form.encoding}: {problem}")
    around = text[max(0, found.start() - QUOTED_CHARACTERS // 2) : found.start() + QUOTED_CHARACTERS // 2]
    content, encoding = around.encode(errors="surrogateescape"), "Windows-1252"
    try:
        read = content.decode(encoding)
    except UnicodeDecodeError:
        # It has a character for every byte.
        encoding = "ISO-8859-1"
        read = content.decode(encoding)
    return Fault(
        f"not valid UTF-8: {problem}; as {encoding} it reads “{' '.join(read.split())}”",
        form.read_as(encoding.lower()),
    )


def _encodable(cells: list[str]) -> list[str]:
    """Return cells as they can be written to a UTF-8 file."""
    return [
        cell.encode(errors="surrogateescape").decode(errors="replace") if not cell.isascii() else cell for cell in cells
    ]


class _Readable(io.RawIOBase):
    """An Arrow stream as Python's own buffers read one."""

    def __init__(self, stream: Any):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
