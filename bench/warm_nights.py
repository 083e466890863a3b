"""Ten nights of headlines: a student that starts from last night's, beside one that is trained anew.

    python bench/warm_nights.py [--quick] [--json FILE]

The labelled rows are Financial PhraseBank's, the teacher is the embedded encoder fine-tuned on its train rows. The
corpus begins with the older headlines; each night brings the next ones by date. The warm student starts every night
from the one before, as the champion. Trained anew, on the same rows and by the same recipe, is a student on the first
night and on the last.

`warm_night_cost` is the median of a night's training seconds over those of training anew on the last night.
`warm_night_macro_f1_lost` is the macro-F1 on `test` of the student trained anew on the last night less that of the warm
one after it, in points, both in float32; the mean over the seeds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from machine import describe_machine, read_arguments, read_shared, report
from taught import distil, student_logits, teach, write_corpus_of

from finstill.config.architectures import LstmAttentionConfig
from finstill.config.profile import FineTuning
from finstill.config.recipe import Recipe
from finstill.config.task import SENTIMENT
from finstill.config.workspace import Workspace
from finstill.corpus.text import normalise
from finstill.metrics import macro_f1
from finstill.training.rows import NO_LABEL, TrainingRows

GOALS = {"warm_night_cost": "at most 0.2", "warm_night_macro_f1_lost": "at most 0.5 points"}

NIGHTS = 10
RECIPE = Recipe(
    architecture=LstmAttentionConfig(
        checkpoint="embedded", embedding="output", embedding_width=192, vocabulary="corpus", dropout=0.15
    ),
    alpha=0.9,
    epochs=4,
    batch_size=64,
    average_last=0.3,
    start_from="champion",
)


def main() -> None:
    arguments = read_arguments(__doc__)
    seeds, older, a_night, epochs = (1, 4_000, 200, 2) if arguments.quick else (3, 20_000, 1_000, 4)
    with tempfile.TemporaryDirectory(prefix="finstill-bench-") as name:
        files = Workspace(Path(name))
        rows, headlines = make_rows(files, older + NIGHTS * a_night, FineTuning(epochs=epochs))
        found = (nights(files, rows, headlines, older, a_night, seed) for seed in range(seeds))
        costs, lost = zip(*found, strict=True)
    figures = {
        "warm_night_cost": float(np.mean(costs)),
        "warm_night_macro_f1_lost": 100 * float(np.mean(lost)),
    }
    report(figures, GOALS, describe_machine("torch"), arguments.json)


def make_rows(files: Workspace, headlines: int, tuning: FineTuning) -> tuple[dict[str, TrainingRows], np.ndarray]:
    """Return the rows of each split with the teacher's logits, and the headlines' positions in `train`, by date."""
    labelled = read_shared("financial_phrasebank").select(["text", "label", "split"])
    texts = read_shared("business_headlines").sort_by("date")["text"][:headlines].combine_chunks()
    write_corpus_of(files, labelled, texts, SENTIMENT)
    rows = teach(files, SENTIMENT, tuning)
    known = rows["train"].texts
    assert known is not None
    found = pc.index_in(pa.array([normalise(text) for text in texts.to_pylist()]), known.cast(pa.string()))
    return rows, found.drop_null().unique().to_numpy()


def nights(
    files: Workspace, rows: dict[str, TrainingRows], headlines: np.ndarray, older: int, a_night: int, seed: int
) -> tuple[float, float]:
    """Return the cost of a night as a share of training anew, and the macro-F1 lost after the last one."""
    train = rows["train"]
    labelled = np.flatnonzero(train.labels != NO_LABEL)
    recipe, seconds = RECIPE.model_copy(update={"seed": seed}), []
    warm, anew = (files.root / "students" / f"{kind}-{seed}" / "student" for kind in ("warm", "anew"))
    for night in range(NIGHTS + 1):
        seen = np.sort(np.concatenate([labelled, headlines[: older + night * a_night]]))
        seconds.append(timed(files, recipe, {**rows, "train": train.at(seen)}, warm, warm))
    whole = timed(files, recipe, {**rows, "train": train.at(seen)}, anew, None)
    test = rows["test"]
    scores = [macro_f1(test.labels, student_logits(folder, test)) for folder in (anew, warm)]
    print(f"seed {seed}: nights {[round(each) for each in seconds]} s, anew {whole:.0f} s; macro-F1 {scores}")
    return median(seconds[1:]) / whole, scores[0] - scores[1]


def timed(
    files: Workspace, recipe: Recipe, rows: Mapping[str, TrainingRows], folder: Path, champion: Path | None
) -> float:
    started = time.perf_counter()
    distil(recipe, files, rows, SENTIMENT, folder, starts=files.starts, champion=champion)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
