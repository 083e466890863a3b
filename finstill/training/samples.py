"""The texts of a corpus on which a new teacher is looked at before it labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from finstill.corpus.token_ids import TokenIds
from finstill.corpus.tokenizer import read_tokenizer
from finstill.inference.session import OnnxClassifier
from finstill.teacher.export import TeacherGraph
from finstill.training.rows import NO_LABEL, TrainingRows

ANSWERED_TEXTS = 256
"""Labelled texts on which the possible mappings of a teacher's classes are compared."""


def rows_not_learned(rows: Mapping[str, TrainingRows], count: int) -> TokenIds:
    """Return the token ids of at most `count` rows, evenly spaced over those that a fine-tuning does not learn from.

    These are validation, test and what has no label; where there are none, all rows. A teacher is sure of the rows that
    it knows by heart, and a rounding that changes its class of other texts leaves theirs.

    Args:
        rows: of each split.
    """
    unlabelled = np.flatnonzero(rows["train"].labels == NO_LABEL)
    kept = [rows["validation"].input_ids, rows["test"].input_ids, rows["train"].input_ids.at(unlabelled)]
    return (TokenIds.joined(kept) if any(map(len, kept)) else rows["train"].input_ids).spaced(count)


def labelled_answers(
    rows: Mapping[str, TrainingRows], teacher: TeacherGraph, token_budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of some labelled texts and what a teacher's float32 graph says of each, its windows together.

    They are the first `ANSWERED_TEXTS` of validation and, where these are fewer, of train too. The teacher reads them
    by its own tokenizer, whichever one the rows were made with.

    Args:
        rows: of each split.
        token_budget: tokens of one batch, padding included.

    Returns:
        int64, (texts,); float32, (texts, the teacher's classes). No texts where none has a label.
    """
    tokenizer, graph = read_tokenizer(teacher.folder), OnnxClassifier(teacher.float32_graph)
    labels, logits = [np.empty(0, np.int64)], [np.empty((0, len(teacher.labels)), np.float32)]
    for split in ("validation", "train"):
        labelled = rows[split].labelled()
        count = min(len(labelled.whole_texts()), ANSWERED_TEXTS - sum(map(len, labels)))
        if count:
            sample = labelled.texts_at(np.arange(count))
            sample = sample.read_by(tokenizer, teacher.max_length)
            labels.append(sample.whole_texts().labels)
            logits.append(sample.over_texts(graph.logits(sample.input_ids, token_budget)))
    return np.concatenate(labels), np.concatenate(logits)
