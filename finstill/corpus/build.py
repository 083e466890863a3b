"""Building the corpus table from the rows of a source."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finstill.corpus.leakage import ROWS_PER_WINDOW, is_forbidden
from finstill.corpus.near_duplicates import NearDuplicates
from finstill.corpus.sources import Row
from finstill.corpus.splits import SPLITS, canonical_split, split_of
from finstill.errors import InputError
from finstill.files import whole_file
from finstill.text import KEY_BYTES, normalise, text_key

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
        reasons: rows dropped or merged, by reason.
        examples: for each reason, the first few as (place, text).
    """

    read: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def count(self, reason: str, place: str, text: str) -> None:
        self.reasons[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append((place, text[:EXAMPLE_CHARACTERS]))


@dataclass
class Entry:
    """One distinct text and what its rows said of it."""

    text: str
    label: str | None
    split: str | None
    source: str
    date: str | None
    id: str | None
    contradicted: bool = False


def build_corpus(
    rows: Iterable[Row], labels: tuple[str, ...], label_names: dict[str, str]
) -> tuple[pa.Table, CorpusReport]:
    """Normalise, merge and split `rows`.

    Rows with the same normalised text are one text. It takes the first label, date and id that any of them gives; where
    two give different labels it is dropped, since neither can be believed. A given split is honoured; where a text
    stands in two, test goes before validation and validation before train.

    Args:
        labels: the task's labels; matched without regard to case.
        label_names: the task's label for each label that the source calls otherwise.

    Returns:
        The corpus, `CORPUS_SCHEMA`, sorted by key; and what became of the rows.

    Raises:
        InputError: a label or split name is not known, no row is usable, the labelled rows hold one class only, or a
            split is left without a text.
    """
    entries, report = distinct_texts(rows, labels, label_names)
    for key, entry in entries.items():
        entry.split = entry.split or split_of(key)
    _drop_leaks(entries, report)
    report.kept = len(entries)
    _require_usable(entries, report)
    logger.info("corpus: %s rows read, %s texts kept", f"{report.read:,}", f"{report.kept:,}")
    return corpus_table(entries), report


def distinct_texts(
    rows: Iterable[Row], labels: tuple[str, ...], label_names: dict[str, str]
) -> tuple[dict[bytes, Entry], CorpusReport]:
    """Normalise and merge `rows`, as `build_corpus` does, and return each text by its key.

    Raises:
        InputError: a label or split name is not known.
    """
    names = {label.casefold(): label for label in labels}
    names |= {given.casefold(): name for given, name in label_names.items()}
    for given, name in label_names.items():
        if name not in labels:
            raise InputError(f"label_names maps '{given}' to '{name}', which is not one of the labels {list(labels)}")
    entries: dict[bytes, Entry] = {}
    report = CorpusReport()
    for row in rows:
        report.read += 1
        place = f"{row.source}, row {row.number}"
        if row.text is None:
            report.count("text is null", place, "")
            continue
        text = normalise(row.text)
        if not text:
            report.count("text is empty", place, row.text)
            continue
        label, split = _label(row, names, labels), _given_split(row)
        key = text_key(text)
        entry = entries.get(key)
        if entry is None:
            entries[key] = Entry(text, label, split, row.source, row.date, row.id)
            continue
        report.count("duplicate merged", place, text)
        _merge(entry, row, label, split, place, report)
    for key in [key for key, entry in entries.items() if entry.contradicted]:
        entry = entries.pop(key)
        report.count("contradictory labels", entry.source, entry.text)
    return entries, report


def write_corpus(table: pa.Table, path: Path) -> None:
    """Write the corpus to `path` as Parquet, whole or not at all."""
    with whole_file(path) as unfinished:
        pq.write_table(table, unfinished)


def _label(row: Row, names: dict[str, str], labels: tuple[str, ...]) -> str | None:
    if row.label is None or not row.label.strip():
        return None
    try:
        return names[row.label.strip().casefold()]
    except KeyError:
        raise InputError(
            f"the label '{row.label}' is not one of the task's labels {list(labels)}",
            where=row.source,
            row=row.number,
            remedy=f"Map it in the profile, as label_names: {{'{row.label}': {labels[0]}}}",
        ) from None


def _given_split(row: Row) -> str | None:
    if row.split is None or not row.split.strip():
        return None
    split = canonical_split(row.split)
    if split is None:
        raise InputError(f"the split '{row.split}' is not one of {list(SPLITS)}", where=row.source, row=row.number)
    return split


def _merge(entry: Entry, row: Row, label: str | None, split: str | None, place: str, report: CorpusReport) -> None:
    """Fold another row of the same text into `entry`."""
    if label is not None and entry.label is not None and label != entry.label:
        entry.contradicted = True
    entry.label = entry.label or label
    entry.date = entry.date or row.date
    entry.id = entry.id or row.id
    if split is not None and entry.split is not None and split != entry.split:
        report.count("in two splits", place, entry.text)
        entry.split = min(split, entry.split, key=_PRECEDENCE.__getitem__)
    entry.split = entry.split or split


def _drop_leaks(entries: dict[bytes, Entry], report: CorpusReport) -> None:
    """Take out the train texts that must not be learned from because they nearly are validation or test texts."""
    index = NearDuplicates([entry.text for entry in entries.values() if entry.split != "train"])
    train = [(key, entry) for key, entry in entries.items() if entry.split == "train"]
    for start in range(0, len(train), ROWS_PER_WINDOW):
        window = train[start : start + ROWS_PER_WINDOW]
        matches = index.nearest([entry.text for _, entry in window])
        for (key, entry), match in zip(window, matches, strict=True):
            if match is not None and is_forbidden(entry.label is not None, match.similarity):
                report.count("near-duplicate of a validation or test text", entry.source, entry.text)
                del entries[key]


def _require_usable(entries: dict[bytes, Entry], report: CorpusReport) -> None:
    if not entries:
        raise InputError(
            f"no row of the corpus is usable ({report.read:,} read; {dict(report.reasons)})",
            remedy="Check the text column and the label column in the profile",
        )
    classes = {entry.label for entry in entries.values()} - {None}
    if len(classes) == 1:
        raise InputError(
            f"every labelled row of the corpus is '{classes.pop()}'",
            remedy="A classifier needs at least two classes: add rows of the others, or leave corpus.label out",
        )
    for split in SPLITS:
        if not any(entry.split == split for entry in entries.values()):
            raise InputError(
                f"none of the {len(entries):,} texts is in the split '{split}'",
                remedy="Add texts, or name the missing split's rows in the split column",
            )


def corpus_table(entries: dict[bytes, Entry]) -> pa.Table:
    keys = sorted(entries)
    ordered = [entries[key] for key in keys]
    columns = {
        "key": keys,
        **{name: [getattr(entry, name) for entry in ordered] for name in CORPUS_SCHEMA.names if name != "key"},
    }
    return pa.table(columns, schema=CORPUS_SCHEMA)
