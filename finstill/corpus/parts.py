"""The rows of each file of a source under their texts' keys: a Parquet file that is kept while the source's file stays.

A night with one new file reads that file alone. The name of what is kept is a digest of the file's path, size and time
of change and of all settings by which it was read, so another setting reads the file again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import finstill
from finstill.config.profile import CorpusSource
from finstill.corpus.ahead import ahead
from finstill.corpus.columns import NO_LABEL_WORDS, canonical_label
from finstill.corpus.readers import Fault
from finstill.corpus.report import BadRows, CorpusReport, read_bad_rows, write_bad_rows
from finstill.corpus.rows import rows_of
from finstill.corpus.sources import SourceFile, read_file
from finstill.corpus.splits import SPLITS, canonical_split, day_of
from finstill.corpus.text import KEY_BYTES, cleaned, normalise
from finstill.errors import InputError
from finstill.files import REPLACED_SECONDS, digest, whole_file
from finstill.progress import progress_logger

logger = logging.getLogger(__name__)

PART_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(KEY_BYTES), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("date", pa.string()),
        pa.field("id", pa.string()),
        pa.field("number", pa.int64(), nullable=False),
    ]
)
"""A usable row: its normalised text with the key, the task's label, the split that was given, and its place."""

REPORT_KEY = b"report"

SET_ASIDE = ".jsonl"
"""How the file ends that holds the rows which were set aside: Parquet takes no value of 100 MB in a footer."""

REPEATED_COLUMNS = ["label", "split", "source"]
"""Those in which a dictionary saves space."""


def read_part(
    file: SourceFile, source: CorpusSource, labels: tuple[str, ...], folder: Path
) -> tuple[Path, CorpusReport]:
    """Return the part of one file in `folder`, read now or kept from before, and what became of the file's rows.

    Raises:
        InputError: the file cannot be read, or one of its rows cannot be used and such rows stop the run.
    """
    path = folder / f"{_identity(file, source, labels)}.parquet"
    if path.is_file():
        os.utime(path)
        report = CorpusReport.from_dict(json.loads(pq.read_metadata(path).metadata[REPORT_KEY]))
        report.set_aside += read_bad_rows(path.with_suffix(SET_ASIDE))
        return path, report
    report = CorpusReport()
    batches = read_file(file, source, report.source)
    by_date = source.split_by_date is not None
    write_part(batches, labels, source.label_names, BadRows.of(source), report, path, by_date=by_date)
    return path, report


def write_part(
    batches: Iterable[pa.RecordBatch],
    labels: tuple[str, ...],
    label_names: Mapping[str, str | None],
    bad_rows: BadRows,
    report: CorpusReport,
    path: Path,
    *,
    by_date: bool = False,
) -> None:
    """Write the usable rows of batches of `ROWS_SCHEMA` under their keys to `path`, whole or not at all.

    The file is of `PART_SCHEMA`, and holds `report` as it is after the last row. The rows that were set aside stand
    beside it as JSONL.

    Args:
        labels: the task's labels; matched without regard to case.
        label_names: the task's label for each label that the source calls otherwise; None for what is no label.
        bad_rows: what becomes of a row that cannot be used.
        report: is told what became of the others.
        by_date: whether dates decide the split: then each must be readable.

    Raises:
        InputError: a row cannot be used, and such rows are not set aside.
    """
    rows = _keyed(
        ahead(_counted(batches)), _label_names(labels, label_names, bad_rows.section), labels, bad_rows, report, by_date
    )
    with whole_file(path) as unfinished, part_writer(unfinished, PART_SCHEMA) as writer:
        for table in ahead(_joined(rows)):
            writer.write_table(table)
        writer.add_key_value_metadata({REPORT_KEY: json.dumps(report.as_dict())})
        write_bad_rows(report.set_aside, path.with_suffix(SET_ASIDE))


def part_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a writer of rows: LZ4 takes as many bytes as pyarrow's own Snappy, and half the time to read."""
    return pq.ParquetWriter(
        path, schema, compression="lz4", use_dictionary=REPEATED_COLUMNS, write_statistics=REPEATED_COLUMNS
    )


def remove_unused(folder: Path) -> None:
    """Remove the parts that no run has read for a day: their files have changed or are gone."""
    for part in folder.glob("*.parquet"):
        if part.stat().st_mtime < time.time() - REPLACED_SECONDS:
            part.unlink(missing_ok=True)
            part.with_suffix(SET_ASIDE).unlink(missing_ok=True)


def _counted(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    advance = progress_logger(logger, "corpus", None, "rows read")
    for batch in batches:
        yield batch
        advance(batch.num_rows)


def _keyed(
    batches: Iterable[pa.RecordBatch],
    names: Mapping[str, str | None],
    labels: tuple[str, ...],
    bad_rows: BadRows,
    report: CorpusReport,
    by_date: bool,
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        report.read += batch.num_rows
        given, label_faults = _mapped(batch["label"], lambda label: _label(label, names, labels, bad_rows.section))
        split, split_faults = _mapped(batch["split"], _split)
        faults = [label_faults, split_faults, *([_mapped(batch["date"], _date)[1]] if by_date else [])]
        read = {name: batch[name] for name in ("text", "source", "date", "id", "number")}
        rows = pa.record_batch(read | {"label": given, "split": split})
        said = pc.coalesce(*faults)
        usable = pc.and_(pc.is_null(batch["fault"]), pc.is_null(said))
        for i in np.flatnonzero(~usable.to_numpy(zero_copy_only=False)).tolist():
            row = next(rows_of(batch[i : i + 1]))
            bad_rows.take(row, row.fault or Fault(*json.loads(said[i].as_py())), report)
        yield _with_keys(_normalised(_without_null(rows.filter(usable), report), report))


def text_keys(texts: pa.StringArray) -> pa.FixedSizeBinaryArray:
    """Return the keys of normalised texts, see `finstill.corpus.text.text_key`."""
    contents = texts.cast(pa.binary()).to_pylist()
    keys = b"".join([hashlib.blake2b(content, digest_size=KEY_BYTES).digest() for content in contents])
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), len(contents), [None, pa.py_buffer(keys)])


def is_plainly_normal(texts: pa.StringArray) -> pa.BooleanArray:
    """Return whether each text is ASCII and in normal form: most are, and this tells without a Python object."""
    return pc.match_substring_regex(texts, r"^[!-~\x7f]+( [!-~\x7f]+)*$")


def place_of(rows: pa.RecordBatch | pa.Table, i: int) -> str:
    """Return how messages call the place of a row with the columns `source` and `number`."""
    return f"{rows['source'][i].as_py()}, row {rows['number'][i].as_py()}"


def _identity(file: SourceFile, source: CorpusSource, labels: tuple[str, ...]) -> str:
    status = file.path.stat()
    settings = source.model_dump_json(exclude={"path", "name", "licence"})
    where = json.dumps([str(file.path), file.member, file.name, file.found, status.st_size, status.st_mtime_ns])
    return digest(finstill.__version__, settings, json.dumps(labels), where)


def _without_null(rows: pa.RecordBatch, report: CorpusReport) -> pa.RecordBatch:
    if rows["text"].null_count:
        missing = rows.filter(pc.is_null(rows["text"]))
        report.count("text is null", len(missing), ((place_of(missing, i), "") for i in range(len(missing))))
        rows = rows.filter(pc.is_valid(rows["text"]))
    return rows


def _normalised(rows: pa.RecordBatch, report: CorpusReport) -> pa.RecordBatch:
    """Return rows with their texts in normal form, without those that are then empty."""
    texts = rows["text"]
    normal = is_plainly_normal(texts).to_numpy(zero_copy_only=False)
    if normal.all():
        return rows
    others = np.flatnonzero(~normal).tolist()
    found = []
    for i, text in zip(others, texts.take(pa.array(others)).to_pylist(), strict=True):
        clean = cleaned(text)
        found.append(normalise(clean))
        if not found[-1]:
            report.count("text is empty", 1, [(place_of(rows, i), text)])
        elif clean != text:
            report.cleaned["NUL or byte-order mark removed"] += 1
            report.show("NUL or byte-order mark removed", [(place_of(rows, i), text)])
    texts = pc.replace_with_mask(texts, pa.array(~normal), pa.array(found, pa.string()))
    rows = rows.set_column(rows.schema.get_field_index("text"), "text", texts)
    return rows.filter(pc.not_equal(texts, "")) if not all(found) else rows


def _with_keys(rows: pa.RecordBatch) -> pa.RecordBatch:
    others = (rows[name] for name in PART_SCHEMA.names[1:])
    return pa.record_batch([text_keys(rows["text"]), *others], PART_SCHEMA)


def _joined(batches: Iterable[pa.RecordBatch], size: int = 1 << 24) -> Iterator[pa.Table]:
    """Yield batches joined to tables of so many bytes: a row group of a few rows is slow to read."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(batch.nbytes for batch in held) >= size:
            yield pa.Table.from_batches(held, PART_SCHEMA)
            held = []
    yield pa.Table.from_batches(held, PART_SCHEMA)


def _mapped(column: pa.Array, read: Callable[[str], str | None]) -> tuple[pa.Array, pa.Array]:
    """Return what `read` makes of each distinct value, and where it has none the fault as JSON."""
    distinct = column.dictionary_encode()
    values: list[str | None] = []
    faults: list[str | None] = []
    for given in distinct.dictionary.to_pylist():
        value, fault = None, None
        try:
            value = read(given)
        except _BadValueError as error:
            fault = json.dumps(error.fault)
        values.append(value)
        faults.append(fault)
    return pa.array(values, pa.string()).take(distinct.indices), pa.array(faults, pa.string()).take(distinct.indices)


class _BadValueError(Exception):
    def __init__(self, fault: Fault):
        self.fault = fault


def _label_names(labels: tuple[str, ...], label_names: Mapping[str, str | None], section: str) -> dict[str, str | None]:
    """Return the task's label for each that a source may give, folded; None for what is no label.

    Raises:
        InputError: a name is mapped to what is no label of the task.
    """
    names: dict[str, str | None] = dict.fromkeys(NO_LABEL_WORDS)
    names |= {label.casefold(): label for label in labels}
    for given, name in label_names.items():
        if name is not None and name not in labels:
            raise InputError(
                f"it maps '{given}' to '{name}', which is not one of the labels {list(labels)}",
                where=f"{section}.label_names",
                remedy="Map it to one of them, or to null for rows without a label",
            )
        names[(canonical_label(given) or "").casefold()] = name
    return names


def _label(value: str, names: Mapping[str, str | None], labels: tuple[str, ...], section: str) -> str | None:
    given = canonical_label(value) or ""
    try:
        return names[given.casefold()]
    except KeyError:
        fault = Fault(
            f"the label '{value}' is not one of the task's labels {list(labels)}",
            f"Map it in the profile, as {section}.label_names: {{'{given}': {labels[0]}}}; "
            "to null where it is no label",
        )
        raise _BadValueError(fault) from None


def _date(value: str) -> str:
    try:
        day_of(value)
    except ValueError:
        fault = Fault(
            f"the date '{value}' is not an ISO 8601 date or datetime",
            "Write it as 2019-07-01 or 2019-07-01T09:30:00Z; leave it empty where it is not known",
        )
        raise _BadValueError(fault) from None
    return value


def _split(value: str) -> str | None:
    if not value.strip():
        return None
    split = canonical_split(value)
    if split is None:
        raise _BadValueError(Fault(f"the split '{value}' is not one of {list(SPLITS)}"))
    return split
