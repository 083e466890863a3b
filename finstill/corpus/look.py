"""Looking at a file that nothing is known of: its encoding, its delimiter, its columns, and whether it is known."""

from __future__ import annotations

import codecs
import csv
import fnmatch
import io
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finstill.config.known import KNOWN
from finstill.config.profile import CorpusSource
from finstill.corpus.readers import (
    BYTES_LOOKED_AT,
    DELIMITERS,
    Form,
    Kind,
    NoTableError,
    decompressed,
    json_lines,
    json_rows,
    kind_of,
    parquet_batches,
    reading,
)
from finstill.corpus.sources import SourceFile, source_files
from finstill.errors import InputError

ROWS_LOOKED_AT = 1000

SENTIMENTS = {"positive", "negative", "neutral"}


@dataclass(frozen=True)
class Look:
    """What a file looks like.

    Attributes:
        path: the file; within a zip, the zip's path and the member's.
        kind: what it holds.
        encoding: of a text file.
        delimiter: of a delimited file; None where it has one column.
        header: whether the first row names the columns.
        columns: names of the columns; `column1`, ... where the file names none.
        rows: the first rows, values as text, None where a row has none.
        nested: columns that hold lists or objects.
    """

    path: Path
    kind: Kind
    encoding: str
    delimiter: str | None
    header: bool
    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    nested: frozenset[str] = frozenset()

    def values(self, column: str) -> list[str]:
        """Return the values of a column in the rows looked at, those that are missing left out."""
        position = self.columns.index(column)
        return [value for row in self.rows if (value := row[position]) not in (None, "")]


def look(path: Path, member: str | None = None) -> Look:
    """Return what the file `path`, or a member of the zip `path`, looks like from its first megabyte.

    Raises:
        NoTableError: it is empty, or JSON that holds no rows.
        InputError: there is no such file, it cannot be read, it has no row or no line break in its first megabyte, or
            no reader knows it.
    """
    if not path.is_file():
        raise InputError("there is no such file", where=path)
    file = SourceFile(member or path.name, path, member)
    path = path / member if member else path
    kind = kind_of(path.name)
    if kind is None:
        raise InputError("no reader knows a file with this ending", where=path)
    if kind in ("parquet", "json", "jsonl"):
        return _look_at_objects(file, path, kind)
    start = _start(file)
    if not start:
        raise NoTableError("the file is empty", str(path), empty=True)
    encoding = guess_encoding(start)
    text = start.decode(encoding, errors="replace")
    if len(start) == BYTES_LOOKED_AT:
        ended = max(text.rfind("\n"), text.rfind("\r")) + 1
        if not ended:
            raise InputError("its first megabyte has no line break", where=path, remedy="Write each row on a line")
        text = text[:ended]
    csv.field_size_limit(sys.maxsize)
    delimiter = _guess_delimiter(text, kind)
    if delimiter is None:
        lines = [line for line in text.splitlines() if line.strip()][:ROWS_LOOKED_AT]
        if not lines:
            raise InputError("the file has no row", where=path)
        header = kind == "delimited"
        columns = [lines[0].strip() if header else "text"]
        return Look(path, kind, encoding, None, header, columns, [[line] for line in lines[header:]])
    rows = _rows(text, delimiter, ROWS_LOOKED_AT)
    header = _has_header(rows)
    names = [name.strip() for name in rows[0]] if header else [f"column{i}" for i, _ in enumerate(rows[0], start=1)]
    body = [row for row in rows[header:] if len(row) == len(names)]
    return Look(path, kind, encoding, delimiter, header, names, body)


def guess_encoding(start: bytes) -> str:
    """Return the encoding of a text file by its first bytes: UTF-8 or UTF-16 where it can be, else Windows-1252."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        # The last character may be cut in two.
        codecs.getincrementaldecoder("utf-8-sig")().decode(start)
        return "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"
    except UnicodeDecodeError:
        pass
    try:
        start.decode("windows-1252")
        return "windows-1252"
    except UnicodeDecodeError:
        return "iso-8859-1"


def files_of(path: Path) -> list[SourceFile]:
    """Return the files of a file, folder or zip that a corpus could be read from, sorted by name.

    Raises:
        InputError: a folder or zip cannot be read, or holds no file that a reader knows.
    """
    if path.is_file() and path.suffix.lower() != ".zip":
        return [SourceFile(path.name, path)]
    # With columns, text files are listed beside tables too.
    return source_files(CorpusSource(path=str(path), columns=("text",)))


def first_table(files: Sequence[SourceFile]) -> tuple[SourceFile, Look] | None:
    """Return the first of some files that holds rows, and what it looks like; text files go last.

    Raises:
        InputError: as `look` does; a file of a folder or zip that holds no rows is passed over.
    """
    for file in sorted(files, key=lambda file: kind_of(file.name) == "lines"):
        try:
            return file, look(file.path, file.member)
        except NoTableError:
            if not file.found:
                raise
    return None


def recognise(files: Sequence[SourceFile]) -> str | None:
    """Return the name of the known data set that files hold as it is published, or None.

    Of a folder or zip, it is the first file that is named as the data set's are which says so.

    Raises:
        InputError: as `look` does.
    """
    if not files[0].found:
        return _holds(files[0], look(files[0].path))
    for name, known in KNOWN.items():
        named = [file for file in files if fnmatch.fnmatch(_name(file), known.files)]
        if (first := first_table(named)) and _holds(*first) == name:
            return name
    return None


def _holds(file: SourceFile, seen: Look) -> str | None:
    """Return the name of the known data set that a file holds, or None."""
    if seen.kind == "lines":
        lines = [line.strip() for line in _start(file).decode("iso-8859-1").splitlines()[:100] if line.strip()]
        labelled = [line.rpartition("@")[2] in SENTIMENTS for line in lines]
        return "financial_phrasebank" if labelled and all(labelled[:-1] or labelled) else None
    if {"Title", "Decisions"} <= set(seen.columns):
        return "sentfin"
    if seen.kind == "json" and {"sentence", "info"} <= set(seen.columns):
        return "fiqa"
    if seen.kind == "delimited" and not seen.header and len(seen.columns) == 2:
        # Anyone's rows may look like it: the name has to say so too.
        labels, kaggle = {row[0] for row in seen.rows}, "financial_phrasebank_kaggle"
        return kaggle if labels <= SENTIMENTS and _name(file) == KNOWN[kaggle].files else None
    if _name(file).startswith("sent_") and {"text", "label"} <= set(seen.columns):
        return "twitter_financial_news" if set(seen.values("label")) <= {"0", "1", "2"} else None
    return None


def _name(file: SourceFile) -> str:
    return PurePosixPath(file.name).name


def _start(file: SourceFile) -> bytes:
    with reading(file.name, Form()), file.open() as raw:
        return decompressed(raw, file.name).read(BYTES_LOOKED_AT)


def _look_at_objects(file: SourceFile, path: Path, kind: Kind) -> Look:
    with reading(str(path), Form()), file.open() as raw:
        stream = decompressed(raw, path.name)
        if kind == "parquet":
            batch, names = next(parquet_batches(stream, path.name, Form(), [], everything=True), (None, {}))
            if batch is None:
                raise InputError("the file has no row", where=path)
            columns = list(batch.schema.names)
            values = [batch.column(column).slice(0, ROWS_LOOKED_AT).to_pylist() for column in columns]
            for i, column in enumerate(columns):
                if classes := names.get(column):
                    values[i] = [classes[v] if v is not None and 0 <= v < len(classes) else None for v in values[i]]
            rows = list(zip(*values, strict=True))
        else:
            reader = json_lines if kind == "jsonl" else json_rows
            records = list(itertools.islice(reader(stream, path.name, Form(), []), ROWS_LOOKED_AT))
            found = [record.content for record in records if record.fault is None]
            columns = list(dict.fromkeys(key for each in found for key in each))
            rows = [tuple(each.get(column) for column in columns) for each in found]
    if not rows:
        raise InputError("the file has no row", where=path)
    nested = frozenset(
        column for i, column in enumerate(columns) if any(isinstance(row[i], (list, dict)) for row in rows)
    )
    return Look(path, kind, "utf-8", None, True, columns, [tuple(map(_as_text, row)) for row in rows], nested)


def _as_text(value: object) -> str | None:
    return None if value is None or value != value else str(value)


def _rows(text: str, delimiter: str, count: int) -> list[list[str]]:
    """Return the first rows of a delimited text, blank lines among so many left out; its lines end in any way."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [row for row in itertools.islice(reader, count) if row]


def _guess_delimiter(text: str, kind: Kind) -> str | None:
    """Return the delimiter by which most rows have the same number of columns, more than one; None where none does."""
    best, most = None, 0.0
    for delimiter in DELIMITERS:
        if delimiter == "@" and kind != "lines":
            continue
        rows = _rows(text, delimiter, 100)
        (count, times), *_ = Counter(len(row) for row in rows).most_common(1) or [(1, 0)]
        share = times / max(len(rows), 1)
        if count > 1 and share > 0.8 and share > most:
            best, most = delimiter, share
    return best


def _has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row names columns: its cells are short, distinct, no numbers, and not values."""
    first, body = [cell.strip() for cell in rows[0]], rows[1:]
    if len(set(first)) < len(first) or not all(first):
        # pandas leaves the name of its index empty.
        return len(set(first)) == len(first) and bool(body) and first[0] == ""
    if any(cell.replace(".", "", 1).lstrip("-").isdigit() or len(cell) > 40 for cell in first):
        return False
    values = [{row[i].strip().casefold() for row in body if len(row) > i} for i in range(len(first))]
    return not any(cell.casefold() in seen for cell, seen in zip(first, values, strict=True))
