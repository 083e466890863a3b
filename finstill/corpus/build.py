"""Building the corpus table from the rows of a source."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finstill.config.profile import CorpusSource, SplitByDate
from finstill.corpus.corrections import Corrected, apply_corrections, read_corrections
from finstill.corpus.leakage import ROWS_PER_CHUNK, is_forbidden
from finstill.corpus.near_duplicates import NearDuplicates
from finstill.corpus.readers import Fault, text_fault
from finstill.corpus.sources import NO_LABEL_WORDS, Row, SourceReport, canonical_label, read_rows
from finstill.corpus.splits import SPLITS, canonical_split, day_of, earlier, split_of, split_of_day
from finstill.corpus.text import KEY_BYTES, cleaned, normalise, text_key
from finstill.errors import InputError
from finstill.files import whole_file

CORPUS_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(KEY_BYTES), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("date", pa.string()),
        pa.field("id", pa.string()),
    ]
)

EXAMPLES_PER_REASON = 3
EXAMPLE_CHARACTERS = 120

# A text that two splits claim goes to the one that must not leak into the others.
_PRECEDENCE = {split: rank for rank, split in enumerate(reversed(SPLITS))}

logger = logging.getLogger(__name__)


@dataclass
class CorpusReport:
    """What became of the rows.

    Attributes:
        read: rows in the source.
        kept: rows in the corpus.
        reasons: rows dropped, merged or set aside, by reason.
        cleaned: rows whose text was cleaned, by what was removed.
        examples: for each reason, the first few as (place, text).
        set_aside: rows that could not be used, where the profile sets such rows aside.
        source: what was understood of the source.
        corrected: what corrections changed.
    """

    read: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    cleaned: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    set_aside: list[BadRow] = field(default_factory=list)
    source: SourceReport = field(default_factory=SourceReport)
    corrected: Corrected = field(default_factory=Corrected)

    def count(self, reason: str, place: str, text: str) -> None:
        self.reasons[reason] += 1
        self.show(reason, place, text)

    def show(self, reason: str, place: str, text: str) -> None:
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append((place, text[:EXAMPLE_CHARACTERS]))


@dataclass(frozen=True)
class BadRow:
    """A row that was set aside: its file, its number in it, why, and what it holds."""

    file: str
    row: int
    reason: str
    content: str


@dataclass(frozen=True)
class BadRows:
    """What becomes of a row that cannot be used.

    Attributes:
        stop: whether it stops the run; where not, it is set aside.
        at_most: share of the rows that may be set aside; more stop the run.
    """

    stop: bool = True
    at_most: float = 1.0

    @classmethod
    def of(cls, source: CorpusSource) -> BadRows:
        return cls(source.on_bad_rows == "stop", source.bad_rows_at_most)

    def take(self, row: Row, fault: Fault, report: CorpusReport) -> None:
        """Set a row aside.

        Raises:
            InputError: it stops the run.
        """
        if self.stop:
            aside = "Or write corpus.on_bad_rows: set_aside, to go on without such rows"
            remedy = f"{fault.remedy}. {aside}" if fault.remedy else f"Correct the row. {aside}"
            raise InputError(fault.reason, where=row.source, row=row.number, remedy=remedy)
        report.set_aside.append(BadRow(row.source, row.number, fault.reason, row.text or ""))
        report.count("set aside", f"{row.source}, row {row.number}: {fault.reason}", row.text or "")

    def finish(self, report: CorpusReport) -> None:
        """Stop where too many rows were set aside.

        Raises:
            InputError: names the first of them.
        """
        if len(report.set_aside) > self.at_most * report.read:
            first = "; ".join(
                f"{bad.file}, row {bad.row}: {bad.reason}" for bad in report.set_aside[:EXAMPLES_PER_REASON]
            )
            raise InputError(
                f"{len(report.set_aside):,} of {report.read:,} rows cannot be used, and the profile allows "
                f"{self.at_most:.1%} ({first})",
                where="corpus.bad_rows_at_most",
                remedy="Correct the rows, or allow more",
            )


@dataclass
class Entry:
    """One distinct text and what its rows said of it; `place` is the first of them, `other` one that contradicts."""

    text: str
    label: str | None
    split: str | None
    source: str
    date: str | None
    id: str | None
    place: str = ""
    other: str = ""


def read_corpus(
    source: CorpusSource, labels: tuple[str, ...], corrections: Path | None = None
) -> tuple[pa.Table, CorpusReport]:
    """Read, normalise, merge and split the rows of `source`, as `build_corpus` does, and correct their labels.

    Args:
        corrections: the folder of corrected labels, see `finstill.corpus.corrections`; None corrects nothing.

    Raises:
        InputError: see `build_corpus`, `finstill.corpus.sources.read_rows` and `finstill.corpus.corrections`.
    """
    corrected = read_corrections(corrections, labels) if corrections else {}
    understood = SourceReport()
    paths = [source.path] if isinstance(source.path, str) else source.path or ()
    where = source.hub or ", ".join(Path(path).name for path in paths)
    rows = read_rows(source, understood)
    by_date = source.split if isinstance(source.split, SplitByDate) else None
    bad_rows = BadRows.of(source)
    table, report = build_corpus(
        rows, labels, source.label_names, bad_rows, corrected, where=where, split_by_date=by_date
    )
    report.source = understood
    table, report.corrected = apply_corrections(table, corrected)
    return table, report


def write_bad_rows(bad_rows: Sequence[BadRow], path: Path) -> None:
    """Write the rows that were set aside to `path` as JSONL, whole or not at all; remove it where there are none."""
    if not bad_rows:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for bad in bad_rows:
            file.write(json.dumps(asdict(bad), ensure_ascii=False) + "\n")


def build_corpus(
    rows: Iterable[Row],
    labels: tuple[str, ...],
    label_names: Mapping[str, str | None],
    bad_rows: BadRows = BadRows(),
    corrected: Collection[bytes] = (),
    *,
    where: str = "corpus",
    split_by_date: SplitByDate | None = None,
) -> tuple[pa.Table, CorpusReport]:
    """Normalise, merge and split `rows`.

    Rows with the same normalised text are one text. It takes the first label, date and id that any of them gives; where
    two give different labels it is dropped, since neither can be believed. A given split is honoured; where a text
    stands in two, test goes before validation and validation before train. Split by date, a text takes the earliest of
    its dates, so that no test text was known before; one without a date is train, and is counted.

    Args:
        labels: the task's labels; matched without regard to case.
        label_names: the task's label for each label that the source calls otherwise; None for what is no label.
        bad_rows: what becomes of a row that cannot be used.
        corrected: keys of the texts whose label a person will say: these stay, whatever labels their rows give.
        where: what errors of the rows as a whole call them.
        split_by_date: the days that divide the splits; None where keys or the rows themselves say the split.

    Returns:
        The corpus, `CORPUS_SCHEMA`, sorted by key; and what became of the rows.

    Raises:
        InputError: a row cannot be used and such rows are not set aside, no row is usable, the labelled rows hold one
            class only, or a split is left without a text.
    """
    entries, report = distinct_texts(rows, labels, label_names, bad_rows, corrected, by_date=split_by_date is not None)
    for key, entry in entries.items():
        if split_by_date is None:
            entry.split = entry.split or split_of(key)
        else:
            entry.split = _split_by_date(entry, split_by_date, report)
    _drop_leaks(entries, report)
    report.kept = len(entries)
    _require_usable(entries, report, where, split_by_date)
    logger.info("corpus: %s rows read, %s texts kept", f"{report.read:,}", f"{report.kept:,}")
    return corpus_table(entries), report


def distinct_texts(
    rows: Iterable[Row],
    labels: tuple[str, ...],
    label_names: Mapping[str, str | None],
    bad_rows: BadRows = BadRows(),
    corrected: Collection[bytes] = (),
    *,
    by_date: bool = False,
) -> tuple[dict[bytes, Entry], CorpusReport]:
    """Normalise and merge `rows`, as `build_corpus` does, and return each text by its key.

    Args:
        by_date: whether dates decide the split: then each must be readable, and a text takes its earliest.

    Raises:
        InputError: a row cannot be used, and such rows are not set aside.
    """
    names = _label_names(labels, label_names)
    entries: dict[bytes, Entry] = {}
    report = CorpusReport()
    for row in rows:
        report.read += 1
        try:
            label, split = (None, None) if row.fault else (_label(row, names, labels), _given_split(row))
            if by_date and not row.fault:
                _require_day(row)
            fault = row.fault or (text_fault(row.text) if row.text else None)
        except _BadValueError as error:
            fault = error.fault
        if fault is not None:
            bad_rows.take(row, fault, report)
            continue
        place = f"{row.source}, row {row.number}"
        if row.text is None:
            report.count("text is null", place, "")
            continue
        clean = cleaned(row.text)
        text = normalise(clean)
        if not text:
            report.count("text is empty", place, row.text)
            continue
        if clean is not row.text and clean != row.text:
            report.cleaned["NUL or byte-order mark removed"] += 1
            report.show("NUL or byte-order mark removed", place, row.text)
        key = text_key(text)
        entry = entries.get(key)
        if entry is None:
            entries[key] = Entry(text, label, split, row.source, row.date, row.id, place)
            continue
        report.count("duplicate merged", place, text)
        date = earlier(entry.date, row.date) if by_date else entry.date or row.date
        _merge(entry, row, label, split, date, place, report)
    bad_rows.finish(report)
    for key in [key for key, entry in entries.items() if entry.other and key not in corrected]:
        entry = entries.pop(key)
        report.count("contradictory labels", f"{entry.place}, and {entry.other}", entry.text)
    return entries, report


def write_corpus(table: pa.Table, path: Path) -> None:
    """Write the corpus to `path` as Parquet, whole or not at all."""
    with whole_file(path) as unfinished:
        pq.write_table(table, unfinished)


class _BadValueError(Exception):
    def __init__(self, fault: Fault):
        self.fault = fault


def _label_names(labels: tuple[str, ...], label_names: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the task's label for each that a source may give, folded; None for what is no label.

    Raises:
        InputError: a name is mapped to what is no label of the task.
    """
    names: dict[str, str | None] = dict.fromkeys(NO_LABEL_WORDS)
    names |= {label.casefold(): label for label in labels}
    for given, name in label_names.items():
        if name is not None and name not in labels:
            raise InputError(f"label_names maps '{given}' to '{name}', which is not one of the labels {list(labels)}")
        names[(canonical_label(given) or "").casefold()] = name
    return names


def _label(row: Row, names: Mapping[str, str | None], labels: tuple[str, ...]) -> str | None:
    if row.label is None:
        return None
    given = canonical_label(row.label) or ""
    try:
        return names[given.casefold()]
    except KeyError:
        fault = Fault(
            f"the label '{row.label}' is not one of the task's labels {list(labels)}",
            f"Map it in the profile, as corpus.label_names: {{'{given}': {labels[0]}}}; to null where it is no label",
        )
        raise _BadValueError(fault) from None


def _given_split(row: Row) -> str | None:
    if row.split is None or not row.split.strip():
        return None
    split = canonical_split(row.split)
    if split is None:
        raise _BadValueError(Fault(f"the split '{row.split}' is not one of {list(SPLITS)}"))
    return split


def _require_day(row: Row) -> None:
    try:
        day_of(row.date)
    except ValueError:
        fault = Fault(
            f"the date '{row.date}' is not an ISO 8601 date or datetime",
            "Write it as 2019-07-01 or 2019-07-01T09:30:00Z; leave it empty where it is not known",
        )
        raise _BadValueError(fault) from None


def _split_by_date(entry: Entry, by: SplitByDate, report: CorpusReport) -> str:
    day = day_of(entry.date)
    if day is None:
        report.count("no date, so in train", entry.place, entry.text)
    return split_of_day(day, by)


def _merge(
    entry: Entry, row: Row, label: str | None, split: str | None, date: str | None, place: str, report: CorpusReport
) -> None:
    """Fold another row of the same text into `entry`."""
    if label is not None and entry.label is not None and label != entry.label:
        entry.other = entry.other or place
    if entry.label is None and label is not None:
        entry.label, entry.place = label, place
    entry.date = date
    entry.id = entry.id or row.id
    if split is not None and entry.split is not None and split != entry.split:
        report.count("in two splits", place, entry.text)
        entry.split = min(split, entry.split, key=_PRECEDENCE.__getitem__)
    entry.split = entry.split or split


def _drop_leaks(entries: dict[bytes, Entry], report: CorpusReport) -> None:
    """Take out the train texts that must not be learned from because they nearly are validation or test texts."""
    index = NearDuplicates([entry.text for entry in entries.values() if entry.split != "train"])
    train = [(key, entry) for key, entry in entries.items() if entry.split == "train"]
    for start in range(0, len(train), ROWS_PER_CHUNK):
        chunk = train[start : start + ROWS_PER_CHUNK]
        matches = index.nearest([entry.text for _, entry in chunk])
        for (key, entry), match in zip(chunk, matches, strict=True):
            if match is not None and is_forbidden(entry.label is not None, match.similarity):
                report.count("near-duplicate of a validation or test text", entry.source, entry.text)
                del entries[key]


def _require_usable(
    entries: dict[bytes, Entry], report: CorpusReport, where: str, split_by_date: SplitByDate | None
) -> None:
    if not entries:
        raise InputError(
            f"no row of the corpus is usable ({report.read:,} read; {dict(report.reasons)})",
            where=where,
            remedy="Check the text column and the label column in the profile",
        )
    classes = {entry.label for entry in entries.values()} - {None}
    if len(classes) == 1:
        raise InputError(
            f"every labelled row of the corpus is '{classes.pop()}'",
            where=where,
            remedy="A classifier needs at least two classes: add rows of the others, or leave corpus.label out",
        )
    for split in SPLITS:
        if not any(entry.split == split for entry in entries.values()):
            raise InputError(
                f"none of the {len(entries):,} texts is in the split '{split}'",
                where=where,
                remedy="Move the days under corpus.split in the profile"
                if split_by_date
                else "Add texts, or name the missing split's rows in the split column",
            )


def corpus_table(entries: dict[bytes, Entry]) -> pa.Table:
    keys = sorted(entries)
    ordered = [entries[key] for key in keys]
    columns = {
        "key": keys,
        **{name: [getattr(entry, name) for entry in ordered] for name in CORPUS_SCHEMA.names if name != "key"},
    }
    return pa.table(columns, schema=CORPUS_SCHEMA)
