"""A growing table scored by the student in service: each text once by each champion."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from finstill.cache.joins import absent_positions
from finstill.cache.positions import chunks_at
from finstill.corpus.text import KEY_BYTES
from finstill.errors import InputError
from finstill.files import whole_file
from finstill.progress import progress_logger
from finstill.serving import StudentClassifier
from finstill.serving.tables import ROWS_PER_CHUNK

CARRIED = ["key", "text", "date", "id"]
"""Columns of the corpus that a scored row has too."""

KEY_SCHEMA = pa.schema([pa.field("key", pa.binary(KEY_BYTES))])

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GrowthReport:
    """What a call added.

    Attributes:
        folder: of the Parquet parts, named after the champion's package.
        rows: in the table now.
        added: by this call.
        labels: rows added, by label.
        decided: rows added that are decided to have the label that the student decides about; None where it decides
            about none.
    """

    folder: Path
    rows: int
    added: int
    labels: dict[str, int]
    decided: int | None


def grow_scores(corpus: Path, package: Path, folder: Path, *, threads: int = 1) -> GrowthReport:
    """Score the texts of the Parquet file `corpus` that this package has not scored yet, a new part in `folder`.

    The rows of one package stand in a folder of its own. Once another package's are complete, older ones go. A part
    appears whole, so a run that was cut off is made up for by the next.

    Args:
        package: the folder of the student that scores.
    """
    student = StudentClassifier(package, threads=threads)
    labels = student.package.labels
    own = folder / student.package.digest
    own.mkdir(parents=True, exist_ok=True)
    parts = sorted(own.glob("*.parquet"))
    counts = dict.fromkeys(labels, 0)
    decided = None if student.package.decision is None else 0
    with pq.ParquetFile(corpus) as source:
        known = ds.dataset(parts, schema=KEY_SCHEMA)
        new = absent_positions(source.read(columns=["key"])["key"], known)
        advance = progress_logger(logger, "scores", len(new), "texts")
        for fresh in chunks_at(source, new, ROWS_PER_CHUNK, CARRIED):
            scored = _scored(fresh, student)
            parts.append(own / f"{len(parts):06}.parquet")
            with whole_file(parts[-1]) as unfinished:
                pq.write_table(scored, unfinished)
            for each in pc.value_counts(scored["label"]).to_pylist():
                counts[each["values"]] += each["counts"]
            if decided is not None:
                decided += pc.sum(scored["decision"]).as_py()
            advance(fresh.num_rows)
    for other in folder.iterdir():
        if other != own:
            shutil.rmtree(other)
    rows = sum(pq.read_metadata(part).num_rows for part in parts)
    return GrowthReport(own, rows, sum(counts.values()), counts, decided)


def read_scores(
    folder: Path, keys: pa.ChunkedArray | pa.Array, labels: Sequence[str], further: Sequence[str] = ()
) -> tuple[np.ndarray, pa.Table]:
    """Return what the student in service said of the texts with these keys, in their order.

    Args:
        folder: of the Parquet parts of its package.
        labels: the task's.
        further: names of other columns.

    Returns:
        probabilities: float64, (texts, labels).
        table: the other columns.

    Raises:
        InputError: the scores lack a column or a text.
    """
    columns, again = [f"probability_{label}" for label in labels], "Materialize scores again"
    try:
        table = pq.read_table(folder, columns=["key", *columns, *further])
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise InputError(f"it has no probabilities of {list(labels)}: {error}", where=folder, remedy=again) from error
    positions = pc.index_in(keys, table["key"].combine_chunks())
    if positions.null_count:
        raise InputError(f"it lacks {positions.null_count:,} texts of the corpus", where=folder, remedy=again)
    said = table.take(positions)
    return np.stack([said[column].to_numpy() for column in columns], axis=1), said.select(list(further))


def _scored(table: pa.Table, student: StudentClassifier) -> pa.Table:
    scores = list(student.score(table["text"].to_pylist(), of_corpus=True))
    table = table.append_column("label", pa.array([score.label for score in scores]))
    if student.package.decision is not None:
        table = table.append_column("decision", pa.array([score.decision for score in scores], pa.bool_()))
    if student.package.deferral is not None:
        table = table.append_column("ask", pa.array([score.ask for score in scores], pa.bool_()))
    for label in student.package.labels:
        values = [score.probabilities[label] for score in scores]
        table = table.append_column(f"probability_{label}", pa.array(values))
    if student.package.temperature is not None:
        for label in student.package.labels:
            values = [score.calibrated[label] for score in scores if score.calibrated is not None]
            table = table.append_column(f"calibrated_{label}", pa.array(values))
    return table.append_column("windows", pa.array([score.windows for score in scores], pa.int32()))
