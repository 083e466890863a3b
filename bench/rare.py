"""A risk that one text in fifty bears: what class weights, a threshold and distilling are each worth.

    python bench/rare.py [--quick] [--json FILE]

The labelled rows are Financial PhraseBank's, with negative as `risk`. So many risks are left out of the train and
validation rows that one row in fifty is one. The teacher is the embedded encoder, fine-tuned on what is left: nobody
here has seen more risks than a desk would have. Students of one LSTM learn from the labels alone or from the teacher
too, which labels unlabelled Reuters sentences beside the rows; each with and without `class_weights: balanced`.

Recall and precision are of the class `risk` on `test`. All its risks count, since one in fifty of so few rows would be
some twenty, and are weighed so that they are one in fifty. A threshold is chosen on `validation`: the one of most
recall at a precision of at least one half.

`rare_recall_at_half_precision` is the recall of the distilled student with class weights at the best threshold of
`test` itself, so it tells how well risks are ranked; the mean over the seeds, as every figure.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from joblib import Parallel, cpu_count, delayed
from machine import describe_machine, draw_rows, read_arguments, read_shared, report
from sklearn.metrics import precision_recall_curve, precision_score, recall_score
from taught import distil, student_logits, teach, write_corpus_of

from finstill.config.architectures import LstmAttentionConfig
from finstill.config.profile import FineTuning
from finstill.config.recipe import Recipe
from finstill.config.task import RISK
from finstill.config.workspace import Workspace
from finstill.training.rows import TrainingRows

GOALS = {"rare_recall_at_half_precision": "above the baseline's"}

SHARE = 0.02
LEAST_PRECISION = 0.5
DISTILLED = Recipe(
    architecture=LstmAttentionConfig(embedding_width=128, hidden_width=64, layers=2, vocabulary="corpus"),
    epochs=6,
    batch_size=64,
)
RECIPES = {
    "baseline": DISTILLED.model_copy(update={"alpha": 0.0}),
    "baseline_weighted": DISTILLED.model_copy(update={"alpha": 0.0, "class_weights": "balanced"}),
    "distilled": DISTILLED,
    "distilled_weighted": DISTILLED.model_copy(update={"class_weights": "balanced"}),
}


def main() -> None:
    arguments = read_arguments(__doc__)
    seeds, sentences, epochs = (1, 5_000, 2) if arguments.quick else (5, 50_000, 4)
    with tempfile.TemporaryDirectory(prefix="finstill-bench-") as name:
        files = Workspace(Path(name))
        rows = make_rows(files, sentences, FineTuning(epochs=epochs))
        print({split: np.bincount(each.labelled().labels).tolist() for split, each in rows.items()})
        runs = Parallel(n_jobs=cpu_count())(
            delayed(scores)(files, rows, name, seed) for name in RECIPES for seed in range(seeds)
        )
    answers = {"teacher": [{split: risk(rows[split].teacher_logits) for split in ("validation", "test")}]}
    answers |= {name: runs[i * seeds : (i + 1) * seeds] for i, name in enumerate(RECIPES)}
    measured = {name: [measure(rows, each) for each in seeds_of] for name, seeds_of in answers.items()}
    means = {
        name: {key: float(np.mean([each[key] for each in found])) for key in found[0]}
        for name, found in measured.items()
    }
    for name, figures in means.items():
        print(f"{name:<20}", ", ".join(f"{key} {value:.3f}" for key, value in figures.items()))
    best = "recall_at_half_precision"
    figures = {f"rare_{best}": means["distilled_weighted"][best]}
    figures |= {f"{key}_of_{name}": value for name, found in means.items() for key, value in found.items()}
    report(figures, GOALS, describe_machine("torch"), arguments.json)


def make_rows(files: Workspace, sentences: int, settings: FineTuning) -> dict[str, TrainingRows]:
    """Return the rows of each split with the teacher's logits, risks being rare among those to learn from."""
    bank = read_shared("financial_phrasebank").select(["text", "label", "split"])
    kept = [thinned(bank.filter(pc.equal(bank["split"], split))) for split in ("train", "validation")]
    kept.append(bank.filter(pc.equal(bank["split"], "test")))
    texts = draw_rows(read_shared("reuters_sentences"), sentences)["text"].combine_chunks()
    names = {"negative": "risk", "neutral": "no_risk", "positive": "no_risk"}
    write_corpus_of(files, pa.concat_tables(kept), texts, RISK, names)
    return teach(files, RISK, settings)


def thinned(rows: pa.Table) -> pa.Table:
    """Return the rows with so few of the negative ones that these are `SHARE` of all."""
    negative = pc.equal(rows["label"], "negative")
    others = rows.filter(pc.invert(negative))
    return pa.concat_tables([others, draw_rows(rows.filter(negative), round(len(others) * SHARE / (1 - SHARE)))])


def scores(files: Workspace, rows: dict[str, TrainingRows], name: str, seed: int) -> dict[str, np.ndarray]:
    """Train a student, and return the log-odds of a risk that it gives the rows it is measured on, by split."""
    folder = files.root / "students" / f"{name}-{seed}" / "student"
    distil(RECIPES[name].model_copy(update={"seed": seed}), files, rows, RISK, folder)
    return {split: risk(student_logits(folder, rows[split])) for split in ("validation", "test")}


def risk(logits: np.ndarray | None) -> np.ndarray:
    """Return the log-odds of a risk: float32, (rows,)."""
    assert logits is not None
    return logits[:, RISK.labels.index("risk")] - logits[:, RISK.labels.index("no_risk")]


def measure(rows: dict[str, TrainingRows], odds: dict[str, np.ndarray]) -> dict[str, float]:
    """Return recall and precision of the risks of `test`, at even odds and at the threshold of `validation`."""
    truth = {split: rows[split].labels == RISK.labels.index("risk") for split in odds}
    test = truth["test"]
    weights = np.where(test, SHARE / (1 - SHARE) * (~test).sum() / test.sum(), 1.0)
    recall, _ = best_threshold(test, odds["test"], weights)
    _, threshold = best_threshold(truth["validation"], odds["validation"], None)
    figures = {"recall_at_half_precision": recall}
    for key, limit in (("even_odds", 0.0), ("chosen_threshold", threshold)):
        predicted = odds["test"] >= limit
        figures[f"recall_at_{key}"] = float(recall_score(test, predicted, sample_weight=weights))
        figures[f"precision_at_{key}"] = float(precision_score(test, predicted, sample_weight=weights, zero_division=0))
    return figures


def best_threshold(truth: np.ndarray, odds: np.ndarray, weights: np.ndarray | None) -> tuple[float, float]:
    """Return the most recall that a threshold gives at a precision of one half or more, and the threshold."""
    precision, recall, thresholds = precision_recall_curve(truth, odds, sample_weight=weights)
    # The curve ends at precision 1 and recall 0, which no threshold gives.
    allowed = np.flatnonzero(precision[:-1] >= LEAST_PRECISION)
    if not len(allowed):
        return 0.0, np.inf
    best = allowed[recall[allowed].argmax()]
    return float(recall[best]), float(thresholds[best])


if __name__ == "__main__":
    main()
