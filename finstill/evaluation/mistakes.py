"""The worst mistakes of each student, with what it looked at and what the others said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from finstill.config.recipe import Recipe
from finstill.corpus.text import normalise
from finstill.evaluation.evaluate import StudentEvaluation
from finstill.serving import StudentClassifier
from finstill.serving.package import Package
from finstill.training.rows import NO_LABEL

ALARMS = ("risk", "negative")
"""Labels that warn: to give one wrongly is a false alarm, to miss it is a missed risk."""

OF_A_KIND = 3


@dataclass(frozen=True)
class Word:
    """A word of a text, what stands before it, and its attention as a share of the largest in the text."""

    before: str
    text: str
    shade: float


@dataclass(frozen=True)
class Mistake:
    """A test text that a student is wrong on.

    Attributes:
        kind: `false alarm`, `missed risk`, or `mistake` where neither label warns.
        said: by `student`, `teacher` and, where there is one, `baseline`: the label and its probability.
    """

    kind: str
    truth: str
    words: list[Word]
    said: dict[str, tuple[str, float]]


def worst_mistakes(
    students: Mapping[str, StudentEvaluation],
    packages: Mapping[str, Package],
    recipes: Mapping[str, Recipe],
    texts: Sequence[str],
) -> dict[str, list[Mistake]]:
    """Return, for each distilled student, the three mistakes of each kind that it is surest of.

    Args:
        students, packages: by recipe name.
        texts: of the test split, in the order of the evaluations.
    """
    return {
        name: _of_one(name, students, packages[name], recipes, texts)
        for name, recipe in recipes.items()
        if name in students and recipe.alpha > 0
    }


def _of_one(
    name: str,
    students: Mapping[str, StudentEvaluation],
    package: Package,
    recipes: Mapping[str, Recipe],
    texts: Sequence[str],
) -> list[Mistake]:
    evaluation, labels = students[name], package.labels
    baseline = next((baseline for baseline in students if recipes[baseline].is_baseline_of(recipes[name])), None)
    logits = {"student": evaluation.logits, "teacher": evaluation.teacher_logits}
    if baseline is not None:
        logits["baseline"] = students[baseline].logits
    shares = {who: softmax(scores.astype(np.float64), axis=1) for who, scores in logits.items()}
    predicted = shares["student"].argmax(axis=1)
    wrong = np.flatnonzero((evaluation.labels != NO_LABEL) & (predicted != evaluation.labels))
    margins = shares["student"][wrong, predicted[wrong]] - shares["student"][wrong, evaluation.labels[wrong]]
    chosen: dict[str, list[int]] = {}
    for row in wrong[np.argsort(-margins, kind="stable")].tolist():
        kind = _kind(labels[evaluation.labels[row]], labels[predicted[row]])
        if len(chosen.setdefault(kind, [])) < OF_A_KIND:
            chosen[kind].append(row)
    classifier = StudentClassifier(package.folder)
    ordered = [(kind, row) for kind, rows in sorted(chosen.items()) for row in rows]
    explained = classifier.score([texts[row] for _, row in ordered], explain=True, of_corpus=True)
    return [
        Mistake(
            kind,
            labels[evaluation.labels[row]],
            _shaded(normalise(texts[row]), score.attention or ()),
            {who: (labels[int(each[row].argmax())], float(each[row].max())) for who, each in shares.items()},
        )
        for (kind, row), score in zip(ordered, explained, strict=True)
    ]


def _kind(truth: str, predicted: str) -> str:
    if predicted in ALARMS:
        return "false alarm"
    return "missed risk" if truth in ALARMS else "mistake"


def _shaded(text: str, attention: Iterable[tuple[str, float]]) -> list[Word]:
    attention = list(attention)
    largest = max((weight for _, weight in attention), default=0.0)
    words, position = [], 0
    for word, weight in attention:
        # A tokenizer may make two words of one character: the second stands where the first does.
        start = max(text.find(word, position), position)
        words.append(Word(text[position:start], word, weight / largest if largest else 0.0))
        position = start + len(word)
    return words
