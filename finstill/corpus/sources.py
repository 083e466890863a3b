"""The rows of a corpus's source: files, folders and zips of them, and Hugging Face data sets."""

from __future__ import annotations

import fnmatch
import html
import importlib.resources
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.parse import unquote

from finstill.config.known import KNOWN
from finstill.config.profile import EMBEDDED, CorpusSource
from finstill.corpus.readers import (
    BYTES_LOOKED_AT,
    COMPRESSED,
    KINDS,
    Delimited,
    Fault,
    Form,
    NoTableError,
    Record,
    decompressed,
    json_lines,
    json_rows,
    kind_of,
    parquet_rows,
    reading,
    text_fault,
    text_lines,
)
from finstill.errors import InputError, UnreachableError

ROLES = ("text", "label", "date", "id", "split")

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

NO_LABEL_WORDS = {"", "nan", "null"}
"""What stands for no label in files, unless the task or `label_names` knows it."""


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
        unknown: names of files that no reader knows, or that hold no rows, which were passed over.
    """

    files: list[dict[str, str]] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def read_rows(source: CorpusSource, report: SourceReport | None = None) -> Iterator[Row]:
    """Yield the rows of `source` in the order they stand; a row that cannot be read comes with a fault.

    Args:
        report: is told what was understood.

    Raises:
        InputError: a file, column or data set is missing, or a file cannot be read at all; names the file.
    """
    report = SourceReport() if report is None else report
    if source.hub is not None:
        yield from _read_hub(source, report)
        return
    for file in source_files(source, report):
        try:
            yield from _read_file(file, source, report)
        except NoTableError as error:
            if not file.found:
                raise
            # Data sets have notes in JSON beside them, and writers leave empty files compressed.
            report.files.pop()
            (report.empty if error.empty else report.unknown).append(file.name)


def source_files(source: CorpusSource, report: SourceReport | None = None) -> list[SourceFile]:
    """Return the files of a `path` source, sorted by name.

    In a folder or a zip, files and folders whose name begins with `.` or `_` are passed over, and so are empty files
    and files that no reader knows; `report` is told of the last two.

    Raises:
        InputError: the path does not exist, or holds no file of a known kind.
    """
    report = SourceReport() if report is None else report
    if source.path == EMBEDDED:
        path = Path(str(importlib.resources.files("finstill.data") / "corpus.jsonl"))
        return [SourceFile(path.name, path)]
    paths = [Path(source.path)] if isinstance(source.path, str) else [Path(each) for each in source.path or ()]
    pattern = KNOWN[source.known].files if source.known else "*"
    divided = source.delimiter is not None or source.columns is not None
    if len(paths) == 1:
        return _files_of(paths[0], pattern, divided, report)
    # Two folders may hold files of the same name.
    base = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    return [
        replace(file, name=(path.absolute().relative_to(base) / (file.name if file.found else "")).as_posix())
        for path in paths
        for file in _files_of(path, pattern, divided, report)
    ]


def is_readable(name: str) -> bool:
    """Return whether a dropped file of this name would be read as rows."""
    return kind_of(name) is not None and not name.startswith((".", "_"))


def _files_of(path: Path, pattern: str, divided: bool, report: SourceReport) -> list[SourceFile]:
    """Return the files of one path; `divided` says that text files have columns."""
    if not path.exists():
        raise InputError("there is no such file or folder", where=path, remedy="Set corpus.path in the profile")
    if path.is_file() and path.suffix.lower() != ".zip":
        if kind_of(path.name) is None:
            raise _no_known_file(path, [path.name])
        if not path.stat().st_size:
            raise InputError("the file is empty", where=path.name)
        return [SourceFile(path.name, path)]
    found, unknown = [], []
    for name, member, size, file in sorted(_listing(path)):
        parts = PurePosixPath(name).parts
        if any(part.startswith((".", "_")) for part in parts):
            continue
        if kind_of(name) is None:
            unknown.append(name)
        elif not size:
            report.empty.append(name)
        elif fnmatch.fnmatch(parts[-1], pattern):
            found.append(SourceFile(name, file, member, _folder_columns(parts[:-1]), found=True))
        else:
            unknown.append(name)
    if not divided and any(kind_of(file.name) != "lines" for file in found):
        # Notes beside a table are no texts of the corpus.
        unknown += [file.name for file in found if kind_of(file.name) == "lines"]
        found = [file for file in found if kind_of(file.name) != "lines"]
    report.unknown += unknown
    if not found:
        raise _no_known_file(path, unknown, pattern)
    return found


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
    except zipfile.BadZipFile as error:
        raise InputError(f"not readable as zip: {error}", where=path.name) from error


def _no_known_file(path: Path, present: Sequence[str], pattern: str = "*") -> InputError:
    wanted = f"named {pattern}" if pattern != "*" else f"that ends in {', '.join(KINDS)} (or {', '.join(COMPRESSED)})"
    there = f"; there are {list(present[:5])}" if present else ""
    return InputError(f"no file {wanted}{there}", where=path, remedy="Set corpus.path in the profile")


def _read_file(file: SourceFile, source: CorpusSource, report: SourceReport) -> Iterator[Row]:
    known = KNOWN.get(source.known or "")
    form = Form(source.encoding, source.delimiter, source.columns, known.quotes if known else True)
    kind = kind_of(file.name)
    roles = {role: column for role in ROLES if isinstance(column := getattr(source, role), str)}
    wanted = list(dict.fromkeys(column for column in roles.values() if column not in file.folders))
    understood = {"file": file.name}
    report.files.append(understood)
    with file.open() as raw, reading(file.name, form):
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
                    remedy="Write corpus.delimiter where its lines have columns",
                )
            understood |= {"encoding": form.encoding or "utf-8", "read as": "a text a line"}
            records = text_lines(stream, file.name, form)
        elif kind == "parquet":
            # A profile may map the numbers of class labels that the file also names.
            mapped = any((canonical_label(given) or "").isdigit() for given in source.label_names)
            records = parquet_rows(stream, file.name, form, wanted, [source.label] if mapped and source.label else [])
        else:
            records = (json_lines if kind == "jsonl" else json_rows)(stream, file.name, form, wanted)
        at = {column: position for position, column in enumerate(wanted)}
        for record in records:
            values = (
                {
                    role: file.folders[column] if column in file.folders else record.values[at[column]]
                    for role, column in roles.items()
                }
                if record.fault is None
                else {}
            )
            yield _row(file.name, record.number, values, source, record.fault, record.content)


def _row(
    name: str, number: int, values: Mapping[str, Any], source: CorpusSource, fault: Fault | None, content: Any
) -> Row:
    """Return the row with these values by role, each as text or None."""
    if fault is not None:
        held = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)
        return Row(name, number, _writable(held), None, None, None, None, fault)
    for role in ROLES[1:]:
        value = values.get(role)
        if isinstance(value, str) and not value.isascii() and (half := text_fault(value)):
            reason = f"column '{getattr(source, role)}': {half.reason}"
            held = _writable(str(values.get("text")))
            return Row(name, number, held, None, None, None, None, Fault(reason, half.remedy))
    text, label = values.get("text"), values.get("label")
    if text is not None and not isinstance(text, str):
        # A number that is not one is how pandas writes a missing text.
        if isinstance(text, float) and text != text:
            text = None
        else:
            wrong = Fault(f"column '{source.text}' holds {type(text).__name__}, text was expected")
            return Row(name, number, _writable(str(text)), None, None, None, None, wrong)
    if text is not None:
        if wrong_text := text_fault(text) if not text.isascii() else None:
            return Row(name, number, _writable(text), None, None, None, None, wrong_text)
        if source.unescape:
            text = html.unescape(text)
    try:
        given = _label(label, source)
    except ValueError as error:
        return Row(name, number, text, None, None, None, None, Fault(str(error)))
    date, key, split = (None if (value := values.get(role)) is None else str(value) for role in ROLES[2:])
    return Row(name, number, text, given, date, key, split)


def _writable(text: str) -> str:
    """Return a text as it can be written as UTF-8: a lone surrogate as its number."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _label(value: Any, source: CorpusSource) -> str | None:
    """Return the label of a row as the source calls it; None where it has none, or its targets disagree.

    Raises:
        ValueError: the label is no number where a score was expected, or cannot be read as the data set writes it.
    """
    known = KNOWN.get(source.known or "")
    if known is None or known.targets is None:
        return _scored(value, source)
    try:
        found = {_scored(each, source) for each in known.targets(value)} if value is not None else set()
    except (KeyError, TypeError, SyntaxError, AttributeError, ValueError) as error:
        raise ValueError(f"column '{source.label}' is not written as {source.known} writes it: {error}") from error
    return found.pop() if len(found) == 1 else None


def _scored(value: Any, source: CorpusSource) -> str | None:
    label = canonical_label(value)
    if label is None or source.thresholds is None or label.casefold() in _no_labels(source):
        return label
    try:
        score = float(label)
    except ValueError as error:
        raise ValueError(f"column '{source.label}' holds '{label}', a score was expected") from error
    low, high = source.thresholds
    return "negative" if score < low else "positive" if score > high else "neutral"


def _no_labels(source: CorpusSource) -> set[str]:
    """Return what stands for no label, folded."""
    return NO_LABEL_WORDS | {given.casefold() for given, name in source.label_names.items() if name is None}


def canonical_label(value: Any) -> str | None:
    """Return a label as text: whole numbers without a fraction, no space around, None for what is missing."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    label = str(value).strip()
    whole, point, fraction = label.partition(".")
    if point and whole.lstrip("-").isdigit() and not fraction.strip("0"):
        return "0" if whole == "-0" else whole
    return label or None


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
            raise _script_data_set(name, message) from error
        if "Config name is missing" in str(error):
            raise InputError(message, where=name, remedy="Write corpus.hub_config, one of those") from error
        kind = UnreachableError if isinstance(error, ConnectionError) else InputError
        raise kind(
            f"the data set cannot be loaded ({type(error).__name__}: {message})",
            where=name,
            remedy="Check the name and the connection, or download it and give its folder as corpus.path",
        ) from error
    roles = {role: column for role in ROLES if isinstance(column := getattr(source, role), str)}
    for split, rows in data.items():
        place = f"{name} ({split})"
        report.files.append({"file": place, "columns": ", ".join(rows.column_names)})
        for column in roles.values():
            if column not in rows.column_names:
                raise InputError(
                    f"there is no column '{column}'; the columns are {rows.column_names}",
                    where=place,
                    remedy="Set the column names under `corpus` in the profile",
                )
        # The hub stores labels as numbers and their names beside them.
        names = rows.features[source.label] if source.label else None
        for number, values in enumerate(rows, start=1):
            by_role = {role: values[column] for role, column in roles.items()}
            if isinstance(names, datasets.ClassLabel):
                label = by_role["label"]
                by_role["label"] = names.int2str(label) if label is not None and label >= 0 else None
            row = _row(place, number, by_role, source, None, values)
            yield row if source.split else row._replace(split=str(split) if len(data) > 1 else None)


def _script_data_set(name: str, message: str) -> InputError:
    remedy = "Download its files and give them as corpus.path"
    if "phrasebank" in name.lower():
        remedy = (
            "Download Financial PhraseBank's zip and write `corpus: {path: FinancialPhraseBank-v1.0.zip, known: "
            "financial_phrasebank}`"
        )
    return InputError(
        f"it is a data set with a loading script, which the library datasets no longer runs ({message})",
        where=name,
        remedy=remedy,
    )
