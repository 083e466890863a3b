"""The rows of a corpus's source: files, folders and zips of them, and Hugging Face data sets."""

from __future__ import annotations

import fnmatch
import importlib.resources
import io
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast
from urllib.parse import unquote

import pyarrow as pa

from finstill.config.known import KNOWN
from finstill.config.profile import EMBEDDED, CorpusSource
from finstill.corpus.columns import ROLES, array_of, batch_of_columns, canonical_label, row_of
from finstill.corpus.readers import (
    BYTES_LOOKED_AT,
    COMPRESSED,
    KINDS,
    Delimited,
    Form,
    NoTableError,
    Record,
    decompressed,
    json_lines,
    json_rows,
    kind_of,
    parquet_batches,
    parquet_records,
    reading,
    text_lines,
)
from finstill.corpus.rows import Row, batch_of, batches_of, in_batches, rows_of
from finstill.errors import InputError, UnreachableError

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

NOTES = ("changelog", "citation", "copying", "licence", "license", "notice", "readme")
"""How text files are called, without their endings, that data sets have beside their tables."""


@dataclass(frozen=True)
class SourceFile:
    """A file with rows.

    Attributes:
        name: path within the source's folder or zip, as messages call it.
        path: of the file on disk, or of the zip that holds it.
        member: name within the zip, or None.
        folders: values of columns that folders are named after, as `split=train/`.
        found: whether it was found in a folder or zip, and not named by the profile.
    """

    name: str
    path: Path
    member: str | None = None
    folders: Mapping[str, str | None] = field(default_factory=dict)
    found: bool = False

    def open(self) -> BinaryIO:
        if self.member is None:
            return self.path.open("rb", buffering=BYTES_LOOKED_AT)
        try:
            with zipfile.ZipFile(self.path) as archive:
                # In memory: a Parquet file is not read in one direction.
                return io.BytesIO(archive.read(self.member))
        except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            # A member that is encrypted is a RuntimeError, and so is one of an unknown compression.
            raise InputError(f"it cannot be read from {self.path.name}: {error}", where=self.name) from error


@dataclass
class SourceReport:
    """What was understood of a source.

    Attributes:
        files: for each file that was read its name and how: encoding, delimiter and columns, as far as it has them.
        empty: names of files without content, which were passed over.
        unknown: names of other files that were passed over.
        reasons: why, for those of `unknown` that a reader knows.
    """

    files: list[dict[str, str]] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def pass_over(self, name: str, reason: str) -> None:
        self.unknown.append(name)
        self.reasons[name] = reason


def read_rows(source: CorpusSource, report: SourceReport | None = None) -> Iterator[Row]:
    """Yield the rows of `source` one by one, as `read_batches` reads them."""
    for batch in read_batches(source, report):
        yield from rows_of(batch)


def read_batches(source: CorpusSource, report: SourceReport | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `source` in the order they stand, `ROWS_SCHEMA`; a row that cannot be read has a fault.

    Args:
        report: is told what was understood.

    Raises:
        InputError: a file, column or data set is missing, or a file cannot be read at all; names the file.
    """
    report = SourceReport() if report is None else report
    if source.hub is not None:
        yield from batches_of(_read_hub(source, report))
        return
    for file in source_files(source, report):
        yield from read_file(file, source, report)


def read_file(file: SourceFile, source: CorpusSource, report: SourceReport) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one of the files of `source`, as `read_batches` does."""
    try:
        yield from _read_file(file, source, report)
    except NoTableError as error:
        if not file.found:
            raise
        # Data sets have notes in JSON beside them, and writers leave empty files compressed.
        report.files.pop()
        if error.empty:
            report.empty.append(file.name)
        else:
            report.pass_over(file.name, "it holds no rows")


def source_files(source: CorpusSource, report: SourceReport | None = None) -> list[SourceFile]:
    """Return the files of a `path` source, sorted by name.

    In a folder or a zip, files and folders whose name begins with `.` or `_` are passed over, and so are empty files
    and files that no reader knows. So are text files beside tables, where the profile names columns that their lines
    do not have, or where they are called as notes are. `report` is told of all but the first.

    Raises:
        InputError: the path does not exist, holds no file of a known kind, or holds text files beside tables that may
            be texts as well as notes.
    """
    report = SourceReport() if report is None else report
    if source.path == EMBEDDED:
        path = Path(str(importlib.resources.files("finstill.data") / "corpus.jsonl"))
        return [SourceFile(path.name, path)]
    paths = [Path(source.path)] if isinstance(source.path, str) else [Path(each) for each in source.path or ()]
    pattern = KNOWN[source.known].files if source.known else "*"
    if len(paths) == 1:
        return _files_of(paths[0], pattern, source, report)
    # Two folders may hold files of the same name.
    base = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    return [
        replace(file, name=(path.absolute().relative_to(base) / (file.name if file.found else "")).as_posix())
        for path in paths
        for file in _files_of(path, pattern, source, report)
    ]


def is_readable(name: str) -> bool:
    """Return whether a dropped file would be read as rows; `name` is its path within the drop."""
    return kind_of(name) is not None and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Return whether a file is passed over since its name, or that of a folder on its path, begins with `.` or `_`."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _files_of(path: Path, pattern: str, source: CorpusSource, report: SourceReport) -> list[SourceFile]:
    """Return the files of one of the paths of `source`."""
    if not path.exists():
        remedy = f"Set {source.section}.path in the profile"
        raise InputError("there is no such file or folder", where=path, remedy=remedy)
    if path.is_file() and path.suffix.lower() != ".zip":
        if kind_of(path.name) is None:
            raise _no_known_file(path, source, [path.name])
        if not path.stat().st_size:
            raise InputError("the file is empty", where=path.name)
        return [SourceFile(path.name, path)]
    found: list[SourceFile] = []
    before = len(report.unknown)
    for name, member, size, on_disk in sorted(_listing(path)):
        parts = PurePosixPath(name).parts
        if is_hidden(name):
            continue
        if kind_of(name) is None:
            report.unknown.append(name)
        elif not size:
            report.empty.append(name)
        elif fnmatch.fnmatch(parts[-1], pattern):
            found.append(SourceFile(name, on_disk, member, _folder_columns(parts[:-1]), found=True))
        else:
            report.pass_over(name, f"the data set's files are named {pattern}")
    if not found:
        raise _no_known_file(path, source, report.unknown[before:], pattern)
    divided = source.delimiter is not None or source.columns is not None
    tables = [file for file in found if divided or kind_of(file.name) != "lines"]
    if not tables or len(tables) == len(found):
        return found
    for file in found:
        if kind_of(file.name) != "lines":
            continue
        others = sorted({*_roles(source).values()} - {source.text, *file.folders})
        if not others and PurePosixPath(file.name).name.split(".")[0].casefold() not in NOTES:
            raise InputError(
                "this text file stands beside tables: it may hold a text a line, or notes",
                where=path / file.name,
                remedy="Move text files with texts to a folder of their own, and list both folders in "
                f"{source.section}.path; begin the names of notes with _",
            )
        report.pass_over(file.name, f"a text file has no column {others}" if others else "it is called as notes are")
    return tables


def _folder_columns(folders: Sequence[str]) -> dict[str, str | None]:
    """Return the columns that folders are named after, as Apache Hive writes them: escaped, with a name for null."""
    pairs = [folder.split("=", 1) for folder in folders if "=" in folder]
    return {unquote(key): None if value == HIVE_NULL else unquote(value) for key, value in pairs}


def _listing(path: Path) -> Iterator[tuple[str, str | None, int, Path]]:
    """Yield name within, name of the zip's member or None, size and file on disk of each file of a folder or zip."""
    if path.is_dir():
        for file in path.rglob("*"):
            if file.is_file():
                yield file.relative_to(path).as_posix(), None, file.stat().st_size, file
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield info.filename, info.filename, info.file_size, path
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"not readable as zip: {error}", where=path.name) from error


def _no_known_file(path: Path, source: CorpusSource, present: Sequence[str], pattern: str = "*") -> InputError:
    wanted = f"named {pattern}" if pattern != "*" else f"that ends in {', '.join(KINDS)} (or {', '.join(COMPRESSED)})"
    there = f"; there are {list(present[:5])}" if present else ""
    return InputError(f"no file {wanted}{there}", where=path, remedy=f"Set {source.section}.path in the profile")


def _read_file(file: SourceFile, source: CorpusSource, report: SourceReport) -> Iterator[pa.RecordBatch]:
    known = KNOWN.get(source.known or "")
    form = Form(
        source.encoding, source.delimiter, source.columns, known.quotes if known else True, f"{source.section}."
    )
    kind = kind_of(file.name)
    wanted = list(dict.fromkeys(column for column in _roles(source).values() if column not in file.folders))
    understood = {"file": file.name}
    report.files.append(understood)
    with reading(file.name, form), file.open() as raw:
        stream = decompressed(raw, file.name)
        records: Iterator[Record]
        if kind == "delimited" or (kind == "lines" and (form.delimiter is not None or form.columns is not None)):
            table = Delimited(stream, file.name, form, wanted)
            understood |= {"encoding": form.encoding or "utf-8", "delimiter": repr(table.delimiter)}
            understood["columns"] = ", ".join(table.header)
            records = iter(table)
        elif kind == "lines":
            if others := [column for column in wanted if column != source.text]:
                raise InputError(
                    f"a text file holds a text a line, and no column {others}",
                    where=file.name,
                    remedy=f"Write {source.section}.delimiter where its lines have columns",
                )
            understood |= {"encoding": form.encoding or "utf-8", "read as": "a text a line"}
            records = text_lines(stream, file.name, form)
        elif kind == "parquet":
            yield from _parquet(stream, file, form, wanted, source)
            return
        else:
            records = (json_lines if kind == "jsonl" else json_rows)(stream, file.name, form, wanted)
        for some in in_batches(records):
            batch = None
            if wanted and not any(record.fault for record in some):
                columns = dict(
                    zip(wanted, map(array_of, zip(*(record.values for record in some), strict=True)), strict=True)
                )
                batch = _whole(file, source, columns, [record.number for record in some])
            yield batch or _one_by_one(file, source, wanted, some)


def _parquet(
    stream: BinaryIO, file: SourceFile, form: Form, wanted: Sequence[str], source: CorpusSource
) -> Iterator[pa.RecordBatch]:
    # A profile may map the numbers of class labels that the file also names.
    mapped = any((canonical_label(given) or "").isdigit() for given in source.label_names)
    numbered = [source.label] if mapped and source.label else []
    before = 0
    for batch, names in parquet_batches(stream, file.name, form, wanted):
        numbers = range(before + 1, before + 1 + batch.num_rows)
        read = None
        # Class labels are looked at one by one.
        if not names.keys() & set(wanted):
            read = _whole(file, source, {column: batch[column] for column in wanted}, numbers)
        yield read or _one_by_one(file, source, wanted, parquet_records(batch, names, wanted, before, numbered))
        before += batch.num_rows


def _whole(
    file: SourceFile, source: CorpusSource, columns: Mapping[str, pa.Array | None], numbers: Sequence[int]
) -> pa.RecordBatch | None:
    """Return rows of a file by its columns, or None where some have to be looked at one by one."""
    by_role = {
        role: pa.array([file.folders[column]] * len(numbers), pa.string())
        if column in file.folders
        else columns[column]
        for role, column in _roles(source).items()
    }
    return batch_of_columns(file.name, pa.array(numbers, pa.int64()), by_role, source)


def _one_by_one(
    file: SourceFile, source: CorpusSource, wanted: Sequence[str], records: Iterable[Record]
) -> pa.RecordBatch:
    at = {column: position for position, column in enumerate(wanted)}
    rows = []
    for record in records:
        values = {}
        if record.fault is None:
            values = {
                role: file.folders[column] if column in file.folders else record.values[at[column]]
                for role, column in _roles(source).items()
            }
        rows.append(row_of(file.name, record.number, values, source, record.fault, record.content))
    return batch_of(rows)


def _roles(source: CorpusSource) -> dict[str, str]:
    """Return the column of each role that the source has one for; a split by date is none."""
    return {role: column for role in ROLES if isinstance(column := getattr(source, role), str)}


def _read_hub(source: CorpusSource, report: SourceReport) -> Iterator[Row]:
    import datasets

    name = cast(str, source.hub)
    try:
        data = datasets.load_dataset(name, source.hub_config, revision=source.hub_revision)
    except (datasets.exceptions.DatasetsError, OSError, RuntimeError, ValueError) as error:
        # A file that cannot be read is the cause of an error that says only that there was one.
        told = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else error
        message = next(iter(str(told).strip().splitlines()), type(error).__name__)
        if "scripts are no longer supported" in message:
            raise _script_data_set(name, source, message) from error
        if "Config name is missing" in str(error):
            raise InputError(message, where=name, remedy=f"Write {source.section}.hub_config, one of those") from error
        kind = UnreachableError if isinstance(error, ConnectionError) else InputError
        raise kind(
            f"the data set cannot be loaded ({type(error).__name__}: {message})",
            where=name,
            remedy=f"Check the name and the connection, or download it and give its folder as {source.section}.path",
        ) from error
    roles = _roles(source)
    for split, rows in data.items():
        place = f"{name} ({split})"
        report.files.append({"file": place, "columns": ", ".join(rows.column_names)})
        for column in roles.values():
            if column not in rows.column_names:
                raise InputError(
                    f"there is no column '{column}'; the columns are {rows.column_names}",
                    where=place,
                    remedy=f"Set the column names under `{source.section}` in the profile",
                )
        # The hub stores labels as numbers and their names beside them.
        names = rows.features[source.label] if source.label else None
        for number, values in enumerate(rows, start=1):
            by_role = {role: values[column] for role, column in roles.items()}
            if isinstance(names, datasets.ClassLabel):
                label = by_role["label"]
                by_role["label"] = names.int2str(label) if label is not None and label >= 0 else None
            row = row_of(place, number, by_role, source, None, values)
            yield row if source.split else row._replace(split=str(split) if len(data) > 1 else None)


def _script_data_set(name: str, source: CorpusSource, message: str) -> InputError:
    remedy = f"Download its files and give them as {source.section}.path"
    if "phrasebank" in name.lower():
        remedy = (
            f"Download Financial PhraseBank's zip and write `{source.section}: {{path: FinancialPhraseBank-v1.0.zip, "
            "known: financial_phrasebank}`"
        )
    return InputError(
        f"it is a data set with a loading script, which the library datasets no longer runs ({message})",
        where=name,
        remedy=remedy,
    )
