"""An out-of-domain corpus: labelled as the corpus is, and not learned from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finstill.corpus.build import BadRows, CorpusReport, corpus_table, distinct_texts
from finstill.corpus.leakage import ROWS_PER_CHUNK
from finstill.corpus.near_duplicates import NearDuplicates
from finstill.corpus.sources import Row
from finstill.errors import InputError


def build_out_of_domain(
    rows: Iterable[Row],
    labels: tuple[str, ...],
    label_names: Mapping[str, str | None],
    corpus: Path,
    bad_rows: BadRows = BadRows(),  # noqa: B008 (it is frozen)
) -> tuple[pa.Table, CorpusReport]:
    """Normalise and merge `rows` into a corpus of which every row is in the test split.

    Rows without a label are left out, and so are near-duplicates of the train texts of `corpus`.

    Args:
        labels, label_names, bad_rows: as `build_corpus` takes them.
        corpus: Parquet file of the corpus that students learn from.

    Raises:
        InputError: a label is none of the task's, or no row is left.
    """
    entries, report = distinct_texts(rows, labels, label_names, bad_rows)
    for key in [key for key, entry in entries.items() if entry.label is None]:
        entry = entries.pop(key)
        report.count("no label", entry.source, entry.text)
    keys = list(entries)
    index = NearDuplicates([entry.text for entry in entries.values()])
    with pq.ParquetFile(corpus) as file:
        for batch in file.iter_batches(ROWS_PER_CHUNK, columns=["text", "split"]):
            train = [row["text"] for row in batch.to_pylist() if row["split"] == "train"]
            near = {keys[match.position] for matches in index.matches(train) for match in matches}
            for key in sorted(near & entries.keys()):
                entry = entries.pop(key)
                report.count("near-duplicate of a train text", entry.source, entry.text)
    if not entries:
        raise InputError(
            f"no out-of-domain text is usable ({report.read:,} rows read; {dict(report.reasons)})",
            where="out_of_domain",
            remedy="Check the text and label columns in the profile",
        )
    for entry in entries.values():
        entry.split = "test"
    report.kept = len(entries)
    return corpus_table(entries), report
