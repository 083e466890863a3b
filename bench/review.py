"""Flipped labels in Financial PhraseBank: how many of them stand at the top of the review.

    python bench/review.py [--quick] [--json FILE]

Of 5% of the train rows, and of 5% of the test rows, the label is changed to another one. The embedded encoder is
fine-tuned on the train rows, flipped ones included, and an LSTM learns from its logits and the same labels, as in a
deployment. Then every label is ranked by how much it is doubted, in each split apart. The data set's own doubtful
labels compete with the flips: half of the annotators of a sentence may have disagreed with its label.

`flips_found_in_first_5_percent` is the share of the flipped train rows among the first 5% of the train rows, ranked as
the asset label_review ranks them, and `held_out_...` the same of the test rows, which no classifier has learned: there
the teacher says what a published one or one crossed over folds would say. `by_...` is the share that others find in
train rows: single classifiers and means of some, by the probability of the given label; and the review's mean by
cleanlab's other scores and filters. `listed` is the share of the train rows that the review lists, and `flips_listed`
the share of the flips among them.

Artefacts stay in .finstill/review: a run that was stopped goes on from there. `--quick` fine-tunes for one epoch.
"""

from __future__ import annotations

import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from machine import describe_machine, read_arguments, read_shared, report
from scipy.special import softmax
from taught import distil, student_logits, teach

from finstill.config.architectures import LstmAttentionConfig
from finstill.config.profile import CorpusSource, FineTuning
from finstill.config.recipe import Recipe
from finstill.config.task import SENTIMENT
from finstill.config.workspace import Workspace
from finstill.corpus.build import build_corpus
from finstill.corpus.sources import read_rows
from finstill.evaluation.label_review import RANKED_BY, cross_fitted, doubted

GOALS = {"flips_found_in_first_5_percent": "at least 0.6"}

FOLDER = Path(__file__).resolve().parents[1] / ".finstill" / "review"

SHARE = 0.05
RECIPE = Recipe(architecture=LstmAttentionConfig(vocabulary="corpus"), alpha=0.9, epochs=6, batch_size=32)


def main() -> None:
    arguments = read_arguments(__doc__)
    files = Workspace(FOLDER / ("quick" if arguments.quick else "full"))
    texts, flipped = flip(files)
    logits = make_logits(files, FineTuning(epochs=1) if arguments.quick else FineTuning())
    labels = pc.index_in(texts["label"], pa.array(SENTIMENT.labels)).to_numpy().astype(np.int64)
    started = time.perf_counter()
    opinions = {name: softmax(each.astype(np.float64), axis=1) for name, each in logits.items()}
    opinions["cross_fitted"] = cross_fitted(texts["text"].to_pylist(), labels, len(SENTIMENT.labels)).probabilities
    mean = np.mean([opinions[name] for name in RANKED_BY], axis=0)
    listed = np.zeros(len(labels), dtype=bool)
    listed[doubted(labels, mean)] = True
    figures = {"review_seconds": time.perf_counter() - started}
    split = texts["split"].to_numpy()
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")

    def found(rows: np.ndarray, probabilities: np.ndarray) -> float:
        own = probabilities[rows, labels[rows]]
        return first(rows[np.argsort(own, kind="stable")], rows)

    def first(ranked: np.ndarray, rows: np.ndarray) -> float:
        return flipped[ranked[: round(SHARE * len(rows))]].sum() / flipped[rows].sum()

    figures |= {
        "flips_found_in_first_5_percent": found(train, mean),
        "held_out_flips_found_in_first_5_percent": found(test, mean),
        "listed": listed[train].mean(),
        "flips_listed": listed[train][flipped[train]].mean(),
    }
    for count in range(1, len(opinions) + 1):
        for names in combinations(opinions, count):
            some = np.mean([opinions[name] for name in names], axis=0)
            figures["by_" + "_and_".join(names)] = found(train, some)
            figures["held_out_by_" + "_and_".join(names)] = found(test, some)
    for method in ("normalized_margin", "confidence_weighted_entropy"):
        scores = get_label_quality_scores(labels[train], mean[train], method=method)
        figures[f"by_{method}"] = first(train[np.argsort(scores, kind="stable")], train)
    for adjusted in ("self_confidence", "normalized_margin"):
        scores = get_label_quality_scores(labels[train], mean[train], method=adjusted, adjust_pred_probs=True)
        figures[f"by_adjusted_{adjusted}"] = first(train[np.argsort(scores, kind="stable")], train)
    for rule in ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given"):
        ranked = find_label_issues(
            labels[train], mean[train], filter_by=rule, return_indices_ranked_by="self_confidence", n_jobs=1
        )
        figures[f"by_filter_{rule}"] = first(train[ranked], train)
        figures[f"listed_by_{rule}"] = len(ranked) / len(train)
        figures[f"flips_listed_by_{rule}"] = flipped[train[ranked]].sum() / flipped[train].sum()
    report(figures, GOALS, describe_machine("torch", "sklearn", "cleanlab"), arguments.json)


def flip(files: Workspace) -> tuple[pa.Table, np.ndarray]:
    """Write the corpus with its flipped labels, and return it and which of its labels are flipped."""
    table = read_shared("financial_phrasebank").select(["text", "label", "split"])
    labels, split = np.array(table["label"].to_pylist()), table["split"].to_numpy()
    random = np.random.default_rng(0)
    chosen: list[int] = []
    for name in ("train", "test"):
        of_split = np.flatnonzero(split == name)
        some = random.choice(of_split, round(SHARE * len(of_split)), replace=False).tolist()
        for row in some:
            labels[row] = random.choice([label for label in SENTIMENT.labels if label != labels[row]])
        chosen += some
    files.root.mkdir(parents=True, exist_ok=True)
    source = files.root / "source.parquet"
    pq.write_table(table.set_column(1, "label", pa.array(labels)), source)
    rows = read_rows(CorpusSource(path=str(source), label="label", split="split"))
    corpus, _ = build_corpus(rows, SENTIMENT.labels, {})
    pq.write_table(corpus, files.corpus)
    return corpus, pc.is_in(corpus["text"], table["text"].take(chosen).combine_chunks()).to_numpy()


def make_logits(files: Workspace, tuning: FineTuning) -> dict[str, np.ndarray]:
    """Return what teacher and student say of each text, in the corpus's order."""
    rows = teach(files, SENTIMENT, tuning)
    folder = files.student("lstm")
    distil(RECIPE, files, rows, SENTIMENT, folder, starts=files.starts)
    splits = pq.read_table(files.corpus, columns=["split"])["split"].to_numpy()
    logits = {name: np.empty((len(splits), len(SENTIMENT.labels)), np.float32) for name in ("teacher", "student")}
    for split, of_split in rows.items():
        logits["teacher"][splits == split] = of_split.teacher_logits
        logits["student"][splits == split] = student_logits(folder, of_split)
    return logits


if __name__ == "__main__":
    main()
