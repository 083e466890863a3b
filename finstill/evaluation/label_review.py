"""Labels that look wrong: those that the teacher and a cross-fitted classifier contradict with confidence."""

from __future__ import annotations

import csv
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cleanlab.filter import find_label_issues
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from finstill.config.task import Task
from finstill.corpus.text import words
from finstill.files import whole_file
from finstill.serving.growing_table import read_scores
from finstill.training.rows import training_rows

logger = logging.getLogger(__name__)

FOLDS = 5

RANKED_BY = ("teacher", "cross_fitted")
"""Whose mean decides which labels are doubted. A student repeats its teacher: it is shown, and finds no more."""

CARRIED = ["text", "split", "source", "id", "date"]
"""Columns of the corpus that a row of the review has too."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t")
"""A cell that begins with one of these is a formula to a spreadsheet."""


@dataclass(frozen=True)
class Opinion:
    """What a classifier says of labelled texts.

    Attributes:
        probabilities: float64, (texts, labels).
        in_sample: bool, (texts,): whether it had learned from the text's label.
    """

    probabilities: np.ndarray
    in_sample: np.ndarray


def opinions_of(
    corpus: Path, tokens: Path, teacher_logits: Path, scores: Path, task: Task, *, teacher_learned_from: Sequence[str]
) -> tuple[pa.Table, dict[str, Opinion]]:
    """Return the labelled texts of a corpus, in its order, and what each classifier says of them.

    Texts of which an imported teacher has no row are left out. The student learned from the train rows, from their
    labels or from a teacher that did.

    Args:
        corpus, tokens, teacher_logits: Parquet files as `training_rows` takes them.
        scores: folder of what the student in service says of the corpus's texts.
        teacher_learned_from: splits whose labels the teacher has learned from.

    Raises:
        InputError: the files do not belong together; names the asset to materialize again.
    """
    texts = pq.read_table(corpus)
    splits = texts["split"].to_numpy()
    logits, with_logits = np.empty((len(texts), len(task.labels)), np.float32), np.zeros(len(texts), bool)
    for rows in training_rows(corpus, tokens, task, teacher_logits).values():
        at = rows.places_among(texts["text"])
        logits[at], with_logits[at] = rows.whole_texts().teacher_logits, True
    kept = pc.is_valid(texts["label"]).to_numpy() & with_logits
    texts = texts.filter(pa.array(kept))
    student, _ = read_scores(scores, texts["key"], task.labels)
    labels = _numbers(texts, task.labels)
    return texts, {
        "teacher": Opinion(
            softmax(logits[kept].astype(np.float64), axis=1), np.isin(splits[kept], teacher_learned_from)
        ),
        "student": Opinion(student, splits[kept] == "train"),
        "cross_fitted": cross_fitted(texts["text"].to_pylist(), labels, len(task.labels)),
    }


def cross_fitted(texts: Sequence[str], labels: np.ndarray, classes: int) -> Opinion:
    """Return what a classifier says of each text that has learned from other texts alone.

    It is a logistic regression on the TF-IDF weights of words and pairs of words, fitted once for each fold on all
    others. To fine-tune a teacher for each of five folds would take four times what the teacher takes.

    Args:
        texts: in the order of their keys: these are hashes, so rows that follow each other are a random fold.
        labels: int64, (texts,).
        classes: number of the task's labels. One that no text has is of probability 0. Where the texts are too few to
            learn from in each fold, all are as probable.
    """
    out_of_sample, probabilities = np.zeros(len(labels), dtype=bool), np.full((len(labels), classes), 1 / classes)
    *_, second, commonest = np.sort(np.bincount(labels, minlength=classes))
    if commonest < FOLDS or second < 2:
        return Opinion(probabilities, out_of_sample)
    model = make_pipeline(
        TfidfVectorizer(tokenizer=words, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=3, max_iter=1000),
    )
    logger.info("label_review: fits a classifier of words on %s labelled texts, %s times", f"{len(texts):,}", FOLDS)
    with warnings.catch_warnings():
        # Of a class with fewer texts than folds: some of them do not know it then.
        warnings.simplefilter("ignore", UserWarning)
        found = cross_val_predict(model, texts, labels, cv=StratifiedKFold(FOLDS), method="predict_proba")
    probabilities[:] = 0
    probabilities[:, np.unique(labels)] = found
    return Opinion(probabilities, out_of_sample)


def doubted(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the positions of the texts whose label looks wrong, int64, the most doubtful first.

    Confident learning (Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", prune by
    class): where another label is as probable as it is on average on the texts that have it, the given one counts as
    wrong. This estimates how many texts of each label are wrong, and that many are doubted: those in which the given
    label is least probable, and not the most probable one.

    Args:
        labels: int64, (texts,).
        probabilities: float64, (texts, labels).
    """
    return find_label_issues(
        labels, probabilities, filter_by="prune_by_class", return_indices_ranked_by="self_confidence", n_jobs=1
    )


def review(texts: pa.Table, opinions: Mapping[str, Opinion], task_labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each text whose label looks wrong by the mean of `RANKED_BY`, the most doubtful first.

    Returns:
        Rows with an empty `label` for a person to fill in, the given and the suggested label, what the corpus says of
        the text, and of each classifier the probabilities of both labels and whether it is in sample.
    """
    if not len(texts):
        return []
    labels = _numbers(texts, task_labels)
    mean = np.mean([opinions[name].probabilities for name in RANKED_BY], axis=0)
    chosen = doubted(labels, mean)
    rows = []
    for position, text in zip(chosen.tolist(), texts.take(chosen).to_pylist(), strict=True):
        given, suggested = labels[position], mean[position].argmax()
        row = {"label": "", "given_label": task_labels[given], "suggested_label": task_labels[suggested]}
        row |= {name: text[name] for name in CARRIED}
        for name, opinion in opinions.items():
            row[f"{name}_given"] = float(opinion.probabilities[position, given])
            row[f"{name}_suggested"] = float(opinion.probabilities[position, suggested])
            row[f"{name}_sample"] = "in sample" if opinion.in_sample[position] else "out of sample"
        rows.append(row | {"key": text["key"].hex()})
    return rows


def write_review(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a review to `path` as CSV that spreadsheets open, whole or not at all.

    It is UTF-8 with a byte-order mark, without which they take it for another encoding, and what they would take for a
    formula stands behind an apostrophe.
    """
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["label", "key"])
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _numbers(texts: pa.Table, task_labels: Sequence[str]) -> np.ndarray:
    return pc.index_in(texts["label"], pa.array(task_labels)).to_numpy().astype(np.int64)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
