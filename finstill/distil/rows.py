"""The rows a student or a teacher learns from, joined from the tables of the stages before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finstill.corpus.splits import SPLITS
from finstill.distil.loss import NO_LABEL
from finstill.tasks import Task, task_logits
from finstill.tokens import text_positions
from finstill.training import TrainingRows, WindowsOfTexts


def training_rows(
    corpus: Path, tokens: Path, task: Task, teacher_logits: Path | None = None
) -> dict[str, TrainingRows]:
    """Return the rows of each split, in the corpus's order; those without a label count through their soft labels.

    Args:
        corpus: Parquet file of one row a text.
        tokens: Parquet file of one row a window of a text, in the corpus's order.
        teacher_logits: Parquet file of a row for each of `tokens`, in their order.
        task: gives labels their numbers, and the teacher's classes their labels.

    Raises:
        ValueError: the tables are not of the same corpus: one was made again and the others were not.
    """
    columns = pq.read_table(corpus, columns=["key", "label", "split"])
    ids = pq.read_table(tokens, columns=["key", "text_key", "input_ids", "size"])
    texts = text_positions(columns["key"], ids["text_key"], tokens)
    labels = pc.index_in(columns["label"], pa.array(task.labels)).fill_null(NO_LABEL).to_numpy().astype(np.int64)
    logits = None
    if teacher_logits is not None:
        table = pq.read_table(teacher_logits)
        _require_same_rows(ids, table, teacher_logits)
        logits = _task_logits(table, task)
    windows = None if len(texts) == len(columns) else WindowsOfTexts(texts, ids["size"].to_numpy().astype(np.int64))
    rows = TrainingRows(ids["input_ids"].to_pylist(), labels[texts], logits, windows)
    splits = columns["split"].to_numpy()[texts]
    return {split: rows.at(np.flatnonzero(splits == split)) for split in SPLITS}


def with_augmented(train: TrainingRows, augmented: Path, augmented_logits: Path, task: Task) -> TrainingRows:
    """Return the rows of `train` and, after them, those of the augmented corpus: rows without a label.

    Args:
        train: with teacher logits over the task's labels.
        augmented, augmented_logits: Parquet files of one row a text, in the same order.

    Raises:
        ValueError: the tables do not belong together: one was made again and the other was not.
    """
    assert train.teacher_logits is not None
    texts, logits = pq.read_table(augmented, columns=["key", "input_ids"]), pq.read_table(augmented_logits)
    _require_same_rows(texts, logits, augmented_logits)
    return TrainingRows(
        train.input_ids + texts["input_ids"].to_pylist(),
        np.concatenate([train.labels, np.full(len(texts), NO_LABEL)]),
        np.concatenate([train.teacher_logits, _task_logits(logits, task)]),
    )


def read_teacher_labels(schema: pa.Schema) -> list[str]:
    """Return the class names that stand in the metadata of a table of teacher logits."""
    return schema.metadata[b"labels"].decode().split("\n")


def _task_logits(table: pa.Table, task: Task) -> np.ndarray:
    """Return the logits of a table of teacher logits over the task's labels: float32, (rows, labels)."""
    teacher_labels = read_teacher_labels(table.schema)
    flat = table["logits"].combine_chunks().flatten().to_numpy()
    return task_logits(flat.reshape(len(table), len(teacher_labels)), task, teacher_labels)


def _require_same_rows(texts: pa.Table, other: pa.Table, path: Path) -> None:
    if not texts["key"].equals(other["key"]):
        raise ValueError(f"{path.name} is not of these texts: materialize it again")
