"""Whether anything that students learn from nearly is a text that they are measured on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finstill.corpus.near_duplicates import NearDuplicates
from finstill.corpus.shingles import Shingles
from finstill.progress import progress_logger

logger = logging.getLogger(__name__)

ROWS_PER_CHUNK = 8192


@dataclass(frozen=True)
class Leak:
    """A text to learn from that is nearly one of the validation or test split.

    Attributes:
        rows: which kind of row it is: `labelled`, `unlabelled` or `augmented`.
        text: the train text.
        split: of the other text.
        other: the other text.
        similarity: Jaccard index of their runs of two words; 1 where both are the same words.
    """

    rows: str
    text: str
    split: str
    other: str
    similarity: float

    @property
    def forbidden(self) -> bool:
        return bool(is_forbidden(np.array(self.rows == "labelled"), np.array(self.similarity)))


def is_forbidden(labelled: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """Return which train texts are too near a validation or test text to be learned from, bool.

    Texts without a label are plentiful, so none that is near is kept. A labelled one has its place in a split that
    somebody published or a hash decided, and figures compare only while it stays there: it is left out where it is the
    very same words, and reported where it is near.
    """
    return (similarity > 0) & (~labelled | (similarity == 1))


def find_leaks(corpus: Path, augmented: Path) -> list[Leak]:
    """Return the train and augmented rows that are near-duplicates of validation or test rows.

    Args:
        corpus, augmented: Parquet files with the columns of `CORPUS_SCHEMA` and `AUGMENTED_SCHEMA`.
    """
    measured = pq.read_table(corpus, columns=["text", "split"], filters=[("split", "!=", "train")])
    rows_to_compare = pq.read_metadata(corpus).num_rows + pq.read_metadata(augmented).num_rows
    advance = progress_logger(logger, "no_test_text_is_learned_from", rows_to_compare, "texts")
    index = NearDuplicates(Shingles.of(measured["text"]))

    def leaks(rows: str, texts: pa.StringArray) -> Iterator[Leak]:
        for i, match in enumerate(index.nearest(Shingles.of(texts))):
            if match is not None:
                split, text = (measured[name][match.position].as_py() for name in ("split", "text"))
                yield Leak(rows, texts[i].as_py(), split, text, match.similarity)

    found: list[Leak] = []
    with pq.ParquetFile(corpus) as file:
        for batch in file.iter_batches(ROWS_PER_CHUNK, columns=["text", "label", "split"]):
            train = batch.filter(pc.equal(batch["split"], "train"))
            found += leaks("labelled", train.filter(pc.is_valid(train["label"]))["text"])
            found += leaks("unlabelled", train.filter(pc.is_null(train["label"]))["text"])
            advance(len(batch))
    with pq.ParquetFile(augmented) as file:
        for batch in file.iter_batches(ROWS_PER_CHUNK, columns=["text"]):
            found += leaks("augmented", batch["text"])
            advance(len(batch))
    return found
