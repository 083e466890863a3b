"""An out-of-domain corpus: labelled as the corpus is, and not learned from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finstill.corpus.build import distinct_texts
from finstill.corpus.leakage import ROWS_PER_CHUNK
from finstill.corpus.merge import CORPUS_SCHEMA
from finstill.corpus.near_duplicates import NearDuplicates
from finstill.corpus.report import BadRows, CorpusReport
from finstill.corpus.rows import Row
from finstill.corpus.shingles import Shingles
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
    texts, report = distinct_texts(rows, labels, label_names, bad_rows)
    _leave_out(texts.filter(pc.is_null(texts["label"])), "no label", report)
    texts = texts.filter(pc.is_valid(texts["label"]))
    index = NearDuplicates(Shingles.of(texts["text"]))
    near = np.zeros(len(texts), bool)
    with pq.ParquetFile(corpus) as file:
        for batch in file.iter_batches(ROWS_PER_CHUNK, columns=["text", "split"]):
            train = batch.filter(pc.equal(batch["split"], "train"))
            near[index.pairs(Shingles.of(train["text"])).found] = True
    _leave_out(texts.filter(pa.array(near)), "near-duplicate of a train text", report)
    texts = texts.filter(pa.array(~near))
    if not len(texts):
        raise InputError(
            f"no out-of-domain text is usable ({report.read:,} rows read; {dict(report.reasons)})",
            where="out_of_domain",
            remedy="Check the text and label columns in the profile",
        )
    report.kept = len(texts)
    at = CORPUS_SCHEMA.get_field_index("split")
    return texts.set_column(at, CORPUS_SCHEMA.field(at), pa.repeat("test", len(texts))), report


def _leave_out(texts: pa.Table, reason: str, report: CorpusReport) -> None:
    report.count(reason, len(texts), zip(texts["source"].to_pylist(), texts["text"].to_pylist(), strict=True))
