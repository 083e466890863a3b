"""Reading rows from CSV, JSONL and Parquet files, folders of them, and Hugging Face data sets."""

from __future__ import annotations

import csv
import importlib.resources
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from finstill.errors import InputError, UnreachableError
from finstill.profile import EMBEDDED, CorpusSource

ROLES = ("text", "label", "date", "id", "split")


class Row(NamedTuple):
    """One row as the source holds it, values as text or None."""

    source: str
    number: int
    text: str | None
    label: str | None
    date: str | None
    id: str | None
    split: str | None


def read_rows(source: CorpusSource) -> Iterator[Row]:
    """Yield the rows of `source` in the order they stand, one record batch in memory at a time.

    Raises:
        InputError: a file, column or data set is missing, or a row cannot be read; names the file and row.
    """
    if source.hub is not None:
        yield from _read_hub(source)
        return
    for file in source_files(source):
        reader = _READERS[file.suffix.lower()]
        for number, values in enumerate(reader(file, _columns(source)), start=1):
            yield _row(file.name, number, values, source)


def source_files(source: CorpusSource) -> list[Path]:
    """Return the files of a `path` source, sorted by name.

    Raises:
        InputError: the path does not exist, or holds no file of a known kind.
    """
    if source.path == EMBEDDED:
        return [Path(str(importlib.resources.files("finstill.data") / "corpus.jsonl"))]
    path = Path(str(source.path))
    if not path.exists():
        raise InputError("there is no such file or folder", where=path, remedy="Set corpus.path in the profile")
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    files = sorted(file for file in found if is_readable(file.name))
    if not files:
        raise InputError(f"no file that ends in {', '.join(_READERS)}", where=path)
    return files


def is_readable(name: str) -> bool:
    """Return whether a file of this name is read as rows: hidden files and those of other kinds are passed over."""
    return Path(name).suffix.lower() in _READERS and not name.startswith(".")


def _columns(source: CorpusSource) -> list[str]:
    return list(dict.fromkeys(column for role in ROLES if (column := getattr(source, role)) is not None))


def _row(name: str, number: int, values: dict[str, Any], source: CorpusSource) -> Row:
    """Return the row whose columns are `values`, each value as UTF-8 text or None."""

    def cell(role: str) -> str | None:
        column = getattr(source, role)
        value = values.get(column) if column is not None else None
        if isinstance(value, bytes):
            try:
                return value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"column '{column}' is not valid UTF-8: byte {error.start} is 0x{value[error.start]:02x}",
                    where=name,
                    row=number,
                    remedy="Convert the file to UTF-8, as `iconv -f WINDOWS-1252 -t UTF-8` does",
                ) from error
        if value is None or isinstance(value, str):
            return value
        if role == "text":
            raise InputError(
                f"column '{column}' holds {type(value).__name__}, text was expected", where=name, row=number
            )
        return str(value)

    return Row(name, number, *(cell(role) for role in ROLES))


def _require_columns(wanted: list[str], present: list[str], where: str | Path) -> None:
    for column in wanted:
        if column not in present:
            raise InputError(
                f"there is no column '{column}'; the columns are {present}",
                where=where,
                remedy="Set the column names under `corpus` in the profile",
            )


def _read_csv(file: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    # What the handler raises, Arrow swallows: it notes the row, and the reading below raises.
    malformed: list[pyarrow.csv.InvalidRow] = []

    def note(row: pyarrow.csv.InvalidRow) -> str:
        malformed.append(row)
        return "error"

    with file.open("r", encoding="utf-8-sig", errors="replace", newline="") as lines:
        header = next(csv.reader(lines), None)
    if not header:
        raise InputError("the file is empty", where=file.name)
    _require_columns(columns, header, file.name)
    # One thread, so that a malformed row knows its number; bytes, so that bad UTF-8 is found row by row.
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note)
    read = pyarrow.csv.ReadOptions(use_threads=False)
    convert = pyarrow.csv.ConvertOptions(
        column_types={column: pa.binary() for column in columns},
        include_columns=columns,
        strings_can_be_null=True,
        null_values=[""],
        quoted_strings_can_be_null=True,
    )
    try:
        with pyarrow.csv.open_csv(file, read_options=read, parse_options=parse, convert_options=convert) as batches:
            for batch in batches:
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        if not malformed:
            raise InputError(f"not readable as CSV: {error}", where=file.name) from error
        row = malformed[0]
        raise InputError(
            f"{row.actual_columns} fields, {row.expected_columns} were expected",
            where=file.name,
            row=None if row.number is None else row.number - 1,
            remedy="Put a text that holds a comma in double quotes",
        ) from error


def _read_jsonl(file: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise InputError(
                    f"not valid UTF-8: byte {error.start} is 0x{line[error.start]:02x}", where=file.name, row=number
                ) from error
            except json.JSONDecodeError as error:
                raise InputError(f"not a JSON object: {error}", where=file.name, row=number) from error
            if not isinstance(values, dict):
                raise InputError(f"a JSON object was expected, not {line[:40]!r}", where=file.name, row=number)
            if number == 1:
                _require_columns(columns, list(values), file.name)
            yield values


def _read_parquet(file: Path, columns: list[str]) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(file) as parquet:
            _require_columns(columns, parquet.schema_arrow.names, file.name)
            for batch in parquet.iter_batches(columns=columns):
                # Strings as bytes: Arrow does not check UTF-8, and a bad one should be named by its row.
                for i, field in enumerate(batch.schema):
                    if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
                        batch = batch.set_column(i, field.name, batch.column(i).cast(pa.large_binary()))
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise InputError(f"not readable as Parquet: {error}", where=file.name) from error


_READERS: dict[str, Callable[[Path, list[str]], Iterator[dict[str, Any]]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _read_hub(source: CorpusSource) -> Iterator[Row]:
    import datasets

    try:
        data = datasets.load_dataset(source.hub)
    except (ConnectionError, OSError, ValueError) as error:
        kind = UnreachableError if isinstance(error, ConnectionError) else InputError
        raise kind(
            f"the data set cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0]})",
            where=source.hub,
            remedy="Check the name and the connection, or download it and give its folder as corpus.path",
        ) from error
    for split, rows in data.items():
        _require_columns(_columns(source), rows.column_names, f"{source.hub} ({split})")
        features = rows.features
        for number, values in enumerate(rows, start=1):
            # The hub stores labels as numbers and their names beside them.
            if source.label and isinstance(features[source.label], datasets.ClassLabel):
                label = values[source.label]
                values[source.label] = features[source.label].int2str(label) if label >= 0 else None
            row = _row(f"{source.hub} ({split})", number, values, source)
            yield row if source.split else row._replace(split=str(split) if len(data) > 1 else None)
