"""Labels that people have corrected: they win over those of the source, for good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finstill.config.profile import CorpusSource
from finstill.corpus.columns import NO_LABEL_WORDS, canonical_label
from finstill.corpus.look import look
from finstill.corpus.sources import is_hidden, read_rows
from finstill.corpus.text import KEY_BYTES
from finstill.errors import InputError

REVIEW = "label_review"
"""How the name of a file of corrections begins among dropped files: the review that people fill in is called so."""


@dataclass(frozen=True)
class Correction:
    """The label that a person gave a text, and where it stands.

    Attributes:
        label: one of the task's.
        file, row: of the correction, the row from 1.
    """

    label: str
    file: str
    row: int


@dataclass
class Corrected:
    """What corrections made of a corpus. A train text that is left out as a near-duplicate counts too.

    Attributes:
        changed: number of texts by label before (None where there was none), label now, and split.
        confirmed: number of texts that had the label already.
    """

    changed: Counter[tuple[str | None, str, str]] = field(default_factory=Counter)
    confirmed: int = 0


def is_review(name: str) -> bool:
    """Whether a dropped file of this name holds corrections, and not texts."""
    return Path(name).name.startswith(REVIEW)


def read_corrections(folder: Path, labels: Sequence[str]) -> dict[bytes, Correction]:
    """Return the corrections of all files in a folder, by the text's key; none where there is no such folder.

    Hidden files and folders are passed over, as those of a corpus are: notebooks keep copies of earlier versions there.
    A file has the columns `key` and `label`, and any others. A row with an empty label is not decided yet and counts
    for nothing. Encoding and delimiter are guessed, since spreadsheets save them as they like.

    Args:
        labels: the task's; matched without regard to case.

    Raises:
        InputError: a file cannot be read or lacks a column, a key is none, a label is not the task's, or two rows give
            a text different labels; names the files and rows.
    """
    names: dict[str, str | None] = {**dict.fromkeys(NO_LABEL_WORDS), **{label.casefold(): label for label in labels}}
    found: dict[bytes, Correction] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or is_hidden(path.relative_to(folder).as_posix()):
            continue
        seen = look(path)
        source = CorpusSource(
            path=str(path), text="key", label="label", encoding=seen.encoding, delimiter=seen.delimiter
        )
        if lacking := [column for column in ("key", "label") if column not in seen.columns]:
            raise InputError(
                f"there is no column {' and no column '.join(map(repr, lacking))}; there are {list(seen.columns)}",
                where=path,
                remedy="Corrections have the text's key and its right label, as the asset label_review writes them",
            )
        for row in read_rows(source):
            if row.fault is not None:
                raise InputError(row.fault.reason, where=path, row=row.number, remedy=row.fault.remedy)
            given = canonical_label(row.label) or ""
            if given.casefold() not in names:
                raise InputError(
                    f"the label '{given}' is not one of the task's labels {list(labels)}", where=path, row=row.number
                )
            label = names[given.casefold()]
            if label is None:
                continue
            key = _key(row.text or "", path, row.number)
            earlier = found.setdefault(key, Correction(label, str(path), row.number))
            if earlier.label != label:
                raise InputError(
                    f"the text {key.hex()} is '{label}' here, and '{earlier.label}' in {earlier.file}, row "
                    f"{earlier.row}",
                    where=path,
                    row=row.number,
                    remedy="Remove one of the two rows",
                )
    return found


def apply_corrections(
    corpus: Iterable[pa.Table], corrections: Mapping[bytes, Correction], corrected: Corrected
) -> Iterator[pa.Table]:
    """Yield the tables of a corpus, its texts with the labels that people gave them.

    Args:
        corpus: all texts, near-duplicates too, with the columns `key`, `label` and `split`.
        corrected: is told what changed.

    Raises:
        InputError: a correction is of no text of the corpus; names its file and row.
    """
    keys = pa.array(list(corrections), pa.binary(KEY_BYTES))
    labels = pa.array([correction.label for correction in corrections.values()], pa.string())
    found = np.zeros(len(keys), bool)
    for table in corpus:
        at = pc.index_in(table["key"], keys).combine_chunks()
        found[at.drop_null().to_numpy()] = True
        given = labels.take(at)
        touched = [each.filter(pc.is_valid(given)).to_pylist() for each in (table["label"], given, table["split"])]
        for before, now, split in zip(*touched, strict=True):
            if before == now:
                corrected.confirmed += 1
            else:
                corrected.changed[before, now, split] += 1
        column = table.schema.get_field_index("label")
        yield table.set_column(column, table.schema.field(column), pc.coalesce(given, table["label"]))
    if not found.all():
        key, correction = list(corrections.items())[found.argmin()]
        raise InputError(
            f"no text of the corpus has the key {key.hex()}",
            where=correction.file,
            row=correction.row,
            remedy="Copy the key from label_review, or remove the row where its text has left the corpus",
        )


def _key(given: str, path: Path, row: int) -> bytes:
    try:
        key = bytes.fromhex(given)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise InputError(
            f"'{given}' is no key of a text: {2 * KEY_BYTES} hexadecimal digits were expected",
            where=path,
            row=row,
            remedy="Copy the key from label_review",
        )
    return key
