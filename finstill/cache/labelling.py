"""The teacher pass: every text of a token table gets its logits, and only texts that the cache lacks cost anything."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finstill.cache.cache import SoftLabelCache
from finstill.cache.joins import first_positions
from finstill.cache.positions import chunks_at
from finstill.corpus.provenance import TableProvenance, made_by, require_together
from finstill.corpus.text import KEY_BYTES
from finstill.corpus.tokens import TOKENS_SCHEMA
from finstill.files import whole_file
from finstill.inference.session import CPU_PROVIDER, OnnxClassifier
from finstill.progress import progress_logger

CHUNK_ROWS = 1024
"""Rows labelled between two parts: what a killed run loses at most. Sorting by length needs no more."""

GPU_CHUNK_ROWS = 1 << 16
"""The same on another provider than the CPU's, a second or two of its work: each length fills batches of its own."""

LOOKUP_ROWS = 1 << 20
"""Rows whose logits are looked up at a time: each such chunk scans the cache once."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabellingReport:
    """Rows of a token table, and how many of them reached the teacher."""

    rows: int
    labelled: int

    @property
    def hit_rate(self) -> float:
        return 1 - self.labelled / max(self.rows, 1)

    def __add__(self, other: LabellingReport) -> LabellingReport:
        return LabellingReport(self.rows + other.rows, self.labelled + other.labelled)


def label_texts(
    tokens: Path,
    cache: SoftLabelCache,
    open_teacher: Callable[[], OnnxClassifier],
    token_budget: int,
) -> LabellingReport:
    """Make `cache` hold a row for each row of the token table `tokens`.

    Memory holds a chunk at a time, beside a key (16 bytes) and at most a position (8 bytes) for each row.

    Args:
        tokens: Parquet with the columns of `finstill.corpus.tokens.TOKENS_SCHEMA`.
        open_teacher: called only where a text is unseen.
        token_budget: tokens of one batch, padding included.
    """
    keys, unseen = open_pass(tokens, cache)
    if len(unseen):
        teacher = open_teacher()
        advance = progress_logger(logger, "teacher_logits", len(unseen), "texts")
        with pq.ParquetFile(tokens) as file:
            for chunk in chunks_at(file, unseen, chunk_rows(teacher.provider), TOKENS_SCHEMA.names):
                cache.append(label_chunk(chunk, teacher, token_budget, advance))
    return LabellingReport(len(keys), len(unseen))


def open_pass(tokens: Path, cache: SoftLabelCache) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Return the keys of a token table, and the positions of those that `cache` lacks: int64, ascending."""
    keys = pq.read_table(tokens, columns=["key"])["key"]
    unseen = cache.unseen(keys)
    if not len(unseen):
        logger.info("teacher_logits: all %s texts are in the cache, none reaches the teacher", f"{len(keys):,}")
    return keys, unseen


def chunk_rows(provider: str) -> int:
    """Return how many rows are labelled between two parts."""
    return CHUNK_ROWS if provider == CPU_PROVIDER else GPU_CHUNK_ROWS


def label_chunk(
    chunk: pa.Table,
    teacher: OnnxClassifier,
    token_budget: int,
    advance: Callable[[int], None] = lambda count: None,
) -> pa.Table:
    """Return the rows of one part for a chunk of a token table: a function of its texts and the teacher alone.

    Args:
        chunk: the columns of `finstill.corpus.tokens.TOKENS_SCHEMA`.
        advance: called with the number of rows of each batch when it is done.
    """
    logits = teacher.logits(chunk["input_ids"].to_pylist(), token_budget, advance)
    columns = {"key": chunk["key"], "logits": _logits_column(logits)}
    return pa.table({**columns, "n_tokens": chunk["n_tokens"], "truncated": chunk["truncated"]})


def write_logits(tokens: Sequence[Path], cache: SoftLabelCache, path: Path, left_out: int = 0) -> None:
    """Write a row of logits for each distinct key of token tables, in their order, to the Parquet file `path`.

    The table says how the texts were read, as `tokens` do, and by which teacher. Memory holds the keys (some 100 bytes
    a row, while equal ones are found) and `LOOKUP_ROWS` rows of logits.

    Args:
        tokens: Parquet files with the columns of `finstill.corpus.tokens.TOKENS_SCHEMA`, read alike.
        left_out: texts of the corpus that `tokens` lacks because an imported teacher has no row of them; the table says
            so.

    Raises:
        InputError: a table does not say how its texts were read, or they were not read alike.
        KeyError: a text has no row in the cache.
    """
    read = TableProvenance.read(tokens[0])
    for table in tokens[1:]:
        require_together(table, TableProvenance.read(table), tokens[0], read, f"Materialize {made_by(table)} again")
    keys = pa.chunked_array(
        [chunk for table in tokens for chunk in pq.read_table(table, columns=["key"])["key"].chunks],
        pa.binary(KEY_BYTES),
    )
    keys = keys.take(pa.array(first_positions(keys)))
    # Students find the class names beside the numbers, and need not ask the teacher.
    schema = replace(read, teachers=(cache.fingerprint,)).of_schema(
        pa.schema(
            [pa.field("key", pa.binary(KEY_BYTES)), pa.field("logits", cache.schema.field("logits").type)],
            metadata={"labels": "\n".join(cache.labels), "left_out": str(left_out)},
        )
    )
    with whole_file(path) as unfinished, pq.ParquetWriter(unfinished, schema) as writer:
        for start in range(0, len(keys), LOOKUP_ROWS):
            chunk = keys.slice(start, LOOKUP_ROWS)
            writer.write_table(pa.table([chunk, _logits_column(cache.lookup(chunk))], schema=schema))


def _logits_column(logits: np.ndarray) -> pa.FixedSizeListArray:
    """Return float32 logits, (rows, classes), as a column of lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(logits.astype(np.float32, copy=False).ravel()), logits.shape[1])
