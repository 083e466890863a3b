"""Several teachers as one: their logits averaged, each from its own cache."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import log_softmax

from finstill.config.task import Task, task_logits
from finstill.corpus.provenance import TableProvenance
from finstill.corpus.text import KEY_BYTES
from finstill.files import whole_file

ROWS_PER_CHUNK = 1 << 16


def write_average_logits(tables: Sequence[Path], task: Task, path: Path) -> None:
    """Write the mean of several teachers' logits over the task's labels to the Parquet file `path`, whole or not.

    Each teacher's classes are matched to the labels by name, and its logits are normalised (log-softmax) before the
    mean. What a softmax makes of the mean is the same with and without, at every temperature, since a constant added to
    a row's logits changes no probability; but then a loss on the logits themselves sees no teacher's own constant.
    A mean of log-probabilities is the logarithmic opinion pool (Hinton 2002, "Training Products of Experts by
    Minimizing Contrastive Divergence", compares it with the mean of probabilities).

    The table says that the texts were read as the first teacher reads them, names every teacher, and says like theirs
    how many texts were left out.

    Args:
        tables: Parquet files as `write_logits` makes them, of the same texts in the same order.

    Raises:
        InputError: a teacher's classes are not the task's, or a table does not say what made it.
        ValueError: the tables are not of the same texts.
    """
    first, *further = map(TableProvenance.read, tables)
    left_out = pq.read_schema(tables[0]).metadata.get(b"left_out", b"0")
    teachers = itertools.chain(first.teachers, *(each.teachers for each in further))
    schema = replace(first, teachers=tuple(teachers)).of_schema(
        pa.schema(
            [pa.field("key", pa.binary(KEY_BYTES)), pa.field("logits", pa.list_(pa.float32(), len(task.labels)))],
            metadata={"labels": "\n".join(task.labels), "left_out": left_out},
        )
    )
    with ExitStack() as stack:
        files = [stack.enter_context(pq.ParquetFile(table)) for table in tables]
        writer = stack.enter_context(pq.ParquetWriter(stack.enter_context(whole_file(path)), schema))
        for chunks in zip(*(file.iter_batches(ROWS_PER_CHUNK) for file in files), strict=True):
            if any(not chunk["key"].equals(chunks[0]["key"]) for chunk in chunks):
                raise ValueError("the teachers' logits are not of the same texts: materialize them again")
            mean = np.mean([_normalised(chunk, task) for chunk in chunks], axis=0, dtype=np.float64)
            flat = pa.array(mean.astype(np.float32).ravel())
            logits = pa.FixedSizeListArray.from_arrays(flat, len(task.labels))
            writer.write_table(pa.table([chunks[0]["key"], logits], schema=schema))


def _normalised(chunk: pa.RecordBatch, task: Task) -> np.ndarray:
    """Return log-probabilities over the task's labels: float64, (rows, labels)."""
    labels = chunk.schema.metadata[b"labels"].decode().split("\n")
    logits = chunk["logits"].flatten().to_numpy().reshape(len(chunk), len(labels))
    return log_softmax(task_logits(logits, task, labels).astype(np.float64), axis=1)
