"""Building the corpus table from the rows of a source."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finstill.config.profile import CorpusSource, SplitByDate
from finstill.corpus.ahead import ahead
from finstill.corpus.corrections import Correction, apply_corrections, read_corrections
from finstill.corpus.leakage import is_forbidden
from finstill.corpus.merge import CORPUS_SCHEMA, keep_sorted, merge, sorted_rows, splits_to_cut
from finstill.corpus.nearest import nearest_measured, read_batches_of
from finstill.corpus.parts import part_writer, read_part, remove_unused, write_part
from finstill.corpus.report import BadRows, CorpusReport
from finstill.corpus.rows import Row, batches_of
from finstill.corpus.sources import read_batches, source_files
from finstill.corpus.splits import SPLITS
from finstill.errors import InputError
from finstill.files import TEMPORARY_PREFIX, whole_file

logger = logging.getLogger(__name__)


def read_corpus(
    source: CorpusSource,
    labels: tuple[str, ...],
    path: Path,
    parts: Path | None = None,
    *,
    corrections: Path | None = None,
) -> CorpusReport:
    """Read, normalise, merge and split the rows of `source` and write them to `path`, whole or not at all.

    Rows with the same normalised text are one text, see `finstill.corpus.merge.merge`. Where no row is in validation,
    or none in test, that split is cut from the texts given as train by their keys, see
    `finstill.corpus.merge.splits_to_cut`. A train text that nearly is a validation or test text is left out, see
    `finstill.corpus.leakage.is_forbidden`.

    Args:
        labels: the task's labels; matched without regard to case.
        path: of the corpus: Parquet, `CORPUS_SCHEMA`, sorted by key.
        parts: a folder that keeps what was read of each file until it changes; None keeps nothing.
        corrections: the folder of corrected labels, see `finstill.corpus.corrections`; None corrects nothing.

    Returns:
        What became of the rows.

    Raises:
        InputError: the source cannot be read, a row cannot be used and such rows are not set aside, no row is usable,
            the labelled rows hold one class only, or a split is left without a text; or see
            `finstill.corpus.corrections`.
    """
    corrected = read_corrections(corrections, labels) if corrections else {}
    by_date = source.split_by_date
    report = CorpusReport()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=path.parent) as name:
        scratch = Path(name)
        read = []
        if source.hub is None:
            for file in source_files(source, report.source):
                part, rows = read_part(file, source, labels, parts or scratch)
                report.add(rows)
                read.append(part)
                if parts is not None:
                    keep_sorted(part)
        else:
            read.append(scratch / "rows.parquet")
            rows_of_hub = read_batches(source, report.source)
            aside, dated = BadRows.of(source), by_date is not None
            write_part(rows_of_hub, labels, source.label_names, aside, report, read[0], by_date=dated)
        BadRows.of(source).finish(report)
        paths = [source.path] if isinstance(source.path, str) else source.path or ()
        where = source.hub or ", ".join(Path(path).name for path in paths)
        compared = None if parts is None else parts / "compared.arrow"
        _build(read, path, scratch, report, where, compared, by_date, corrected)
    if parts is not None:
        remove_unused(parts)
    return report


def build_corpus(
    rows: Iterable[Row],
    labels: tuple[str, ...],
    label_names: Mapping[str, str | None],
    bad_rows: BadRows = BadRows(),  # noqa: B008 (it is frozen)
    *,
    where: str = "corpus",
    split_by_date: SplitByDate | None = None,
) -> tuple[pa.Table, CorpusReport]:
    """Build a corpus of `rows` as `read_corpus` does, and return it.

    Args:
        labels: the task's labels; matched without regard to case.
        label_names: the task's label for each label that the rows call otherwise; None for what is no label.
        bad_rows: what becomes of a row that cannot be used.
        where: what errors of the rows as a whole call them.
        split_by_date: the days that divide the splits; None where keys or the rows themselves say the split.

    Raises:
        InputError: see `read_corpus`.
    """
    report = CorpusReport()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        parts = _parts_of(rows, labels, label_names, bad_rows, scratch, report, by_date=split_by_date is not None)
        _build(parts, scratch / "corpus.parquet", scratch, report, where, by_date=split_by_date)
        return pq.read_table(scratch / "corpus.parquet", schema=CORPUS_SCHEMA), report


def distinct_texts(
    rows: Iterable[Row],
    labels: tuple[str, ...],
    label_names: Mapping[str, str | None],
    bad_rows: BadRows = BadRows(),  # noqa: B008 (it is frozen)
) -> tuple[pa.Table, CorpusReport]:
    """Normalise, merge and split `rows`, as `build_corpus` does, and return each text, near-duplicates too.

    A split that no row is in stays empty.

    Raises:
        InputError: a row cannot be used, and such rows are not set aside.
    """
    report = CorpusReport()
    with tempfile.TemporaryDirectory() as name:
        parts = _parts_of(rows, labels, label_names, bad_rows, Path(name), report)
        tables = list(merge(sorted_rows(parts, Path(name)), report))
    return pa.concat_tables([CORPUS_SCHEMA.empty_table(), *tables]), report


def texts_by_split_and_label(corpus: Path) -> Counter[tuple[str, str | None]]:
    """Return the number of texts of each split and label in a corpus file."""
    columns = pq.read_table(corpus, columns=["split", "label"])
    counts = columns.group_by(["split", "label"]).aggregate([([], "count_all")])
    return Counter({(row["split"], row["label"]): row["count_all"] for row in counts.to_pylist()})


def first_texts(corpus: Path, count: int) -> list[dict[str, Any]]:
    """Return the first rows of a corpus file."""
    with pq.ParquetFile(corpus) as file:
        return next(file.iter_batches(count)).to_pylist()


def write_corpus(table: pa.Table, path: Path) -> None:
    """Write a table to `path` as Parquet, whole or not at all."""
    with whole_file(path) as unfinished:
        pq.write_table(table, unfinished)


def _parts_of(
    rows: Iterable[Row],
    labels: tuple[str, ...],
    label_names: Mapping[str, str | None],
    bad_rows: BadRows,
    scratch: Path,
    report: CorpusReport,
    *,
    by_date: bool = False,
) -> list[Path]:
    part = scratch / "rows.parquet"
    write_part(batches_of(rows), labels, label_names, bad_rows, report, part, by_date=by_date)
    bad_rows.finish(report)
    return [part]


def _build(
    parts: Sequence[Path],
    path: Path,
    scratch: Path,
    report: CorpusReport,
    where: str,
    compared: Path | None = None,
    by_date: SplitByDate | None = None,
    corrections: Mapping[bytes, Correction] = MappingProxyType({}),
) -> None:
    """Merge what was read and write the corpus to `path`; `compared` as `nearest_measured` takes it."""
    texts = scratch / "texts.arrow"
    logger.info("corpus: sorts and merges %s rows", f"{report.read:,}")
    with pa.ipc.new_file(texts, CORPUS_SCHEMA) as writer:
        cut = [] if by_date else splits_to_cut(parts)
        merged = merge(sorted_rows(parts, scratch), report, by_date, corrections, cut)
        # Before near-duplicates are left out: a corrected label is a label there too.
        for table in ahead(apply_corrections(merged, corrections, report.corrected)):
            writer.write_table(table)
    logger.info("corpus: looks for train texts that nearly are validation or test texts")
    nearest = nearest_measured(texts, compared)
    classes: set[str | None] = set()
    splits: set[str] = set()

    def kept() -> Iterator[pa.Table]:
        start = 0
        for table in map(pa.table, read_batches_of(texts)):
            similarity = nearest.similarity[start : start + len(table)]
            start += len(table)
            near = is_forbidden(table["label"].is_valid().to_numpy(), similarity)
            if near.any():
                left_out = table.filter(pa.array(near))
                examples = zip(left_out["source"].to_pylist(), left_out["text"].to_pylist(), strict=True)
                report.count("near-duplicate of a validation or test text", len(left_out), examples)
                table = table.filter(pa.array(~near))
            classes.update(pc.unique(table["label"].drop_null()).to_pylist())
            splits.update(pc.unique(table["split"]).to_pylist())
            report.kept += len(table)
            yield table

    with whole_file(path) as unfinished:
        _write(kept(), unfinished)
        _require_usable(classes, splits, report, where, by_date)
    logger.info("corpus: %s rows read, %s texts kept", f"{report.read:,}", f"{report.kept:,}")


def _write(tables: Iterable[pa.Table], path: Path) -> None:
    with part_writer(path, CORPUS_SCHEMA) as writer:
        for table in ahead(iter(tables)):
            writer.write_table(table)


def _require_usable(
    classes: set[str | None], splits: set[str], report: CorpusReport, where: str, by_date: SplitByDate | None
) -> None:
    if not report.kept:
        raise InputError(
            f"no row of the corpus is usable ({report.read:,} read; {dict(report.reasons)})",
            where=where,
            remedy="Check the text column and the label column in the profile",
        )
    if len(classes) == 1:
        raise InputError(
            f"every labelled row of the corpus is '{classes.pop()}'",
            where=where,
            remedy="A classifier needs at least two classes: add rows of the others, or leave corpus.label out",
        )
    for split in SPLITS:
        if split not in splits:
            raise InputError(
                f"none of the {report.kept:,} texts is in the split '{split}'",
                where=where,
                remedy="Move the days under corpus.split in the profile"
                if by_date
                else "Add texts, or name the missing split's rows in the split column",
            )
