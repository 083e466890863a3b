"""Labels that look wrong: those that teacher, student and a cross-fitted classifier contradict with confidence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from cleanlab.filter import find_label_issues
from scipy.special import softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from finstill.corpus.text import words
from finstill.files import whole_file
from finstill.training.rows import NO_LABEL, TrainingRows

FOLDS = 5

SAMPLES = pa.array(["out of sample", "in sample"])
"""Whether a classifier had learned from a text's label when it read the text."""


def cross_fitted(texts: Sequence[str], labels: np.ndarray, classes: int) -> np.ndarray:
    """Return what a classifier says of each text that has learned from the other texts alone.

    A logistic regression on the TF-IDF weights of words and pairs of words, fitted once for each of five folds on the
    other four. It costs seconds, where to fine-tune a teacher for each fold would cost four times the teacher.

    Args:
        texts: in the order of their keys, which are hashes: so that folds of rows that follow each other are random.
        labels: int64, (rows,); each class occurs `FOLDS` times at least, or the texts are left to the teacher.

    Returns:
        Probabilities, float64, (rows, classes).
    """
    model = make_pipeline(
        TfidfVectorizer(tokenizer=words, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=3, max_iter=1000),
    )
    return cross_val_predict(model, texts, labels, cv=StratifiedKFold(FOLDS), method="predict_proba")
